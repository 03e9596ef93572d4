"""`chiasm demo`: the whole path on one machine, without a GPU, a key or a network."""
