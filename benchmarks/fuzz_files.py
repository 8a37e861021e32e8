"""Captions files for ``benchmarks.fuzz_inputs``: layouts times faults, each with the rows that must come of it.

A layout writes rows of (photo, caption) as people have them; a fault spoils one row, which must then fail, or the whole
file, which must then be refused. Random damage (bytes changed, put in or cut off) may do either, but no row may then
pair a photo with a caption that was never its own, or have another score than that pair.
"""

import csv
import gzip
import io
import json
import re
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.fuzz_forms import TOLERANCE, World

from cliplet.data.text import decode
from cliplet.scoring.file import score_file

TEXTS = ("a dog on the beach", "two red cars", "a man in blue", "green grass and a house", "a plate of food",
         "a woman sits on a black car", "white cat")  # fmt: skip
MORE = (
    "",
    ", and a car",
    ' "red"',
    " ; a dog",
    " naïve 🐶 cat",
    " [/x]",
    " 's dog",
    "\u2028two",
    " = a man",
    " ['a'",
)
Pair = tuple[int, Any]
"""Number of a photo and its caption."""


@dataclass
class Made:
    """A file, and how it is to be scored."""

    target: Path | list[Path]
    """What is given as captions."""
    photos: bool = False
    """Whether the photos came with it; else their folder is given."""
    damageable: bool = True
    """Whether it is one file that random damage can hit."""


# ---------------------------------------------------------------- layouts
def as_json(folder: Path, pairs: list[Pair], names: list[str], rng: np.random.Generator) -> Made:
    """A map, records, records in a wrapper, COCO's annotations, or Karpathy's."""
    image = str(rng.choice(["image", "file_name", "filename", "image_id", "filepath"]))
    caption = str(rng.choice(["caption", "candidate", "prediction", "text", "captions"]))
    records = [{image: name, caption: text, "more": 1} for name, (_, text) in zip(names, pairs, strict=True)]
    kind = int(rng.integers(5))
    if kind == 0:
        content: Any = (
            "{"
            + ", ".join(f"{json.dumps(n)}: {json.dumps(t)}" for n, (_, t) in zip(names, pairs, strict=True))
            + "}"
        )
    elif kind == 1:
        content = records
    elif kind == 2:
        content = {"info": {"version": 1}, "results": records}
    elif kind == 3:
        content = {
            "images": [{"id": 90 + n, "file_name": name} for n, name in enumerate(names)],
            "annotations": [{"id": n, "image_id": 90 + n, "caption": t} for n, (_, t) in enumerate(pairs)],
        }
    else:
        content = {
            "images": [
                {"filename": name, "sentences": [{"raw": text, "tokens": []}], "split": "test"}
                for name, (_, text) in zip(names, pairs, strict=True)
            ]
        }
    text = (
        content
        if isinstance(content, str)
        else json.dumps(content, indent=rng.choice([None, 2]), ensure_ascii=bool(rng.integers(2)))
    )
    path = folder / str(rng.choice(["c.json", "c.jsonl"] if kind == 1 else ["c.json"]))
    path.write_bytes(text.encode(str(rng.choice(["utf-8", "utf-8-sig", "utf-16"])), "surrogatepass"))
    return Made(path)  # fmt: skip


def as_lines(folder: Path, pairs: list[Pair], names: list[str], rng: np.random.Generator) -> Made:
    """One object a line: plain, a conversation, or a sample of lmms-eval."""
    kind = int(rng.integers(3))
    rows: list[dict[str, Any]] = []
    for name, (_, text) in zip(names, pairs, strict=True):
        turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": text}]
        rows.append([{"image": name, "caption": text}, {"id": "x", "image": name, "conversations": turns},
                     {"doc": {"file_name": name}, "filtered_resps": [text]}][kind])  # fmt: skip
    end = str(rng.choice(["\n", "\r\n", "\n\n"]))
    path = folder / str(rng.choice(["c.jsonl", "c.ndjson", "c.json"]))
    path.write_text(end.join(json.dumps(row) for row in rows) + "\n", newline="")
    return Made(path)


