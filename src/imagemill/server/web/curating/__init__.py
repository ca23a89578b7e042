"""Many images at once: find and replace, new datasets, exports and their download."""
