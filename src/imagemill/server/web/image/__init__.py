"""One image of a dataset: found by its id, and put into words for its page."""

from imagemill.server.web.image.locating import Located, locate
from imagemill.server.web.image.showing import (
    Carried,
    Shown,
    carried,
    decided,
    picture_url,
    pictures_of,
    recipe_of,
    shown,
    texts_of,
)

__all__ = [
    "Carried",
    "Located",
    "Shown",
    "carried",
    "decided",
    "locate",
    "picture_url",
    "pictures_of",
    "recipe_of",
    "shown",
    "texts_of",
]
