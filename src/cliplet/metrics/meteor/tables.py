"""The word lists that METEOR 1.5 matches with, read once from the installed pycocoevalcap into a compact cache.

pycocoevalcap ships METEOR's jar (function words, abbreviations, WordNet synonym sets) and its paraphrase table (five
million phrase pairs, 270 MB of text). Java parses all of it at every start, for about six seconds. Here it is parsed
once into sorted arrays of 64-bit hashes with rows of numbers beside them; afterwards the files are memory-mapped and
only the pages that the captions' phrases fall on are read.

The cache is in ``$CLIPLET_CACHE``, else ``$XDG_CACHE_HOME/cliplet``, else ``~/.cache/cliplet``; its name carries a
fingerprint of the files it was made from, so another version of them makes another cache.
"""

import importlib.util
import json
import os
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cliplet.errors import MissingExtraError, ModelError
from cliplet.metrics.meteor.hashing import line_hashes, string_hashes

FORMAT = 1
_BLOCK = 1 << 16  # bytes of text hashed at a time: what a processor's cache holds
_TABLES = ("phrase", "synonym", "exception")


@dataclass(frozen=True)
class Rows:
    """Lists of numbers under hashed strings: row ``r`` is ``values[starts[r]:starts[r + 1]]``."""

    hashes: np.ndarray
    """uint64 [n], sorted: the hash of each row's string."""
    starts: np.ndarray
    """int32 [n + 1]: where each row begins."""
    values: np.ndarray
    """int32: the rows, one after the other."""

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """The row of each hash, int64 like ``hashes``; -1 where there is none."""
        if not len(self.hashes):
            return np.full(hashes.shape, -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[at] == hashes, at, -1)


@dataclass(frozen=True)
class MeteorTables:
    """What METEOR 1.5 knows about English."""

    phrase: Rows
    """Row: the paraphrases of a phrase as row numbers of this same table, in the order of METEOR's file."""
    phrase_filter: np.ndarray
    """uint8, one bit for each possible value of a hash's top bits: is any phrase there? Most word sequences are
    not phrases, and a look at this small array settles it."""
    synonym: Rows
    """Row: the synonym sets of a word."""
    exception: Rows
    """Row: the synonym sets of an irregular form's base words (``geese``)."""
    function_words: frozenset[str]
    abbreviations: dict[str, bool]
    """Words whose final full stop is their own -> whether only before a number."""

    def may_be_phrase(self, hashes: np.ndarray) -> np.ndarray:
        """False where no phrase has this hash; true where one may have it."""
        bit = hashes >> np.uint64(_filter_shift(self.phrase_filter))
        return (self.phrase_filter[bit >> np.uint64(3)] >> (bit & np.uint64(7)).astype(np.uint8)) & 1 == 1


def cache_root() -> Path:
    """The folder for files that cliplet can make again: ``$CLIPLET_CACHE``, else the user's cache folder."""
    if own := os.environ.get("CLIPLET_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "cliplet"


def find_sources() -> tuple[Path, Path] | None:
    """The jar and the paraphrase file of the installed pycocoevalcap; None when either is not there."""
    spec = importlib.util.find_spec("pycocoevalcap")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        jar, paraphrases = (
            Path(folder, "meteor", name) for name in ("meteor-1.5.jar", "data/paraphrase-en.gz")
        )
        if jar.is_file() and paraphrases.is_file():
            return jar, paraphrases
    return None


def load_tables() -> MeteorTables:
    """METEOR's tables from the cache, which the first call makes (some seconds, said on the error stream).

    Raises:
        MissingExtraError: pycocoevalcap, where the tables come from, is not installed.
        ModelError: its files cannot be read.
    """
    sources = find_sources()
    if sources is None:
        raise MissingExtraError("METEOR (its tables are in pycocoevalcap)", "meteor")
    folder = cache_folder(*sources)
    if not folder.is_dir():
        _make_cache(folder, *sources)
    return _open_cache(folder)


def cache_folder(jar: Path, paraphrases: Path) -> Path:
    """Where the tables made from these files are, or will be."""
    return cache_root() / f"meteor-{FORMAT}-{_fingerprint(jar, paraphrases)}"


def _fingerprint(jar: Path, paraphrases: Path) -> str:
    """Changes with the files' content: both end in the checksums of what they hold."""
    tails = []
    for path, size in ((jar, 1 << 14), (paraphrases, 8)):
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            length = file.tell()
            file.seek(max(0, length - size))
            tails.append(f"{length}:{zlib.crc32(file.read())}")
    return f"{zlib.crc32(' '.join(tails).encode()):08x}"


def _open_cache(folder: Path) -> MeteorTables:
    def array(name: str) -> np.ndarray:
        return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)

    try:
        words = json.loads((folder / "words.json").read_text(encoding="utf-8"))
        rows = {
            name: Rows(*(array(f"{name}_{part}") for part in ("hashes", "starts", "values")))
            for name in _TABLES
        }
        return MeteorTables(
            **rows,
            phrase_filter=array("phrase_filter"),
            function_words=frozenset(words["function_words"]),
            abbreviations=words["abbreviations"],
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"METEOR's cache in {folder} cannot be read ({error}): delete that folder"
        ) from error


