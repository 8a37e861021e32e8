"""What parts hold: cuts of tables and tars, bad rows with their reasons, one schema for all, columns of the files."""

import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from cliplet.data.captions import Columns, stream_captions
from cliplet.errors import InputError
from cliplet.stream import plan as plans
from cliplet.stream import reader
from cliplet.stream.plan import make_plan
from cliplet.stream.score import score_stream
from cliplet.stream.scores import ScoreWork
from cliplet.stream.sources import find_sources, holds_shards
from tests.stream.conftest import caption, jpeg, rows, shard


@pytest.fixture
def work(here):
    return ScoreWork(str(here / "tiny"), images=str(here / "photos"))


@pytest.fixture
def in_shards(here):
    return ScoreWork(str(here / "tiny"))


def table(path: Path, count: int, group: int, first: int = 0) -> Path:
    """A Parquet file of captions of the photos."""
    held = {"image": [f"{i % 8}.jpg" for i in range(first, first + count)],
            "caption": [caption(i) for i in range(first, first + count)],
            "width": list(range(first, first + count))}  # fmt: skip
    parquet.write_table(pa.table(held), path, row_group_size=group)
    return path


def cuts(arguments, rows_of_a_part):
    return [(start, stop) for _, start, stop in make_plan(find_sources(arguments), {}, rows_of_a_part).cuts]


# ---------------------------------------------------------------- plans
def test_tables_are_cut_by_whole_row_groups_and_long_groups_evenly(tmp_path):
    assert cuts([str(table(tmp_path / "a.parquet", 100, 30))], 60) == [(0, 60), (60, 100)]
    assert cuts([str(table(tmp_path / "b.parquet", 100, 100))], 30) == [
        (0, 25),
        (25, 50),
        (50, 75),
        (75, 100),
    ]
    assert cuts([str(table(tmp_path / "c.parquet", 7, 7))], 30) == [(0, 7)]


def test_any_slice_of_a_table_is_what_the_whole_file_has_there(tmp_path):
    path = table(tmp_path / "a.parquet", 700, 150)
    every = list(stream_captions(path))
    for start, stop in ((0, 150), (140, 160), (149, 151), (690, 700), (0, None), (300, 300), (255, 513)):
        assert list(stream_captions(path, None, None, start, stop)) == every[start:stop]


def test_a_saved_data_set_and_a_folder_of_tables_are_their_files(here, work, tmp_path):
    for folder, suffix in (("saved", "arrow"), ("tables", "parquet")):
        (tmp_path / folder).mkdir()
        for i in range(2):
            path = table(tmp_path / folder / f"data-{i}.{suffix}", 20, 20, 20 * i)
            if suffix == "arrow":
                content = parquet.read_table(path)
                with ipc.new_stream(path, content.schema) as writer:
                    writer.write_table(content)
    names = [{"filename": f"data-{i}.arrow"} for i in range(2)]
    (tmp_path / "saved" / "state.json").write_text(json.dumps({"_data_files": names}))
    found = []
    for folder in ("saved", "tables"):
        assert len(find_sources([str(tmp_path / folder)])) == 2
        score_stream(
            [str(tmp_path / folder)], tmp_path / f"out-{folder}", work, workers=0, part_rows=8, quiet=True
        )
        found.append(rows(tmp_path / f"out-{folder}"))
    assert [row["width"] for row in found[0]] == list(range(40))
    assert [row["cosine"] for row in found[0]] == [row["cosine"] for row in found[1]]


def test_a_long_tar_is_cut_and_a_short_one_is_not_even_listed(tmp_path, monkeypatch):
    long, short = shard(tmp_path / "long.tar", 0, 60), shard(tmp_path / "short.tar", 100, 12)
    listed = []
    real = plans.PhotoTar
    monkeypatch.setattr(plans, "PhotoTar", lambda path: listed.append(path.name) or real(path))
    assert cuts([str(long), str(short)], 20) == [(0, 20), (20, 40), (40, None), (0, None)]
    assert listed == ["long.tar"]


