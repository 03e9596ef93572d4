"""What an operator can see of answers: metrics, traces, one line of the log each.  Begin with `watch`."""
