"""Captions in: the only reader of captions files, whatever wants them.

One table says who reads what (:data:`READERS`); a format is one source file and one row there. What is wrong with one
caption stays in its entry; a file in which nothing can be used raises an error with the first reason.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from cliplet.data.arrow import is_arrow_folder
from cliplet.data.documents import read_json_captions
from cliplet.data.names import ImageKey, image_name
from cliplet.data.photos import TARS
from cliplet.data.records import IMAGE_FIELDS, TEXT_FIELDS, CaptionEntry, Columns, Records, entry
from cliplet.data.samples import read_folder_captions, read_tar_captions
from cliplet.data.tables import SEPARATORS, SLICED, TABLES, find_column, rows_of, sliced_rows
from cliplet.data.text import text_lines
from cliplet.errors import InputError

__all__ = [
    "READERS",
    "CaptionEntry",
    "Columns",
    "ImageKey",
    "read_captions",
    "read_references",
    "read_sources",
    "stream_captions",
]

OPTIONS = (
    "; say which with --image-column and --caption-column (and --separator) of `cliplet score` and `compare`"
)


def read_captions(
    path: str | Path,
    columns: Columns | None = None,
    notes: list[str] | None = None,
    *,
    plain_lines: bool = False,
    as_references: bool = False,
) -> list[CaptionEntry]:
    """Read every caption of a file or folder, in order.

    Args:
        path: see :data:`READERS` for what is read; a text file of another suffix is read if its first lines say what
            it is.
        columns: names of the image and caption fields and the separator, where the usual ones do not do.
        notes: what a reader of the captions must know is appended here.
        plain_lines: a text file may hold one caption a line, each of an image of its own.
        as_references: of files with both, take the reference captions instead of the captions.

    Raises:
        InputError: missing, empty, of unknown format, broken as a whole, or without a single usable caption.
        MissingExtraError: Parquet without pyarrow.
    """
    path = Path(path)
    records = Records(columns, as_references)
    reader = _reader(path, records, plain_lines)
    entries = list(reader(path, records, [] if notes is None else notes))
    if not entries:
        raise InputError(f"{path} holds no captions")
    if all(e.reason is not None for e in entries):
        more = OPTIONS if "found the fields" in str(entries[0].reason) else ""
        raise InputError(f"{path}, {entries[0].where}: {entries[0].reason}{more}")
    return entries


def stream_captions(
    path: str | Path,
    columns: Columns | None = None,
    notes: list[str] | None = None,
    start: int = 0,
    stop: int | None = None,
    *,
    plain_lines: bool = False,
    as_references: bool = False,
) -> Iterator[CaptionEntry]:
    """The captions of a file one by one, in memory that does not grow with it, from a place on.

    ``start`` and ``stop`` count rows of Parquet and Arrow files, which are found without reading what is before, and
    entries of all others, which are read and passed over. A JSON document of one value is read whole. The rest is as in
    :func:`read_captions`.

    Raises:
        InputError: as :func:`read_captions`, but for a file without a usable caption.
    """
    path = Path(path)
    records = Records(columns, as_references)
    notes = [] if notes is None else notes
    if path.suffix.lower() in SLICED and path.is_file():
        for row in sliced_rows(path, start, stop):
            yield from records(row)
    else:
        yield from islice(_reader(path, records, plain_lines)(path, records, notes), start, stop)


def read_sources(
    sources: Sequence[str | Path], columns: Columns | None = None, notes: list[str] | None = None
) -> list[CaptionEntry]:
    """The captions of several files or shards in order; of one, as :func:`read_captions`.

    Places begin with their file. A photo that came with its captions is called ``FILE/NAME``, since other shards may
    have one of its name.
    """
    if len(sources) == 1:
        return read_captions(sources[0], columns, notes)
    return [
        found._replace(
            where=f"{source}, {found.where}",
            image=found.image if found.photo is None else f"{source}/{found.image}",
            source=Path(source),
        )
        for source in sources
        for found in read_captions(source, columns, notes)
    ]


def read_references(
    path: str | Path, notes: list[str] | None = None, *, plain_lines: bool = False
) -> dict[str, list[str]]:
    """Read a file of reference captions: all usable captions of each image, by :func:`image_name`.

    What cannot be used is counted in ``notes``. Raises InputError as :func:`read_captions`.
    """
    entries = read_captions(path, None, notes, plain_lines=plain_lines, as_references=True)
    references: dict[str, list[str]] = {}
    for found in entries:
        if found.image != "":
            own = references.setdefault(image_name(found.image), [])
            own += [found.caption] if found.problem is None else []
    bad = [found for found in entries if found.problem is not None]
    if bad and notes is not None:
        notes.append(f"{len(bad)} captions left out of {path}, such as {bad[0].where}: {bad[0].problem}")
    return references


Read = Callable[[Path, Records, list[str]], Iterator[CaptionEntry]]
"""Path, fields and notes to entries."""


def _read_rows(path: Path, records: Records, notes: list[str]) -> Iterator[CaptionEntry]:
    for row in rows_of(path, records.columns.separator):
        yield from records(row)


def _read_json(path: Path, records: Records, notes: list[str]) -> Iterator[CaptionEntry]:
    return read_json_captions(path, records)


def _read_tokens(path: Path, records: Records, notes: list[str]) -> Iterator[CaptionEntry]:
    """``image#number<TAB>caption``, as Flickr8k has it."""
    for number, line in text_lines(path):
        name, tab, caption = line.partition("\t")
        image, where = name.rpartition("#")[0] if "#" in name else name, f"line {number}"
        if tab:
            yield entry(image, caption, where, None, None, name)
        else:
            yield CaptionEntry("", None, where, "expected image#number<TAB>caption")