def as_cells(folder: Path, pairs: list[Pair], names: list[str], rng: np.random.Generator) -> Made:
    """Cells under a header, with quotes where they need them; tabs and bars know none."""
    separator = str(rng.choice([",", ";", "\t", "|"]))
    stream = io.StringIO(newline="")
    quoting = csv.QUOTE_MINIMAL if separator in ",;" else csv.QUOTE_NONE
    end = str(rng.choice(["\n", "\r\n"]))
    how: dict[str, Any] = {"quotechar": '"'} if separator in ",;" else {"quotechar": None}
    writer = csv.writer(stream, delimiter=separator, quoting=quoting, lineterminator=end, **how)
    writer.writerow(["image", "caption", "more"])
    for name, (_, text) in zip(names, pairs, strict=True):
        writer.writerow([name, text, "1"])
    path = folder / ("c.tsv" if separator == "\t" else str(rng.choice(["c.csv", "captions.txt"])))
    path.write_bytes(stream.getvalue().encode(str(rng.choice(["utf-8", "utf-8-sig", "utf-16"]))))
    return Made(path)


def as_tokens(folder: Path, pairs: list[Pair], names: list[str], rng: np.random.Generator) -> Made:
    """``image#number<TAB>caption``."""
    path = folder / str(rng.choice(["c.token", "c.txt", "Flickr.token.txt"]))
    lines = [f"{name}#{n}\t{text}" for n, (name, (_, text)) in enumerate(zip(names, pairs, strict=True))]
    path.write_text("\n".join(lines) + "\n", newline="")
    return Made(path)


def beside(
    world: World, folder: Path, pairs: list[Pair], rng: np.random.Generator
) -> list[tuple[str, bytes]]:
    """Photos and captions as files of one key."""
    style = str(rng.choice(["{:03d}", "22.{:02d}", "train.v1/{:03d}", "a/b.{}"]))
    suffix, dotted = str(rng.choice([".txt", ".caption", ".cap", ".json"])), style in ("22.{:02d}", "a/b.{}")
    found = []
    for n, (photo, text) in enumerate(pairs):
        key = style.format(n)
        content = json.dumps({"caption": text, "id": n}) if suffix == ".json" else str(text)
        files = [(f"{key}.png", world.paths[photo].read_bytes()), (f"{key}{suffix}", content.encode())]
        found += files[::-1] if rng.random() < 0.5 and not dotted else files
    return found


