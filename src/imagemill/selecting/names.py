"""Images by name, out of a text file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from imagemill.dataset.edits.images import IMAGE_ID, encode, id_of, key_of, key_of_name
from imagemill.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SHOWN = 5
_HINT = "name a text file, one image on a line"


class Names:
    """The images that a text file names, one on each line: by their files, with or without extension, or ids."""

    def __init__(self, path: str | Path) -> None:
        """Read a file; raises UsageError for one that cannot be read, or names what is no image."""
        self.path = Path(path)
        try:
            text = self.path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise UsageError(f"`{path}` cannot be read: {error.strerror}", _HINT) from None
        except ValueError:
            raise UsageError(f"`{path}` is not UTF-8 text", _HINT) from None
        lines = (line.strip() for line in text.splitlines())
        self.keys = list(dict.fromkeys(_key(line, path) for line in lines if line and not line.startswith("# ")))
        """The images' numbers."""
        if not self.keys:
            raise UsageError(f"`{path}` names nothing", _HINT)

    @property
    def sha256(self) -> str:
        """A hash of the images, in whatever order and way they are named."""
        return hashlib.sha256(repr(sorted(encode(self.keys).items())).encode()).hexdigest()

    def among(self, keys: NDArray[np.int64], folder: Path) -> NDArray[np.bool_]:
        """Which images of a dataset are named; raises UsageError for names of none."""
        import numpy as np

        named = np.fromiter(self.keys, np.int64, len(self.keys))
        if len(unknown := named[~np.isin(named, keys)]):
            shown = ", ".join(f"`{id_of(key)}`" for key in unknown[:_SHOWN].tolist())
            more = f" and {len(unknown) - _SHOWN:,} more" if len(unknown) > _SHOWN else ""
            raise UsageError(
                f"`{folder}` has no {shown}{more}, named in `{self.path}`",
                "removed since then? choose the images again, or take these lines out",
            )
        found: NDArray[np.bool_] = np.isin(keys, named)
        return found


def _key(line: str, path: str | Path) -> int:
    try:
        return key_of(line) if IMAGE_ID.fullmatch(line) else key_of_name(Path(line).name)
    except ValueError:
        raise UsageError(
            f"`{path}`: `{line:.80}` is not the name of an image", "names look like `prompt_7_image_1.png`, or `7-1`"
        ) from None
