"""The verbs over a dataset: one a file."""
