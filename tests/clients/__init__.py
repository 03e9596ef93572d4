"""Real clients as referees: programs that people use, against the running service; see `run.sh` and docs/clients.md."""
