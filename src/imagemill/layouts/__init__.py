"""Ways to write a dataset for other tools: one a file, reached by name."""
