"""Regions that somebody else found, from a file."""

import hashlib
from collections.abc import Hashable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from cliplet.data.names import NameIndex, image_name
from cliplet.data.tables import Row, is_json_lines, object_row, read_json, rows_of
from cliplet.errors import InputError
from cliplet.regions.base import Regions, clipped

_CORNERS = ("x0", "y0", "x1", "y1")


class FileRegions:
    """Boxes of photos by name.

    Understood are

    - COCO's detection results, ``[{"image_id": 1, "category_id": 18, "bbox": [x, y, w, h], "score": 0.9}, ...]``, and
      COCO's annotations (``images``, ``annotations``, ``categories``);
    - JSON lines or CSV with ``image``, ``x0``, ``y0``, ``x1``, ``y1`` and perhaps ``score`` and ``label``, in pixels of
      the upright photo; in JSON lines also ``"box": [x0, y0, x1, y1]``.

    Photos are found by the name in the file, with or without folder and suffix, and by COCO's number. A photo that the
    file does not name has no regions.

    Args:
        path: the file.
        score: lowest score of a box.

    Raises:
        InputError: missing, broken, or a row without a box; the message names the row.
    """

    def __init__(self, path: str | Path, score: float = 0.0) -> None:
        self.path, self.score = Path(path), score
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        self._labels: dict[str, int] = {}
        self._found: dict[str, list[tuple[list[float], float, int]]] = {}
        for row in _rows(self.path):
            self._add(row)
        self._index = NameIndex(self._found, f"photos in {path}")
        self.name = f"{self.path.stem}-{hashlib.blake2b(content, digest_size=6).hexdigest()}-score{score}"

    def _add(self, row: Row) -> None:
        try:
            if row.problem is not None:
                raise ValueError(row.problem)
            if "box" in row:
                box = [float(v) for v in row["box"]]
            elif "bbox" in row:  # COCO: left, top, width, height
                x, y, w, h = (float(v) for v in row["bbox"])
                box = [x, y, x + w, y + h]
            else:
                box = [float(row[k]) for k in _CORNERS]
            score = row.get("score")
            sure = 1.0 if score in (None, "") else float(score)  # type: ignore[arg-type]
            image = str(row["image"] if "image" in row else row["image_id"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.path}, {row.where}: no box can be read ({error}); give image, x0, y0, x1, y1"
            ) from error
        if len(box) != 4:
            raise InputError(f"{self.path}, {row.where}: a box has four numbers, not {len(box)}")
        label = row.get("label", row.get("category_id"))
        code = -1 if label in (None, "") else self._labels.setdefault(str(label), len(self._labels))
        self._found.setdefault(image_name(image), []).append((box, sure, code))

    def propose(self, image: Image.Image, photo: str = "") -> Regions:
        """The file's boxes for ``photo``, the surest first, cut at the photo's edges."""
        found = sorted(self._found.get(self._index.find(photo) or "", []), key=lambda r: -r[1])
        found = [r for r in found if r[1] >= self.score]
        boxes, good = clipped(
            np.array([r[0] for r in found], dtype=np.float32).reshape(-1, 4), image.width, image.height
        )
        scores = np.array([r[1] for r in found], dtype=np.float32)
        labels = np.array([r[2] for r in found], dtype=np.int64)
        return Regions(boxes[good], scores[good], labels[good], tuple(self._labels))


def _rows(path: Path) -> Iterator[Row]:
    """The entries of a file."""
    content = read_json(path) if path.suffix.lower() == ".json" and not is_json_lines(path) else None
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        yield from rows_of(path)
        return
    kinds, files = (
        {entry["id"]: entry[name] for entry in content.get(key) or () if "id" in entry and name in entry}
        for key, name in (("categories", "name"), ("images", "file_name"))
    )
    for number, value in enumerate(content["annotations"], 1):
        row = object_row(value, f"annotation {number}")
        for field, wanted, known in (("image", "image_id", files), ("label", "category_id", kinds)):
            if isinstance(row.get(wanted), Hashable) and wanted in row:
                row[field] = known.get(row[wanted], row[wanted])
        yield row
