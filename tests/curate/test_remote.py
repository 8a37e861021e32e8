"""Curation of shards at addresses: what comes out is what local shards give, whatever a store does on the way."""

import json

import pyarrow
import pytest
from click.testing import CliRunner
from pyarrow import parquet

pytest.importorskip("fsspec")

from cliplet.cli.main import cli
from cliplet.curate.rules import Rules
from cliplet.curate.run import curate as run
from cliplet.curate.work import CurateWork
from cliplet.curate.write import note_name
from cliplet.stream import remote
from cliplet.stream.sources import find_sources
from tests.curate.data import good_rows, output, raw_members, tiny, write_shard
from tests.stream.failing_proxy import failing_store

RULES = ["--min-cosine", "-1", "--skip", "empty", "--near-cosine", "0.999"]


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(remote, "CHUNK", 8192)


@pytest.fixture
def memory():
    """fsspec's file system in memory, empty."""
    import fsspec

    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Three shards with img2dataset's files beside them; the second repeats a photo of the first, one is no photo."""
    folder = tmp_path_factory.mktemp("shards")
    rows = good_rows(18)
    rows[8] = (rows[1][0], "another caption of a copy")
    rows[14] = (b"no photo", "a red dog on the grass")
    for i in range(3):
        write_shard(folder / f"{i:05d}.tar", rows[6 * i : 6 * i + 6], 6 * i, {"notes.md": b"kept as it is"})
        keys = [f"{k:09d}" for k in range(6 * i, 6 * i + 6)]
        parquet.write_table(pyarrow.table({"key": keys, "url": ["x"] * 6}), folder / f"{i:05d}.parquet")
        (folder / f"{i:05d}_stats.json").write_text('{"count": 6}')
    return folder


def curate(source, out, model, *more):
    done = CliRunner().invoke(
        cli, ["curate", str(source), "--out", str(out), "--model", model, *RULES, "--workers", "1", *more]
    )
    assert done.exit_code == 0, (done.output, done.exception)
    return done


def curate_here(source, out, model, form="list", images=None):
    """In this process, which alone has what is in its memory."""
    rules = Rules(min_cosine=-1, skip=("empty",), near_cosine=0.999)
    return run(
        find_sources([str(source)]),
        out,
        rules,
        CurateWork(model, images=images),
        form=form,
        workers=0,
        quiet=True,
    )


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def alike(far, near):
    """Rows without what says where they came from."""

    def plain(rows):
        found = []
        for row in rows:
            reasons = [reason["rule"] for reason in row.get("reasons", [])]
            found.append(
                (row["where"], row["image"].rpartition("/")[2], row["caption"], row["cosine"], reasons)
            )
        return found

    return plain(far) == plain(near)


@pytest.mark.filterwarnings("ignore")
def test_a_store_that_fails_every_tenth_request_gives_what_local_shards_do(
    shards, model, tmp_path, monkeypatch
):
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    curate(f"{shards}/{{00000..00002}}.tar", tmp_path / "near", model, "--write", "shards")
    with failing_store(monkeypatch, "curated") as (client, proxy):
        for path in shards.iterdir():
            client.put_object(Bucket="curated", Key=f"laion/{path.name}", Body=path.read_bytes())
        curate("s3://curated/laion/{00000..00002}.tar", tmp_path / "far", model, "--write", "shards")
        assert proxy.failed >= 3
        before = output(tmp_path / "far")
        curate("s3://curated/laion/{00000..00002}.tar", tmp_path / "far", model, "--write", "shards")
        assert output(tmp_path / "far") == before, "a second call changes nothing"
    near, far = tmp_path / "near", tmp_path / "far"
    assert alike(lines(far / "removed.jsonl"), lines(near / "removed.jsonl"))
    assert {row["reasons"][0]["rule"] for row in lines(far / "removed.jsonl")} == {"duplicate", "unreadable"}
    names = {
        str(path.relative_to(near)) for path in (near / "kept").iterdir() if not path.name.startswith(".")
    }
    assert names == {str(p.relative_to(far)) for p in (far / "kept").iterdir() if not p.name.startswith(".")}
    assert "kept/00001.parquet" in names
    assert "kept/00001_stats.json" in names
    for name in names:
        if name.endswith(".tar"):
            assert raw_members(far / name) == raw_members(near / name), name
        elif name.endswith(".parquet"):
            assert parquet.read_table(far / name) == parquet.read_table(near / name), name
    assert parquet.read_table(far / "kept" / "00002.parquet").num_rows == 5
    assert "data:image/jpeg" in (far / "report.html").read_text()


