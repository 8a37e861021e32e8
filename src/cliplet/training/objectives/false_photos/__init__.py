"""False photos from real pixels: for a false caption, a photo that shows what the false caption says.

A false caption differs from a true one in one word. Depending on the word its photo is edited, or another is taken:

==========  ============================================================================================================
recolour    colour: the pixels of the true colour in the detector's box of the noun (or, for what people wear, in the
            box of the one person who has such pixels) get the wrong one; hue, saturation and brightness, so that black,
            white and grey work like the others
paste       object: a crop of the wrong class from another training photo, feathered, over the box of the right one
count       number: copies of a box beside it, or background over a box, where the detector counts what the caption says
mirror      side: the photo mirrored, for captions with left and right (:func:`side_captions` makes the false ones)
retrieve    any word: the training photo with the nearest caption that says the wrong word at this place, and none that
            says the true one there; a real photo, which fits the rest of the caption only roughly
==========  ============================================================================================================

Edited photos are written into a folder once, under names that say what is in them; nothing is kept in memory.
"""

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cliplet.errors import InputError
from cliplet.files import write_atomically
from cliplet.regions.store import RegionSettings
from cliplet.training.computed import computed
from cliplet.training.objectives.base import Rows
from cliplet.training.objectives.false_captions import FalseCaption
from cliplet.training.objectives.false_photos.boxes import Boxes, Found, class_names, photo_boxes
from cliplet.training.objectives.false_photos.draw import Drawer, encoded
from cliplet.training.objectives.false_photos.edits import UnfitError
from cliplet.training.objectives.false_photos.plan import Edit, Planner, fits_words
from cliplet.training.objectives.false_photos.retrieve import Embed, Retriever
from cliplet.training.objectives.false_photos.words import other_side, swapped_place
from cliplet.training.pairs import PairSet, fingerprint

__all__ = [
    "FALSE_PHOTO_KINDS", "Boxes", "FalsePhoto", "Found", "find_false_photos", "photo_boxes", "photo_counts",
    "side_captions", "word_counts",
]  # fmt: skip

FALSE_PHOTO_KINDS = ("recolour", "paste", "count", "mirror", "retrieve")
"""What can be done, by name."""
VERSION = 1
"""Of the drawing; another number draws all photos anew."""
_OF: dict[str, tuple[str, ...]] = {
    "recolour": ("colour",), "paste": ("object",), "count": ("number",), "mirror": ("side",),
    "retrieve": ("object", "colour", "number", "action"),
}  # fmt: skip
"""Kinds of swapped words that each is for."""


@dataclass(frozen=True)
class FalsePhoto:
    """A photo of what a false caption says."""

    row: int
    """Of the false caption, in the list that was given."""
    kind: str
    """How it was made."""
    photo: Any
    """Where to read it: a file that was written, or a training photo."""
    source: int = -1
    """The training photo that it is (``retrieve``), else -1."""


_SIDE: Any = "side"


def side_captions(pairs: PairSet) -> list[FalseCaption]:
    """False captions of those that name a side: left and right swapped, kind ``side``, for mirrored photos.

    A model that is trained on mirrored crops (``augment.flip``) is taught the opposite: turn that off.
    """
    found = []
    for row, caption in enumerate(pairs.captions):
        swapped = other_side(caption)
        if swapped is not None:
            found.append(FalseCaption(row, swapped[0], _SIDE, swapped[1], swapped[2]))
    return found


def find_false_photos(
    pairs: Any,
    false: Sequence[FalseCaption],
    boxes: Boxes,
    folder: Path,
    seed: int = 0,
    kinds: Sequence[str] = FALSE_PHOTO_KINDS,
    embed: Embed | None = None,
    reasons: Counter[str] | None = None,
) -> list[FalsePhoto]:
    """False photos of some false captions; a false caption may have several, one of each kind, or none.

    Args:
        pairs: photos and captions, or a :class:`~cliplet.training.objectives.base.Setup` with them as ``train``.
        false: false captions of ``pairs.captions``.
        boxes: of each photo (:func:`photo_boxes`).
        folder: for the files; those that are there are not drawn again.
        seed: of the choice among crops.
        kinds: some of :data:`FALSE_PHOTO_KINDS`.
        embed: texts to unit vectors, by which the nearest captions are found; TF-IDF without it.
        reasons: is filled with why false captions have no photo of a kind, and how often.

    Returns:
        In the order of ``kinds``, then of the false captions.

    Raises:
        InputError: an unknown kind; or boxes of other photos.
    """
    pairs = getattr(pairs, "train", pairs)
    unknown = [kind for kind in kinds if kind not in FALSE_PHOTO_KINDS]
    if unknown:
        raise InputError(
            f"no false photos of kind {unknown[0]!r}: use some of {', '.join(FALSE_PHOTO_KINDS)}"
        )
    if len(boxes.photos) != len(pairs.photos):
        raise InputError(f"there are boxes of {len(boxes.photos)} photos, but {len(pairs.photos)} photos")
    why = Counter[str]() if reasons is None else reasons
    places = [swapped_place(pairs.captions[f.caption], f.text, f.before, f.after) for f in false]
    planner = Planner(pairs, boxes, seed)
    found: list[FalsePhoto] = []
    for kind in kinds:
        rows = [row for row, one in enumerate(false) if one.kind in _OF[kind]]
        if kind == "retrieve":
            chosen, _, left_out = Retriever(pairs, embed).photos(
                [false[r] for r in rows], [places[r] for r in rows]
            )
            why.update(left_out)
            for row, photo in zip(rows, chosen, strict=True):
                if photo in boxes.failures:
                    why[f"retrieve: {boxes.failures[photo]}"] += 1
                elif photo >= 0:
                    found.append(FalsePhoto(row, kind, pairs.photos[photo], photo))
            continue
        planned = []
        for row in rows:
            try:
                planned.append(planner.plan(row, false[row], places[row], kind))
            except UnfitError as error:
                why[f"{kind}: {error}"] += 1
        found += _drawn(pairs, planned, folder, why)
    return found


