"""Training data: photos and captions from any source, in a deterministic order."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.data.captions import read_captions
from cliplet.data.images import load_rgb
from cliplet.data.names import NameIndex
from cliplet.data.parquet import TablePhoto
from cliplet.data.photos import PhotoStore, TarPhoto, open_photos
from cliplet.data.text import read_names
from cliplet.errors import InputError
from cliplet.training.config import DataConfig
from cliplet.training.logs import Progress


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
    roots = expand_paths(config.photos)
    result = PairSet()
    if files:
        _read_caption_files(
            files, roots or [file for file in files if file.suffix == ".tar"], config.names, result
        )
    for root in [] if files else roots:
        index = open_photos(root)
        for name, photo in index.find_all(_wanted(index.names(), config.names)).items():
            if isinstance(photo, InputError):
                result.skipped.append(f"{name}: {photo}")
            else:
                result.names.append(str(name))
                result.photos.append(photo[1])
    if not result.photos and not result.captions:
        first = f"; first reason: {result.skipped[0]}" if result.skipped else ""
        raise InputError(f"no photo and no caption is left of {config}{first}")
    return result


def _wanted(names: Iterable[str], split: str) -> list[str]:
    """Those of the names that a split file names, in any spelling; all without one."""
    distinct = list(dict.fromkeys(names))
    if not split:
        return distinct
    index = NameIndex(distinct, "photos")
    chosen = set(index.find_all(read_names(split, "image names")).values())
    return [name for name in distinct if name in chosen]


def _read_caption_files(files: list[Path], roots: list[Path], split: str, result: PairSet) -> None:
    """Add every caption of the files with its photo: the one that came with it, or the one of its name."""
    entries = [(file, entry) for file in files for entry in read_captions(file, plain_lines=not roots)]
    alone = [entry.image for _, entry in entries if entry.photo is None and entry.problem is None]
    found = PhotoStore(roots).find_all(alone) if roots and alone else {}
    placed: list[tuple[Path | None, str, Any]] = []
    for file, entry in entries:
        photo = found.get(entry.image)
        if entry.photo is not None:
            placed.append((file, str(entry.image), entry.photo))  # shards may use the same names
        else:
            placed.append((None, *(photo if isinstance(photo, tuple) else (str(entry.image), photo))))
    wanted = {*_wanted((name for _, name, _ in placed), split), ""}
    number: dict[tuple[Path | None, str], int] = {}
    photo_of = []
    for (file, entry), (shard, name, photo) in zip(entries, placed, strict=True):
        if name not in wanted:
            continue
        reason = entry.problem or (photo if isinstance(photo, InputError) else None)
        if reason is not None:
            result.skipped.append(f"{file} {entry.where}: {reason}")
            continue
        if photo is not None and (shard, name) not in number:
            number[shard, name] = len(result.photos)
            result.names.append(name)
            result.photos.append(photo)
        result.captions.append(entry.caption.strip())
        photo_of.append(-1 if photo is None else number[shard, name])
    result.photo_of = np.array(photo_of, dtype=np.int64)


def fingerprint(items: Sequence[Any]) -> str:
    """16 hexadecimal digits of a list of captions or of photos (names, sizes, times; content of those in tables)."""
    digest = hashlib.blake2b(digest_size=8)
    stamp = cache(_stamp)
    for item in items:
        text = f"{item}"
        if isinstance(item, TarPhoto):
            text += f" {item.offset} {item.size} {stamp(Path(item.tar.path))}"
        elif isinstance(item, TablePhoto):
            text += f" {item.digest}"
        elif isinstance(item, Path):
            text += f" {_stamp(item)}"
        digest.update(f"{text}\n".encode("utf-8", "replace"))
    return digest.hexdigest()


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of a file."""
    stat = path.stat() if path.exists() else None
    return stat and (stat.st_size, stat.st_mtime_ns)


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
            load_rgb(photo, at_least=64)
        except InputError as error:
            bad[i] = f"{names[i]}: {error}"
        bar.update(i + 1)
    return bad


def readable(pairs: PairSet) -> PairSet:
    """The pairs whose photo can be decoded; the others join ``skipped``."""
    bad = unreadable(pairs.photos, pairs.names)
    return pairs.keep(np.array([i not in bad for i in range(len(pairs.photos))], dtype=bool), bad.values())