def as_shards(folder: Path, files: list[tuple[str, bytes]], rng: np.random.Generator, several: bool) -> Made:
    """One tar or several, perhaps in gzip."""
    cut = 2 * int(rng.integers(1, len(files) // 2)) if several and len(files) > 2 else len(files)
    packed, paths = bool(rng.integers(2)), []
    for number, members in enumerate([files[:cut], files[cut:]]):
        if members:
            stream = io.BytesIO()
            with tarfile.open(fileobj=stream, mode="w") as out:
                for name, content in members:
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    out.addfile(info, io.BytesIO(content))
            paths.append(folder / f"{number:03d}.tar{'.gz' * packed}")
            paths[-1].write_bytes(gzip.compress(stream.getvalue(), 1) if packed else stream.getvalue())
    return Made(paths if len(paths) > 1 else paths[0], True, len(paths) == 1)


def as_folder(folder: Path, files: list[tuple[str, bytes]]) -> Made:
    """A folder of photos with their texts."""
    for name, content in files:
        (folder / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "d" / name).write_bytes(content)
    return Made(folder / "d", True, False)


def as_columns(
    folder: Path, world: World, pairs: list[Pair], names: list[str], rng: np.random.Generator
) -> Made:
    """Parquet or Arrow, with photos by name or inside."""
    import pyarrow
    from pyarrow import parquet

    inside = bool(rng.integers(2))
    photos: list[Any] = names
    if inside:
        photos = [
            {"bytes": world.paths[p].read_bytes(), "path": f"{n}.png"} for n, (p, _) in enumerate(pairs)
        ]
    table = pyarrow.table(
        {"image": photos, "caption": [text for _, text in pairs], "when": [None] * len(pairs)}
    )
    if rng.random() < 0.5:
        parquet.write_table(table, folder / "c.parquet", row_group_size=int(rng.integers(1, 5)))
        return Made(folder / "c.parquet", inside)
    with (
        pyarrow.OSFile(str(folder / "d.arrow"), "wb") as sink,
        pyarrow.ipc.new_stream(sink, table.schema) as out,
    ):
        out.write_table(table, max_chunksize=int(rng.integers(1, 5)))
    (folder / "state.json").write_text('{"_data_files": [{"filename": "d.arrow"}]}')
    return Made(folder, inside, False)


# ---------------------------------------------------------------- one call
NAMES: tuple[Callable[[int], str], ...] = (
    lambda i: f"photo{i}.png", lambda i: f"./photo{i}.png", lambda i: f"data/photo{i}.png",
    lambda i: f"PHOTO{i}.PNG", lambda i: f"photo{i}", lambda i: f"photo{i}.jpg",
)  # fmt: skip
LAYOUTS = ("json", "lines", "cells", "tokens", "tar", "tars", "folder", "columns")
WHOLE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "blank": lambda data: b" \n\n",
    "cut": lambda data: data[: len(data) // 2],
    "other fields": lambda data: (
        decode(data)
        .replace("caption", "wrong")
        .replace("conversations", "wrong")
        .replace("filtered_resps", "wrong")
        .encode("utf-8", "surrogatepass")
    ),
}
"""Faults of a whole file that must be refused."""


def file_call(
    world: World, rng: np.random.Generator
) -> tuple[str, Callable[[], tuple[Any, Any, Any]], bool, bool]:
    """Name, what runs it (scores, reasons, rows wanted), whether it must and whether it may be refused."""
    layout = str(rng.choice(LAYOUTS))
    n = int(rng.integers(2, 9))
    texts = [TEXTS[rng.integers(len(TEXTS))] + MORE[rng.integers(len(MORE))] for _ in range(n)]
    pairs: list[Pair] = [(int(rng.integers(6)), text) for text in texts]
    style = NAMES[rng.integers(len(NAMES))]
    names = [style(photo) for photo, _ in pairs]
    bad = int(rng.integers(n))
    fault = str(rng.choice(["none", "row", "row", "whole", "damage"]))
    if fault == "row":
        names, pairs, row_fault = _spoiled(layout, names, pairs, bad, rng)
        fault = f"row {row_fault}"
    seed = int(rng.integers(2**31))
    if fault == "whole":
        kinds = {
            "json": ["empty", "blank", "cut"],
            "lines": ["empty", "blank", "other fields"],
            "cells": ["empty", "blank", "other fields"],
            "tokens": ["empty", "blank"],
            "folder": ["none"],
        }
        fault = str(rng.choice(kinds.get(layout, ["empty"])))

    def run() -> tuple[Any, Any, Any]:
        inner = np.random.default_rng(seed)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            made = _written(layout, world, folder, pairs, names, inner)
            paths = made.target if isinstance(made.target, list) else [made.target]
            if fault == "damage" and made.damageable:
                _damage(paths[0], inner)
            elif not fault.startswith(("none", "row", "damage")):
                for path in (
                    paths if not paths[0].is_dir() else [p for p in paths[0].rglob("*") if p.is_file()]
                ):
                    data = path.read_bytes()
                    path.write_bytes(WHOLE[fault](data))
            found = score_file(made.target, None if made.photos else world.folder, world.scorer)
            scores = [row[_field(row)] for row in found.rows]
            scores = [float("nan") if s is None else s for s in scores]
            reasons = [row["reason"] for row in found.rows]
            if fault == "damage":
                return _checked(world, found.rows, scores, reasons, pairs, made)
            failing = {bad} if fault.startswith("row") else set()
            wanted = [
                (None if i in failing else oracle(world, *pair), TOLERANCE) for i, pair in enumerate(pairs)
            ]
            return scores, reasons, wanted

    must = not fault.startswith(("none", "row", "damage"))
    return f"{layout}, {fault}", run, must, fault == "damage"


def _written(
    layout: str, world: World, folder: Path, pairs: list[Pair], names: list[str], rng: np.random.Generator
) -> Made:
    if layout in ("tar", "tars", "folder"):
        files = beside(world, folder, pairs, rng)
        return (
            as_folder(folder, sorted(files))
            if layout == "folder"
            else as_shards(folder, files, rng, layout == "tars")
        )
    if layout == "columns":
        return as_columns(folder, world, pairs, names, rng)
    made = {"json": as_json, "lines": as_lines, "cells": as_cells, "tokens": as_tokens}[layout]
    return made(folder, pairs, names, rng)


def _spoiled(
    layout: str, names: list[str], pairs: list[Pair], bad: int, rng: np.random.Generator
) -> tuple[list[str], list[Pair], str]:
    """Rows of which one cannot be scored, and what is wrong with it."""
    kinds: dict[str, Any] = {"empty": "", "blank": " \u200b "}
    if layout in ("json", "lines"):
        kinds |= {"null": None, "number": 7, "a list of numbers": [3], "broken": "a \ud800 dog"}
    if layout in ("json", "lines", "cells", "tokens"):
        kinds["no such photo"] = ...
    kind = str(rng.choice(list(kinds)))
    names, pairs = list(names), list(pairs)
    if kinds[kind] is ...:
        names[bad] = "nobody.png"
    else:
        pairs[bad] = (pairs[bad][0], kinds[kind])
    return names, pairs, kind


def _damage(path: Path, rng: np.random.Generator) -> None:
    """Change, put in or cut off bytes; none becomes a digit or a letter, so no name or word turns into another."""
    data = bytearray(path.read_bytes())
    kind = int(rng.integers(3))
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(data)))
        byte = b'",\n\t{}[]:\\|; \0\xff\xc3'[rng.integers(16)]
        if kind == 0:
            data[at] = byte
        elif kind == 1:
            data.insert(at, byte)
        else:
            del data[max(at, 1) :]
    path.write_bytes(data)