def test_cuts_of_a_tar_hold_all_its_rows_once(here, in_shards, tmp_path):
    path = shard(tmp_path / "long.tar", 0, 60)
    score_stream([str(path)], tmp_path / "cut", in_shards, workers=0, part_rows=20, quiet=True)
    score_stream([str(path)], tmp_path / "whole", in_shards, workers=0, quiet=True)
    assert len(list((tmp_path / "cut" / "parts").iterdir())) == 3
    several, one = rows(tmp_path / "cut"), rows(tmp_path / "whole")
    assert [row["member"] for row in several] == [row["member"] for row in one]
    assert [row["cosine"] for row in several] == pytest.approx([row["cosine"] for row in one], abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "why"), [(["no.csv"], "no such file"), (["*.nothing"], "no file matches")]
)
def test_what_is_not_there_is_refused(arguments, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=why):
        find_sources(arguments)


def test_a_file_named_twice_is_refused(here):
    with pytest.raises(InputError, match="named twice"):
        find_sources([str(here / "captions.csv")] * 2)


def test_photos_beside_texts_stay_a_folder_whatever_table_lies_there(tmp_path):
    inner = tmp_path / "00000"
    inner.mkdir()
    for i in range(3):
        (inner / f"{i}.jpg").write_bytes(jpeg(i))
        (inner / f"{i}.txt").write_text(caption(i))
    table(tmp_path / "00000.parquet", 3, 3)
    assert not holds_shards(str(tmp_path))
    assert [source.kind for source in find_sources([str(tmp_path)])] == ["folder"]
    shard(tmp_path / "00000.tar", 0, 3)
    assert holds_shards(str(tmp_path))
    assert [source.kind for source in find_sources([str(tmp_path)])] == ["tar"]


# ---------------------------------------------------------------- rows
def test_a_cut_tar_keeps_its_whole_samples_and_says_what_is_lost(here, in_shards, tmp_path):
    path = shard(tmp_path / "a.tar", 0, 10)
    with tarfile.open(path) as tar:
        end = tar.getmember("0006.jpg").offset_data + 100
    os.truncate(path, end)
    score_stream([str(path)], tmp_path / "out", in_shards, workers=0, quiet=True)
    found = rows(tmp_path / "out")
    assert [row["reason"] for row in found[:6]] == [None] * 6
    assert "cut off" in found[-1]["reason"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())["summary"]
    assert summary["captions"] == len(found)
    assert summary["failed"] == len(found) - 6
    assert any("cut off" in kind for kind in summary["failures"])


def test_a_bad_photo_and_a_bad_caption_fail_their_rows_alone(here, in_shards, tmp_path):
    path = shard(tmp_path / "a.tar", 0, 5, {"bad.jpg": b"no photo", "bad.txt": b"a dog", "b.jpg": jpeg(3),
                                            "b.txt": b"a dog \xe4 cat"})  # fmt: skip
    score_stream([str(path)], tmp_path / "out", in_shards, workers=0, quiet=True)
    found = {row["member"]: row for row in rows(tmp_path / "out")}
    assert len(found) == 7
    assert found["bad.jpg"]["reason"]
    assert found["bad.jpg"]["score"] is None
    assert "UTF-8" in found["b.jpg"]["reason"]
    assert sum(row["reason"] is None for row in found.values()) == 5


def test_columns_that_are_empty_or_fail_throughout_a_part_keep_their_type(here, work, tmp_path):
    """All parts are read as one table, though in one of them every score and every note is None."""
    held = {"image": ["0.jpg"] * 10 + ["gone.jpg"] * 10, "caption": [caption(i) for i in range(20)],
            "note": [f"n{i}" for i in range(10)] + [None] * 10}  # fmt: skip
    parquet.write_table(pa.table(held), tmp_path / "a.parquet", row_group_size=10)
    score_stream([str(tmp_path / "a.parquet")], tmp_path / "out", work, workers=0, part_rows=10, quiet=True)
    whole = parquet.read_table(tmp_path / "out" / "parts")
    assert whole.num_rows == 20
    assert str(whole.schema.field("score").type) == "float"
    assert str(whole.schema.field("note").type) == "string"
    assert whole.column("score").null_count == whole.column("note").null_count == 10