def photo_counts(found: Sequence[FalsePhoto], false: Sequence[FalseCaption], pairs: PairSet) -> Rows:
    """How many triplets each kind gives, and of how many photos: lines for a table."""
    rows = []
    for kind in FALSE_PHOTO_KINDS:
        own = [f for f in found if f.kind == kind]
        photos = {int(pairs.photo_of[false[f.row].caption]) for f in own}
        rows.append((f"false photos, {kind}", f"{len(own):,} of {len(photos):,} photos"))
    return rows


def word_counts(
    false: Sequence[FalseCaption],
    pairs: PairSet,
    settings: RegionSettings,
    kinds: Sequence[str] = FALSE_PHOTO_KINDS,
) -> Rows:
    """How many false captions each kind can be tried on by their words alone, for ``--dry-run``; finds no boxes.

    Raises:
        InputError: no such detector.
    """
    names = class_names(pairs, settings)
    places = [swapped_place(pairs.captions[f.caption], f.text, f.before, f.after) for f in false]
    rows = []
    for kind in kinds:
        own = [i for i, one in enumerate(false) if one.kind in _OF[kind]]
        fit = sum(fits_words(places[i], kind, names) for i in own)
        rows.append(
            (f"false photos, {kind}", f"at most {fit:,} of {len(own):,} false captions by their words")
        )
    return rows


def _drawn(pairs: PairSet, planned: Sequence[Edit], folder: Path, why: Counter[str]) -> list[FalsePhoto]:
    """Edits, drawn once; those whose pixels do not allow it, and photos that cannot be read, are left out."""
    if not planned:
        return []
    kind = planned[0].kind
    files = [folder / "false-photos" / name for name in _file_names(pairs, planned)]
    files[0].parent.mkdir(parents=True, exist_ok=True)
    drawer = Drawer(pairs.photos)

    def draw(start: int, stop: int) -> Any:
        return np.array([_write(drawer, planned[i], files[i]) for i in range(start, stop)], dtype=_REASON)

    key = hashlib.blake2b("\n".join(file.name for file in files).encode(), digest_size=8).hexdigest()
    index = folder / f"false-photos-{kind}-{key}.npy"
    problems = computed(index, len(planned), draw, 64, _REASON, f"false photos, {kind}")
    found = []
    for edit, file, problem in zip(planned, files, problems.tolist(), strict=True):
        problem = problem or ("" if file.exists() else _write(drawer, edit, file))  # somebody has removed it
        if problem:
            why[f"{kind}: {problem}"] += 1
        else:
            found.append(FalsePhoto(edit.row, kind, file))
    return found


_REASON = "U160"
"""How long the reason why a photo was left out may be."""


def _write(drawer: Drawer, edit: Edit, file: Path) -> str:
    """Draw an edit into a file, which stays as it is where it is there; the reason why that is not possible."""
    if file.exists():
        return ""
    try:
        write_atomically(file, encoded(drawer.draw(edit)))
    except UnfitError as error:
        return str(error)
    except InputError as error:  # a photo that cannot be read
        return str(error)[:160]
    return ""


def _file_names(pairs: PairSet, planned: Sequence[Edit]) -> list[str]:
    """A name for each edit that says what is done to which photo, and changes whenever the pixels would."""
    photo = cache(lambda number: fingerprint([pairs.photos[number]]))
    names = []
    for edit in planned:
        made = [
            photo(edit.photo),
            *(photo(p) for crops in edit.sources for p, _ in crops),
            dataclasses.replace(edit, row=0, photo=0),
            VERSION,
        ]
        digest = hashlib.blake2b(repr(made).encode("utf-8", "replace"), digest_size=8).hexdigest()
        words = f"{edit.kind}-{edit.before}-{edit.after}-{Path(pairs.names[edit.photo]).stem[:40]}"
        names.append(f"{re.sub(r'[^A-Za-z0-9-]+', '_', words)}-{digest}.jpg")
    return names
