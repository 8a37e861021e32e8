"""Training data: photos and captions from any source, in a deterministic order."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.data.captions import CaptionEntry, read_captions
from cliplet.data.images import ImageInput, load_rgb
from cliplet.data.photos import PhotoIndex, TarPhoto, open_photos
from cliplet.errors import InputError
from cliplet.training.config import DataConfig
from cliplet.training.logs import Progress
from cliplet.training.views import photo_source


@dataclass
class PairSet:
    """Photos, captions, and which belong together."""

    names: list[str] = field(default_factory=list)
    """Name of each photo."""
    photos: list[Any] = field(default_factory=list)
    """Where to read each photo."""
    captions: list[str] = field(default_factory=list)
    """Every caption."""
    photo_of: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Photo of each caption, -1 where the set has no photos: ``[captions]``."""
    skipped: list[str] = field(default_factory=list)
    """What was left out, with its reason."""

    def keep(self, photos: NDArray[np.bool_], reasons: Iterable[str] = ()) -> "PairSet":
        """The set without some photos and without their captions; the photos are numbered anew.

        Args:
            photos: which stay ``[photos]``.
            reasons: join ``skipped``: which photos go and why.
        """
        number = np.append(np.where(photos, np.cumsum(photos) - 1, -1), -1)
        rows = np.flatnonzero(self.captions_with(photos))
        stay = np.flatnonzero(photos)
        return PairSet(
            [self.names[i] for i in stay],
            [self.photos[i] for i in stay],
            [self.captions[i] for i in rows],
            number[self.photo_of[rows]],
            [*self.skipped, *reasons],
        )

    def captions_with(self, photos: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which captions stay with some of the photos: theirs, and those that have none ``[captions]``."""
        found: NDArray[np.bool_] = np.append(photos, True)[self.photo_of]
        return found

    def captions_of(self) -> list[NDArray[np.int64]]:
        """The captions of each photo."""
        order = np.argsort(self.photo_of, kind="stable")
        bounds = np.searchsorted(self.photo_of[order], np.arange(len(self.photos) + 1))
        return [order[a:b] for a, b in pairwise(bounds)]


def expand_paths(patterns: Sequence[str]) -> list[Path]:
    """Paths of a list with ``*`` and ``{000..099}``, in order.

    Raises:
        InputError: a pattern that matches nothing.
    """
    found: list[Path] = []
    for pattern in patterns:
        for text in _expand_braces(pattern):
            if any(c in text for c in "*?["):
                anchor = Path(Path(text).anchor or ".")
                matches = sorted(anchor.glob(str(Path(text).relative_to(Path(text).anchor))))
                if not matches:
                    raise InputError(f"no file matches {text}")
                found += matches
            elif Path(text).exists():
                found.append(Path(text))
            else:
                raise InputError(f"{text}: there is no such file or folder")
    return found


def _expand_braces(pattern: str) -> list[str]:
    """``a{00..02}.tar`` as three names."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if not match:
        return [pattern]
    first, last = match.groups()
    numbers = range(int(first), int(last) + 1)
    heads = [pattern[: match.start()] + str(n).zfill(len(first)) + pattern[match.end() :] for n in numbers]
    return [name for head in heads for name in _expand_braces(head)]


def read_pairs(config: DataConfig) -> PairSet:
    """Read the photos and captions that a configuration names.

    A caption without a photo, or one that is no text, is left out and listed in ``skipped``.

    Raises:
        InputError: a file is missing or broken, or nothing is left.
    """
    files = expand_paths(config.captions)
    roots = expand_paths(config.photos) or [f for f in files if f.suffix == ".tar"]
    indices = [open_photos(root) for root in roots]
    wanted = _read_names(config.names)
    result = PairSet()
    if not files:
        for index in indices:
            for name in index.names():
                if wanted is None or name in wanted:
                    result.names.append(name)
                    result.photos.append(index.get(name))
    else:
        _read_caption_files(files, indices, wanted, result)
    if not result.photos and not result.captions:
        first = f"; first reason: {result.skipped[0]}" if result.skipped else ""
        raise InputError(f"no photo and no caption is left of {config}{first}")
    return result


def _read_names(path: str) -> set[str] | None:
    """The names of a split file."""
    if not path:
        return None
    try:
        return {line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()}
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _read_caption_files(
    files: list[Path], indices: list[PhotoIndex], wanted: set[str] | None, result: PairSet
) -> None:
    """Add every caption of the files, with its photo when there are photos."""
    number: dict[tuple[int, str], int] = {}
    photo_of = []
    for file in files:
        own = [i for i in indices if i.root == file] or indices
        for entry in read_captions(file) if own else _read_texts(file):
            if wanted is not None and str(entry.image) not in wanted:
                continue
            if not isinstance(entry.caption, str) or not entry.caption.strip():
                result.skipped.append(f"{file} {entry.where}: the caption is no text")
                continue
            if not own:
                result.captions.append(entry.caption.strip())
                photo_of.append(-1)
                continue
            try:
                where, name, photo = _find(own, entry.image)
            except InputError as error:
                result.skipped.append(f"{file} {entry.where}: {error}")
                continue
            if (where, name) not in number:
                number[where, name] = len(result.photos)
                result.names.append(name)
                result.photos.append(photo)
            result.captions.append(entry.caption.strip())
            photo_of.append(number[where, name])
    result.photo_of = np.array(photo_of, dtype=np.int64)


def _read_texts(file: Path) -> Iterable[CaptionEntry]:
    """Captions that need no photo: any captions file, or text with one caption a line."""
    if file.suffix.lower() == ".txt":
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        if not any("\t" in line for line in lines[:10]):
            return [CaptionEntry("", text, f"line {i}") for i, text in enumerate(lines, 1) if text.strip()]
    return read_captions(file)


def _find(indices: list[PhotoIndex], key: str | int) -> tuple[int, str, ImageInput]:
    """The photo in the first folder or tar that has it."""
    error: InputError | None = None
    for index in indices:
        try:
            name, photo = index.find(key)
        except InputError as found:
            error = error or found
        else:
            return id(index), name, photo
    assert error is not None
    raise error


def fingerprint(items: Sequence[Any]) -> str:
    """16 hexadecimal digits of a list of captions or of photos (names, sizes, times)."""
    digest = hashlib.blake2b(digest_size=8)
    for item in items:
        if isinstance(item, TarPhoto):
            digest.update(f"{item} {item.offset} {item.size}\n".encode("utf-8", "replace"))
        elif isinstance(item, Path):
            stat = item.stat() if item.exists() else None
            digest.update(f"{item} {stat and (stat.st_size, stat.st_mtime_ns)}\n".encode("utf-8", "replace"))
        else:
            digest.update(str(item).encode("utf-8", "replace") + b"\n")
    return digest.hexdigest()


def epoch_batches(
    items: int, batch_size: int, seed: int, epoch: int, rank: int = 0, world: int = 1
) -> list[NDArray[np.int64]]:
    """This process's batches of one epoch; together the processes' batches are those of one with the whole batch.

    The remainder that does not fill a batch of all processes is left out; another remainder each epoch.

    Raises:
        InputError: there are fewer items than a batch.
    """
    whole = batch_size * world
    if items < whole:
        raise InputError(f"{items} items do not fill one batch of {whole}; lower batch_size")
    order = np.random.default_rng([seed, epoch]).permutation(items)
    starts = range(0, items - whole + 1, whole)
    return [order[s + rank * batch_size : s + (rank + 1) * batch_size] for s in starts]


def chosen(seed: int, epoch: int, items: NDArray[np.int64], what: int) -> Iterator[float]:
    """A number in 0..1 for each item that depends on seed, epoch, item and purpose alone."""
    for item in items:
        mixed = hashlib.blake2b(f"{seed} {epoch} {item} {what}".encode(), digest_size=8).digest()
        yield int.from_bytes(mixed, "little") / 2**64


def unreadable(photos: Sequence[Any], names: Sequence[str]) -> dict[int, str]:
    """Why some photos cannot be decoded, by their position."""
    bad: dict[int, str] = {}
    bar = Progress("reading photos", len(photos))
    for i, photo in enumerate(photos):
        try:
            load_rgb(photo_source(photo), at_least=64)
        except InputError as error:
            bad[i] = f"{names[i]}: {error}"
        bar.update(i + 1)
    return bad


def readable(pairs: PairSet) -> PairSet:
    """The pairs whose photo can be decoded; the others join ``skipped``."""
    bad = unreadable(pairs.photos, pairs.names)
    return pairs.keep(np.array([i not in bad for i in range(len(pairs.photos))], dtype=bool), bad.values())