def test_other_columns_have_types_and_what_does_not_fit_is_kept_as_json(here, work, tmp_path):
    lines = [{"image": "0.jpg", "caption": "a dog", "n": i, "w": 0.5, "t": "x", "mixed": i if i % 2 else "m"}
             for i in range(300)]  # fmt: skip
    lines[250] |= {"n": "many", "late": 7}
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    score_stream([str(tmp_path / "a.jsonl")], tmp_path / "out", work, workers=0, part_rows=100, quiet=True)
    found = rows(tmp_path / "out")
    assert (found[3]["n"], found[3]["w"], found[3]["t"]) == (3, 0.5, "x")
    assert json.loads(found[3]["extra"]) == {"mixed": 3}
    assert found[250]["n"] is None
    assert json.loads(found[250]["extra"]) == {"n": "many", "mixed": "m", "late": 7}


def test_blocks_bound_the_memory_of_a_long_part(here, in_shards, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "BLOCK", 7)
    path = shard(tmp_path / "a.tar", 0, 20)
    score_stream([str(path)], tmp_path / "out", in_shards, workers=0, quiet=True)
    file = parquet.ParquetFile(tmp_path / "out" / "parts" / "part-00000.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [7, 7, 6]
    file.close()


def test_a_forgotten_folder_of_photos_is_said_before_any_work(here, tmp_path):
    with pytest.raises(InputError, match="--images"):
        score_stream([str(here / "captions.csv")], tmp_path, ScoreWork(str(here / "tiny"), images=str(tmp_path)),
                     workers=0, quiet=True)  # fmt: skip
    assert not (tmp_path / "plan.json").exists()


def test_columns_are_named_as_for_one_file(here, work, tmp_path):
    (tmp_path / "a.tsv").write_text("p\tsaid\n" + "".join(f"{i % 8}.jpg\t{caption(i)}\n" for i in range(5)))
    from dataclasses import replace

    named = replace(work, columns=Columns("p", "said"))
    score_stream([str(tmp_path / "a.tsv")], tmp_path / "out", named, workers=0, quiet=True)
    assert [row["caption"] for row in rows(tmp_path / "out")] == [caption(i) for i in range(5)]


def test_json_lines_keep_every_value_of_the_other_columns(here, work, tmp_path):
    lines = [{"image": "0.jpg", "caption": "a dog", "n": i, "mixed": i if i % 2 else "m"} for i in range(230)]
    lines[220] |= {"n": "many", "mixed": 2**70}
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = score_stream(
        [str(tmp_path / "a.jsonl")], tmp_path / "out", work, form="jsonl", workers=0, quiet=True
    )
    text = (tmp_path / "out" / "parts" / "part-00000.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    assert [(row["n"], row["mixed"]) for row in found] == [(row["n"], row["mixed"]) for row in lines]
    assert done.summary.rows == 230


def test_a_first_shard_that_is_broken_or_empty_stops_no_other(here, in_shards, tmp_path):
    (tmp_path / "0.tar").write_bytes(b"none " * 500)
    with tarfile.open(tmp_path / "1.tar", "w"):
        pass
    shard(tmp_path / "2.tar", 0, 5)
    names = [str(tmp_path / f"{i}.tar") for i in range(3)]
    done = score_stream(names, tmp_path / "out", in_shards, workers=0, part_rows=50, quiet=True)
    assert done.summary.rows == 5
    assert list(done.run.failed) == [0]
    with pytest.raises(InputError, match="0.tar is not a readable tar"):
        score_stream(names[:2], tmp_path / "o", in_shards, workers=0, part_rows=50, quiet=True)
