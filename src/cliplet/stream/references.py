"""Reference captions of a stream: read once into a file on disk, and found there by the images of each block.

The file is an SQLite database of names and captions, so that memory depends neither on the number of references nor on
that of the rows. Which name means which image is said by the rule of :mod:`cliplet.data.names`, among the names that
come into question.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

from cliplet.data.captions import CaptionEntry, stream_captions
from cliplet.data.names import ImageKey, NameIndex, image_name, name_keys
from cliplet.errors import InputError
from cliplet.files import whole
from cliplet.stream.reader import opened
from cliplet.stream.source import Source

BATCH = 10_000
"""Captions that are written together."""
NAMESAKES = 1000
"""Names that may share a base name; where more do, a name without its folder means none of them."""


class Read(NamedTuple):
    """What was read."""

    images: int
    """Images with references."""
    captions: int
    """Their references."""
    left_out: int
    """Captions that could not be used."""
    why: str
    """The first of them, with its reason; empty for none."""


def build(path: Path, sources: Sequence[Source]) -> Read:
    """Read files of references into an index, whole or not at all.

    Raises:
        InputError: a file cannot be read, or there is not one usable reference.
    """
    with whole(path) as part, closing(sqlite3.connect(part, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=OFF")
        database.execute("PRAGMA synchronous=OFF")
        database.execute(
            "CREATE TABLE images (id INTEGER PRIMARY KEY, name TEXT UNIQUE, stem TEXT, tail TEXT, number TEXT)"
        )
        database.execute("CREATE TABLE texts (id INTEGER PRIMARY KEY, image INTEGER, text TEXT)")
        left_out, why = 0, ""
        for source in sources:
            with opened(source, lambda doing: None) as local:
                entries = stream_captions(local, as_references=True)
                while block := list(islice(entries, BATCH)):
                    bad = [e for e in block if e.problem is not None or e.image == ""]
                    why = why or (f"{source.name}, {bad[0].where}: {bad[0].problem}" if bad else "")
                    left_out += len(bad)
                    _insert(database, [e for e in block if e.problem is None and e.image != ""])
        captions = database.execute("SELECT COUNT(*) FROM texts").fetchone()[0]
        if not captions:
            names = ", ".join(source.name for source in sources[:3])
            raise InputError(f"{names} holds no reference that can be used{f': {why}' if why else ''}")
        for column in ("stem", "tail", "number"):
            database.execute(f"CREATE INDEX by_{column} ON images ({column})")
        database.execute("CREATE INDEX by_image ON texts (image)")
        images = database.execute("SELECT COUNT(*) FROM images").fetchone()[0]
    return Read(images, captions, left_out, why)


def _insert(database: sqlite3.Connection, entries: Sequence[CaptionEntry]) -> None:
    names = [image_name(entry.image) for entry in entries]
    database.execute("BEGIN")
    database.executemany(
        "INSERT OR IGNORE INTO images (name, stem, tail, number) VALUES (?, ?, ?, ?)",
        ((name, *name_keys(name)) for name in dict.fromkeys(names)),
    )
    database.executemany(
        "INSERT INTO texts (image, text) SELECT id, ? FROM images WHERE name = ?",
        ((entry.caption, name) for entry, name in zip(entries, names, strict=True)),
    )
    database.execute("COMMIT")


class References:
    """An index, opened for reading by any number of processes."""

    def __init__(self, path: Path, what: str = "the references") -> None:
        """Open it; ``what`` says in messages whose it is. Raises InputError where it is not there."""
        try:
            # nobody writes: no locks, which some network drives lack
            address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
            self.database = sqlite3.connect(address, uri=True, check_same_thread=False)
            self.database.execute("SELECT 1 FROM texts LIMIT 1")
        except sqlite3.Error as error:
            raise InputError(
                f"{path}, which holds the references of this run, cannot be read: {error}"
            ) from error
        self.what = what

    def of(self, keys: Sequence[ImageKey], names: Sequence[str | None]) -> list[list[str]]:
        """The references of each row, by its image or else by its photo's name; an empty list for none."""
        photos = [name for name in names if name is not None]
        found, by_photo = self._meant(keys), self._meant(photos)
        hits = [
            hit if isinstance(hit := found[key], str) else by_photo.get(name or "", hit)
            for key, name in zip(keys, names, strict=True)
        ]
        texts = self._texts({hit for hit in hits if isinstance(hit, str)})
        return [texts.get(hit, []) if isinstance(hit, str) else [] for hit in hits]

    def first(self) -> str:
        """The first image's name, for messages."""
        return str(self.database.execute("SELECT name FROM images WHERE id = 1").fetchone()[0])

    def count(self) -> int:
        """How many images there are."""
        return int(self.database.execute("SELECT COUNT(*) FROM images").fetchone()[0])

    def groups(self, every: int) -> Iterator[list[str]]:
        """The references of every so-many-th image."""
        rows = self.database.execute(
            "SELECT image, text FROM texts WHERE image % ? = 0 ORDER BY image, id", (every,)
        )
        for _, group in groupby(rows, lambda row: row[0]):
            yield [text for _, text in group]

    def _meant(self, keys: Iterable[ImageKey]) -> dict[ImageKey, str | InputError | None]:
        """What each key means."""
        what = f"images of {self.what}"
        found: dict[ImageKey, str | InputError | None] = {}
        names: dict[str, None] = {}
        clear = []
        for key in dict.fromkeys(keys):
            candidates, all_there = self._candidates(key)
            if all_there:
                clear.append(key)
                names |= dict.fromkeys(candidates)
            else:  # what other keys mean must not pass for the only one that this may mean
                found |= NameIndex(candidates, what).find_all([key])
        return found | NameIndex(names, what).find_all(clear)

    def _candidates(self, key: ImageKey) -> tuple[list[str], bool]:
        """The names that a key can mean, and whether these are all; of too many namesakes none is among them."""
        stem, tail, number = name_keys(key)
        looked = [("name", str(key)), ("tail", tail), ("tail", f"/{stem}"), ("stem", stem)]
        looked += [("number", number)] if number is not None else []
        found: list[str] = []
        all_there = True
        for column, value in dict.fromkeys(looked):
            query = f"SELECT name FROM images WHERE {column} = ? LIMIT ?"
            names = [row[0] for row in self.database.execute(query, (value, NAMESAKES + 1))]
            all_there = all_there and len(names) <= NAMESAKES
            found += names if len(names) <= NAMESAKES else []
        return found, all_there

    def _texts(self, names: Iterable[str]) -> dict[str, list[str]]:
        query = "SELECT text FROM texts WHERE image = (SELECT id FROM images WHERE name = ?) ORDER BY id"
        return {name: [row[0] for row in self.database.execute(query, (name,))] for name in names}
