"""The dataset on disk: the only truth."""

from imagemill.dataset.folder import Counts, Dataset, Part

__all__ = ["Counts", "Dataset", "Part"]
