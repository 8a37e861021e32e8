"""Where the photos of captions files are: where they are said to be, with the captions, or beside each file."""

import os
from collections.abc import Sequence
from pathlib import Path

from cliplet.data.names import ImageKey
from cliplet.data.photos import (
    PhotoFolder,
    PhotoIndex,
    PhotoPaths,
    PhotoShards,
    PhotoStore,
    TarPhoto,
    is_file,
    open_photos,
)
from cliplet.data.records import CaptionEntry
from cliplet.data.sources import expand


def photos_of(
    entries: Sequence[CaptionEntry], sources: Sequence[Path], images: str | Path | None
) -> tuple[Sequence[CaptionEntry], PhotoIndex]:
    """The photos of captions, and the captions with images by names that these know.

    Args:
        entries: the captions, as :func:`cliplet.data.captions.read_sources` gives them.
        sources: the files that they were read from.
        images: a folder or tar, or a pattern; None: the photos that came with the captions, else paths, each relative
            to its own file's folder or, where that has none, to the working folder.

    Raises:
        InputError: ``images`` is none of those.
    """
    if images is not None:
        found = expand(str(images))
        return entries, open_photos(found[0]) if len(found) == 1 else PhotoStore(found)
    held: dict[str, PhotoIndex] = {str(source): PhotoFolder(source) for source in sources if source.is_dir()}
    held |= {str(e.photo.tar.path): e.photo.tar for e in entries if isinstance(e.photo, TarPhoto)}
    if len(sources) == 1:
        return entries, next(iter(held.values()), None) or PhotoPaths(sources[0].resolve().parent)
    return _beside_each(entries, sources, held)


def _beside_each(
    entries: Sequence[CaptionEntry], sources: Sequence[Path], held: dict[str, PhotoIndex]
) -> tuple[Sequence[CaptionEntry], PhotoShards]:
    """As :func:`photos_of` for several files: a name that means another photo in each gets its file's folder."""
    paths: dict[tuple[Path, ImageKey], Path | None] = {}
    meant: dict[ImageKey, set[Path | None]] = {}
    folders = {source: source.resolve().parent for source in sources}
    for entry in entries:
        if entry.photo is None and entry.source is not None and entry.image != "":
            at = (folders[entry.source], entry.image)
            if at not in paths:
                paths[at] = _path(*at)
                meant.setdefault(entry.image, set()).add(paths[at])
    found: dict[str, Path] = {}
    renamed = []
    for entry in entries:
        if entry.photo is None and entry.source is not None and entry.image != "":
            path = paths[folders[entry.source], entry.image]
            if len(meant[entry.image]) > 1:
                entry = entry._replace(image=os.path.join(entry.source.parent, str(entry.image)))
            if path is not None:
                found[str(entry.image)] = path
        renamed.append(entry)
    return renamed, PhotoShards(folders.values(), held, found)


def _path(folder: Path, image: ImageKey) -> Path | None:
    """The file that a path means from a folder, else from the working folder; None for none."""
    name = str(image)
    both = (Path(os.path.normpath(folder / name)), Path(os.path.abspath(name)))
    return next((path for path in both if is_file(path)), None)
