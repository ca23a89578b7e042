"""A dataset on one page: what came of it, its scores, and pictures to look at."""