def _read_lines(path: Path, records: Records, notes: list[str]) -> Iterator[CaptionEntry]:
    for number, line in text_lines(path):
        yield entry(f"line {number}", line.strip(), f"line {number}")


READERS: tuple[tuple[str, tuple[str, ...], Read], ...] = (
    ("JSON", (".json", ".jsonl", ".ndjson"), _read_json),
    ("WebDataset shards", TARS, read_tar_captions),
    ("token files, image#number<TAB>caption", (".token", ".txt"), _read_tokens),
    ("tables", (".csv", ".tsv", *TABLES), _read_rows),
)
"""What is read, by which suffixes, and who reads it; besides them folders. Of two with one suffix the first reads."""


def _reader(path: Path, records: Records, plain_lines: bool) -> Read:
    """Who reads a file: by its suffix, and for text by its first lines."""
    if path.is_dir():
        return _read_rows if is_arrow_folder(path) else read_folder_captions
    suffix = path.suffix.lower()
    known = next((read for _, suffixes, read in READERS if path.name.lower().endswith(suffixes)), None)
    if known not in (None, _read_tokens):
        return known  # type: ignore[return-value]
    first = [line for _, line in islice(text_lines(path), 10)]
    if not first:
        raise InputError(f"{path} is empty")
    if records.columns.separator or _is_header(first[0], records.columns):
        return _read_rows
    if plain_lines and suffix == ".txt" and not any("\t" in line for line in first):
        return _read_lines
    if (
        known is None
        and suffix
        and not all("#" in line.partition("\t")[0] and "\t" in line for line in first)
    ):
        kinds = "; ".join(f"{what} ({', '.join(suffixes)})" for what, suffixes, _ in READERS)
        raise InputError(f"{path}: captions are read from folders of photo.jpg with photo.txt; {kinds}")
    return _read_tokens


def _is_header(line: str, columns: Columns) -> bool:
    """Whether a text file's first line names an image and a caption column."""
    images = [columns.image.lower()] if columns.image else IMAGE_FIELDS
    captions = [columns.caption.lower()] if columns.caption else TEXT_FIELDS
    cells = [[cell.strip() for cell in line.split(separator)] for separator in SEPARATORS]
    return any(find_column(row, images) and find_column(row, captions) for row in cells)
