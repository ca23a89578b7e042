"""Vectors of images, in a file for each part: too long for a line of metadata."""

from __future__ import annotations

import io
from collections.abc import Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.dataset.files import make_folder, write_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Vectors:
    """NumPy archives in `.imagemill/vectors/COLUMN`: `names`, (N,), and `vectors`, float16, (N, dimensions)."""

    def __init__(self, folder: Path, column: str) -> None:
        """Take the dataset's folder and the column that says which images have a vector."""
        self._folder = folder / ".imagemill" / "vectors" / column

    def read(self, part: str) -> tuple[list[str], NDArray[np.float16]]:
        """Names of images, without extension, and their vectors; none where the part has no file."""
        import numpy as np

        path = self._folder / f"{part}.npz"
        if not path.is_file():
            return [], np.zeros((0, 0), np.float16)
        with np.load(path, allow_pickle=False) as found:
            return list(map(str, found["names"])), found["vectors"]

    def write(self, part: str, vectors: Mapping[str, NDArray[Any]]) -> None:
        """Write the vectors of a part, atomically, in the place of those it had."""
        import numpy as np

        names = sorted(vectors)
        file = io.BytesIO()
        np.savez(file, names=np.array(names), vectors=np.stack([vectors[name] for name in names]).astype(np.float16))
        make_folder(self._folder)
        write_file(self._folder / f"{part}.npz", file.getvalue())

    def remove(self, part: str, gone: Container[str]) -> None:
        """Forget the vectors of images by name, without extension."""
        names, vectors = self.read(part)
        left = {name: vector for name, vector in zip(names, vectors, strict=True) if name not in gone}
        if left and len(left) < len(names):
            self.write(part, left)
        elif not left:
            (self._folder / f"{part}.npz").unlink(missing_ok=True)
