"""A choice among the images of a dataset: what is kept, why the rest is not, and how it is written."""