def test_lists_and_tables_of_remote_shards_are_those_of_local_ones(shards, model, memory, tmp_path):
    for path in shards.glob("*.tar"):
        memory.pipe(f"/laion/{path.name}", path.read_bytes())
    for form, name in (("list", "kept.jsonl"), ("parquet", "kept")):
        curate_here("memory://laion", tmp_path / f"far-{form}", model, form)
        curate_here(shards, tmp_path / f"near-{form}", model, form)
        assert alike(
            lines(tmp_path / f"far-{form}" / "removed.jsonl"),
            lines(tmp_path / f"near-{form}" / "removed.jsonl"),
        )
        assert (tmp_path / f"far-{form}" / name).exists()
    kept = [
        parquet.read_table(tmp_path / f"{side}-parquet/kept/00001.tar.parquet") for side in ("far", "near")
    ]
    assert kept[0].drop(["source"]) == kept[1].drop(["source"])


def test_remote_parquet_with_photos_inside_is_filtered_row_by_row(model, memory, tmp_path):
    rows = good_rows(12)
    rows[7] = rows[2]
    table = pyarrow.table({"image": [{"bytes": photo, "path": f"{i}.jpg"} for i, (photo, _) in enumerate(rows)],
                           "caption": [text for _, text in rows], "more": list(range(12))})  # fmt: skip
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=5)
    memory.pipe("/t/a.parquet", (tmp_path / "a.parquet").read_bytes())
    curate_here("memory://t/a.parquet", tmp_path / "far", model, "parquet")
    kept = parquet.read_table(tmp_path / "far" / "kept" / "a.parquet")
    assert kept["more"].to_pylist() == [i for i in range(12) if i != 7]


def test_a_dry_run_counts_the_pairs_of_remote_shards(shards, model, memory, tmp_path):
    for path in shards.glob("*.tar"):
        memory.pipe(f"/laion/{path.name}", path.read_bytes())
    done = CliRunner().invoke(
        cli, ["curate", "memory://laion", "--dry-run", "--model", model, "--json", *RULES]
    )
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["pairs"] == 18
    assert said["sampled"] == 18
    assert said["pairs_a_second"] > 0


def test_a_dry_run_measures_photos_inside_remote_parquet(model, memory, tmp_path):
    rows = good_rows(12)
    table = pyarrow.table({"image": [{"bytes": photo, "path": f"{i}.jpg"} for i, (photo, _) in enumerate(rows)],
                           "caption": [text for _, text in rows]})  # fmt: skip
    parquet.write_table(table, tmp_path / "a.parquet")
    memory.pipe("/t/a.parquet", (tmp_path / "a.parquet").read_bytes())
    done = CliRunner().invoke(cli, ["curate", "memory://t", "--dry-run", "--model", model, "--json", *RULES])
    assert done.exit_code == 0, (done.output, done.exception)
    said = json.loads(done.stdout)
    assert (said["pairs"], said["sampled"], said["sample_kept"]) == (12, 12, 12)


def test_photos_at_an_address_beside_a_captions_file(model, memory, tmp_path):
    rows = good_rows(8)
    for i, (photo, _) in enumerate(rows):
        memory.pipe(f"/p/{i}.jpg", photo)
    (tmp_path / "c.csv").write_text(
        "image,caption\n" + "".join(f"{i}.jpg,{text}\n" for i, (_, text) in enumerate(rows))
    )
    curate_here(tmp_path / "c.csv", tmp_path / "out", model, images="memory://p")
    assert len(lines(tmp_path / "out" / "kept.jsonl")) == 8


def test_sources_whose_names_differ_by_a_stroke_have_notes_of_their_own():
    assert note_name("a/b-c.tar") != note_name("a-b/c.tar")
    assert note_name("a/b") != note_name("a%2Fb")


def test_shards_of_folders_that_differ_by_a_stroke_are_both_written_on_a_second_call(model, tmp_path):
    rows = good_rows(8)
    write_shard(tmp_path / "s" / "a" / "b-c.tar", rows[:4])
    write_shard(tmp_path / "s" / "a-b" / "b-c.tar", rows[4:])
    write_shard(tmp_path / "s" / "a-b" / "c.tar", good_rows(4, 30))
    out = tmp_path / "out"
    done = CliRunner().invoke(
        cli, ["curate", str(tmp_path / "s" / "a" / "b-c.tar"), str(tmp_path / "s" / "a-b" / "b-c.tar"),
              str(tmp_path / "s" / "a-b" / "c.tar"), "--out", str(out), "--model", model, "--write", "shards", *RULES],
    )  # fmt: skip
    assert done.exit_code == 0, (done.output, done.exception)
    notes = [path.name for path in (out / "kept").glob(".*.json")]
    assert len(notes) == 3
    assert (
        len(raw_members(out / "kept" / "a" / "b-c.tar"))
        == len(raw_members(out / "kept" / "a-b" / "c.tar"))
        == 12
    )
