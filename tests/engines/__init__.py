"""Chiasm between real engines: not part of `make test`, which needs nothing built; run by `make test-engines`."""
