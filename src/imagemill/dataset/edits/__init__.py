"""What people decide of images, beside the dataset until it is applied: texts, keep or reject, ratings, tags."""

from imagemill.dataset.edits.columns import editable_columns
from imagemill.dataset.edits.editing import Conflict, Edits, Event, NotLast
from imagemill.dataset.edits.images import image_id, key_of
from imagemill.dataset.edits.state import DECISIONS, Edited, State

__all__ = [
    "DECISIONS",
    "Conflict",
    "Edited",
    "Edits",
    "Event",
    "NotLast",
    "State",
    "editable_columns",
    "image_id",
    "key_of",
]
