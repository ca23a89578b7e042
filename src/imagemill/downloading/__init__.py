"""What lies on the hub in the layout of DiffusionDB, fetched: parts, subsets, tables."""
