"""Reads parts: their captions with the photos, a block of rows at a time."""

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from cliplet.data.beside import photos_of
from cliplet.data.captions import CaptionEntry, Columns, stream_captions
from cliplet.data.images import ImageInput
from cliplet.data.photos import PhotoIndex
from cliplet.errors import InputError
from cliplet.scoring.rows import find_photos
from cliplet.stream.plan import Part
from cliplet.stream.source import Say, Source, is_remote, unchanged

BLOCK = 10_000
"""Rows of a part that are scored together; memory does not grow with the part beyond them."""


class PartReader:
    """Reads parts: captions with their photos, in blocks; stays where it is in a file that is read from the start."""

    def __init__(
        self,
        columns: Columns,
        several: bool,
        images: str | None,
        index: PhotoIndex | None = None,
        photos: bool = True,
    ) -> None:
        """Read with these columns; ``index``: the photos in ``images`` where known already; ``photos``: find them."""
        self.photos = photos
        self.columns, self.several, self.images = columns, several, images
        if index is not None:
            self._index = index
        self._at: tuple[str, int, Iterator[CaptionEntry]] | None = None

    @cached_property
    def _index(self) -> PhotoIndex:
        assert self.images is not None
        return open_images(self.images)

    def blocks(
        self, part: Part, say: Say
    ) -> Iterator[tuple[list[CaptionEntry], list[ImageInput | None], list[str | None], list[str | None]]]:
        """Entries, photos, photo names and reasons, :data:`BLOCK` rows at a time.

        Raises:
            InputError: the source has changed, cannot be read whole, or holds fewer rows than planned.
        """
        source, rows = part.source, 0
        with opened(source, say) as path:
            entries = self._entries(part, path)
            while block := list(islice(entries, BLOCK)):
                rows += len(block)
                if not self.photos:
                    nothing: list[Any] = [None] * len(block)
                    yield (
                        [self._named(e, source.name) for e in block],
                        nothing,
                        nothing,
                        [e.problem for e in block],
                    )
                    continue
                found, index = (
                    (block, self._index) if self.images is not None else photos_of(block, [path], None)
                )
                names, photos, reasons = find_photos(found, index)
                yield [self._named(e, source.name) for e in found], photos, names, reasons
        if part.stop is not None and source.kind != "tar" and rows < part.stop - part.start:
            raise InputError(f"{source.name} holds {rows} of the {part.stop - part.start} rows planned of it")

    def _named(self, entry: CaptionEntry, name: str) -> CaptionEntry:
        """The entry as outputs call it where there are several sources."""
        if not self.several:
            return entry
        image = entry.image if entry.photo is None else f"{name}/{entry.image}"
        return entry._replace(where=f"{name}, {entry.where}", image=image)

    def _entries(self, part: Part, path: Path) -> Iterator[CaptionEntry]:
        source = part.source
        if source.kind == "table" or (part.start == 0 and part.stop is None):
            return stream_captions(path, self.columns, None, part.start, part.stop)
        at, entries = 0, None
        if self._at is not None and self._at[0] == source.path and self._at[1] <= part.start:
            _, at, entries = self._at
        if entries is None:
            entries = stream_captions(path, self.columns)
        self._at = None  # until this part is read whole
        return self._slice(part, entries, at)

    def _slice(self, part: Part, entries: Iterator[CaptionEntry], at: int) -> Iterator[CaptionEntry]:
        for _ in islice(entries, part.start - at):
            pass
        yield from islice(entries, None if part.stop is None else part.stop - part.start)
        self._at = None if part.stop is None else (part.source.path, part.stop, entries)


def open_images(images: str) -> PhotoIndex:
    """The photos of ``--images``: a folder or tar, a pattern, or an address.

    Raises:
        InputError: it is none of these.
    """
    if not is_remote(images):
        return photos_of([], [], images)[1]
    from cliplet.stream.remote_photos import open_remote_photos

    return open_remote_photos(images)


def images_known(images: str | None) -> list[list[object]] | None:
    """Names, sizes and stamps of tars of photos at an address; None for what is not that."""
    if images is None or not is_remote(images):
        return None
    from cliplet.stream.remote import find_remote
    from cliplet.stream.remote_photos import is_tar

    return [[one.name, one.size, one.stamp] for one in find_remote(images)] if is_tar(images) else None


class opened:
    """A source as a local file: itself once it is known to be as planned, or a copy of what is remote."""

    def __init__(self, source: Source, say: Say) -> None:
        self.source, self.say = source, say
        self.copy: Any = None

    def __enter__(self) -> Path:
        if not self.source.remote:
            unchanged(self.source)
            return Path(self.source.path)
        from cliplet.stream.remote import fetched

        self.copy = fetched(self.source, self.say)
        return Path(self.copy.__enter__())

    def __exit__(self, *error: Any) -> None:
        if self.copy is not None:
            self.copy.__exit__(*error)
