"""What users send, and what they delete."""

from imagemill.server.web.uploads.receiving import receive
from imagemill.server.web.uploads.store import ACCEPTED, Upload, Uploads
from imagemill.server.web.uploads.trash import Item, Trash

__all__ = ["ACCEPTED", "Item", "Trash", "Upload", "Uploads", "receive"]