def _make_cache(folder: Path, jar: Path, paraphrases: Path) -> None:
    """Write the cache beside its place, then move it there, so that nobody ever sees half of it."""
    import shutil  # these two take a while to import, and are needed once a machine
    import tempfile

    began = time.perf_counter()
    _say(f"reading METEOR's tables from {jar.parent} into {folder}, once ...")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise ModelError(
            f"METEOR's cache cannot be made ({error}): set CLIPLET_CACHE to a folder that can be written to"
        ) from error
    try:
        _write_words(new, jar)
        _write_phrases(new, paraphrases)
        new.chmod(0o755)
        try:
            new.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    except (OSError, EOFError, ValueError, KeyError, zlib.error) as error:
        raise ModelError(f"METEOR's tables cannot be made from {jar.parent}: {error}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    _say(f"METEOR's tables are ready after {time.perf_counter() - began:.1f} s")


def _say(message: str) -> None:
    """On the error stream, as it is no part of any result."""
    if sys.stderr is not None:
        print(f"cliplet: {message}", file=sys.stderr, flush=True)


def _write_words(folder: Path, jar: Path) -> None:
    """Function words, abbreviations and synonym sets, all in the jar."""
    from zipfile import ZipFile

    with ZipFile(jar) as archive:

        def lines(name: str) -> list[str]:
            return archive.read(name).decode("utf-8").split("\n")

        abbreviations = {}
        for line in lines("nonbreaking/english.prefixes"):
            fields = line.split()
            if fields and not fields[0].startswith("#"):
                abbreviations[fields[0]] = fields[1:2] == ["#NUMERIC_ONLY#"]
        words = {
            "function_words": list(filter(None, lines("function/english.words"))),
            "abbreviations": abbreviations,
        }
        text = lines("synonym/english.synsets")  # a word, then its sets, in turn
        sets = dict(zip(text[::2], (list(map(int, row.split())) for row in text[1::2]), strict=False))
        text = lines("synonym/english.exceptions")  # a base word, then its irregular forms, in turn
        irregular: dict[str, list[int]] = {}
        for base, forms in zip(text[::2], text[1::2], strict=False):
            for form in forms.split():
                irregular.setdefault(form, []).extend(sets.get(base, []))
    (folder / "words.json").write_text(json.dumps(words), encoding="utf-8")
    for name, table in (("synonym", sets), ("exception", irregular)):
        hashes = string_hashes(list(table))
        order = np.argsort(hashes)
        values = list(table.values())
        _save_rows(folder, name, hashes[order], [values[k] for k in order])


def _save_rows(folder: Path, name: str, hashes: np.ndarray, rows: list[list[int]]) -> None:
    counts = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    np.save(folder / f"{name}_hashes.npy", hashes)
    np.save(folder / f"{name}_starts.npy", np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    np.save(folder / f"{name}_values.npy", np.array([v for row in rows for v in row], dtype=np.int32))


def _write_phrases(folder: Path, paraphrases: Path) -> None:
    """The paraphrase table: lines in threes, a probability that METEOR ignores, a phrase, its paraphrase."""
    hashes = np.concatenate(list(_hashed_lines(paraphrases)))
    if len(hashes) % 3 or not len(hashes):
        raise ValueError(f"{paraphrases.name} has {len(hashes)} lines, which is not a multiple of three")
    phrase, paraphrase = hashes.reshape(-1, 3)[:, 1:].T
    # the file gives all paraphrases of a phrase in one run of lines; runs are few beside lines
    runs = np.flatnonzero(np.concatenate([[True], phrase[1:] != phrase[:-1]]))  # where each begins
    lengths = np.diff(runs, append=len(phrase))
    phrases, numbers = np.unique(np.concatenate([phrase[runs], paraphrase]), return_inverse=True)
    numbers, values = np.split(numbers.ravel(), [len(runs)])
    order = np.argsort(numbers, kind="stable")
    starts = np.zeros(len(phrases) + 1, dtype=np.int64)
    np.add.at(starts, numbers + 1, lengths)
    np.save(folder / "phrase_hashes.npy", phrases)
    np.save(folder / "phrase_starts.npy", np.cumsum(starts).astype(np.int32))
    np.save(folder / "phrase_values.npy", values[span_indices(runs[order], lengths[order])].astype(np.int32))
    bits = np.zeros(1 << 26, dtype=bool)
    bits[phrases >> np.uint64(64 - 26)] = True
    np.save(folder / "phrase_filter.npy", np.packbits(bits, bitorder="little"))


def _hashed_lines(path: Path) -> Iterator[np.ndarray]:
    """The hash of each line of a gzipped text, block by block."""
    import gzip

    rest = b""
    with gzip.open(path) as file:
        while block := file.read(_BLOCK):
            text = rest + block
            end = text.rfind(b"\n") + 1
            rest = text[end:]
            if end:
                yield line_hashes(np.frombuffer(text, dtype=np.uint8, count=end))
    if rest:
        yield line_hashes(np.frombuffer(rest + b"\n", dtype=np.uint8))


def span_indices(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """``start, start + 1, ...``, ``count`` of them for each start, one after the other."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - counts), counts)


def _filter_shift(bits: np.ndarray) -> int:
    """How far a hash is shifted to make an index into the filter."""
    return 64 - (len(bits) * 8).bit_length() + 1