def _checked(
    world: World, rows: Any, scores: list[float], reasons: Any, pairs: list[Pair], made: Made
) -> tuple[Any, Any, Any]:
    """Of a damaged file the rows whose photo and caption are both known: they must be a pair, with its score."""
    kept = []
    known = {text for _, text in pairs}
    for i, (row, score) in enumerate(zip(rows, scores, strict=True)):
        number = re.search(r"photo(\d)", str(row["image"]), re.IGNORECASE)
        if row["reason"] is None and row["caption"] in known and number and not made.photos:
            pair = int(number[1]), row["caption"]
            kept.append((score, None, (oracle(world, *pair) if pair in pairs else None, TOLERANCE)))
        elif (row["reason"] is None) != (score == score):
            kept.append((score, reasons[i], (None, 0.0)))
    columns = list(zip(*kept, strict=True)) or [(), (), ()]
    return columns[0], columns[1], list(columns[2])


def _field(row: dict[str, Any]) -> str:
    return next(name for name in ("clip_score", "cosine") if name in row)


def oracle(world: World, photo: int, text: str) -> float:
    """The score of a photo as a PNG's path with this caption."""
    key = photo, text
    if key not in world.scores:
        world.scores[key] = float(world.scorer.score([world.paths[photo]], [text]).score[0])
    return world.scores[key]
