"""One score a file; each is found by name."""
