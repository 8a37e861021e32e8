"""Regions that somebody else found, from a file."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

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
        try:
            for i, row in enumerate(_rows(self.path, content.decode("utf-8-sig")), 1):
                self._add(i, row)
        except (ValueError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not a file of boxes: {error}") from error
        self.name = f"{self.path.stem}-{hashlib.blake2b(content, digest_size=6).hexdigest()}-score{score}"

    def _add(self, number: int, row: dict[str, Any]) -> None:
        try:
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
                f"{self.path}, entry {number}: no box can be read ({error}); give image, x0, y0, x1, y1"
            ) from error
        if len(box) != 4:
            raise InputError(f"{self.path}, entry {number}: a box has four numbers, not {len(box)}")
        label = row.get("label", row.get("category_id"))
        code = -1 if label in (None, "") else self._labels.setdefault(str(label), len(self._labels))
        self._found.setdefault(_key(image), []).append((box, sure, code))

    def propose(self, image: Image.Image, photo: str = "") -> Regions:
        """The file's boxes for ``photo``, the surest first, cut at the photo's edges."""
        found = sorted(self._found.get(_key(photo), []), key=lambda r: -r[1])
        found = [r for r in found if r[1] >= self.score]
        boxes, good = clipped(
            np.array([r[0] for r in found], dtype=np.float32).reshape(-1, 4), image.width, image.height
        )
        scores = np.array([r[1] for r in found], dtype=np.float32)
        labels = np.array([r[2] for r in found], dtype=np.int64)
        return Regions(boxes[good], scores[good], labels[good], tuple(self._labels))


def _key(name: str) -> str:
    """File name without folder, suffix and leading zeros of a number."""
    stem = (
        Path(name).stem
        if Path(name).suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")
        else Path(name).name
    )
    return str(int(stem)) if stem.isdecimal() else stem


def _rows(path: Path, text: str) -> list[dict[str, Any]]:
    """The entries of a file."""
    if path.suffix.lower() == ".csv":
        return list(csv.DictReader(text.splitlines()))
    if path.suffix.lower() == ".jsonl":
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    content = json.loads(text)
    if isinstance(content, dict) and "annotations" in content:
        names = {c["id"]: c["name"] for c in content.get("categories", [])}
        files = {i["id"]: i.get("file_name", i["id"]) for i in content.get("images", [])}
        return [
            {
                "image": files.get(a["image_id"], a["image_id"]),
                "bbox": a["bbox"],
                "label": names.get(a.get("category_id"), a.get("category_id")),
                "score": a.get("score"),
            }
            for a in content["annotations"]
        ]
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ValueError("a list of entries was expected")
    return content
