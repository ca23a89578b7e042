"""What the gallery shows: views of datasets, thumbnails, and images that look alike."""

from imagemill.server.web.gallery.thumbnails import PICTURE_HEADERS, Thumbnails, open_file
from imagemill.server.web.gallery.views import (
    Asked,
    Gone,
    ImageId,
    Selected,
    Selection,
    View,
    Views,
    is_unsafe,
    thumbnail_url,
)

__all__ = [
    "PICTURE_HEADERS",
    "Asked",
    "Gone",
    "ImageId",
    "Selected",
    "Selection",
    "Thumbnails",
    "View",
    "Views",
    "is_unsafe",
    "open_file",
    "thumbnail_url",
]
