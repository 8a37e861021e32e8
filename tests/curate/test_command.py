"""`cliplet curate` as a user gives it: shards with faults in, outputs out, whatever interrupts it."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pyarrow
import pytest
from click.testing import CliRunner
from PIL import Image
from pyarrow import parquet

from cliplet.cli.main import cli
from cliplet.errors import InputError
from tests.curate.data import add, drawn, good_rows, jpeg, output, raw_members, tiny, write_shard

RULES = ["--min-match", "0", "--min-cosine", "-1"]
"""The tiny model knows nothing: no threshold."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of 8 with a copy, a near copy, a truncated photo, a file's name and a short caption."""
    folder = tmp_path / "shards"
    rows = good_rows(24)
    rows[9] = (rows[2][0], "a white cat runs on the beach number 99")
    rows[17] = (jpeg(drawn(3).resize((80, 80)), 60), rows[17][1])
    rows[5] = (rows[5][0][:300], rows[5][1])
    rows[12] = (rows[12][0], "IMG_0012.JPG")
    rows[20] = (rows[20][0], "cat")
    for i in range(3):
        more = {"notes/README.md": b"about", "lone.jpg": jpeg(drawn(500 + i))} if i == 1 else None
        write_shard(folder / f"{i:05d}.tar", rows[8 * i : 8 * i + 8], 8 * i, more)
        keys = [f"{k:09d}" for k in range(8 * i, 8 * i + 8)]
        table = pyarrow.table(
            {"key": [*keys, "000000777"], "status": ["success"] * 8 + ["failed_to_download"]}
        )
        parquet.write_table(table, folder / f"{i:05d}.parquet")
        (folder / f"{i:05d}_stats.json").write_text('{"count": 9, "successes": 8}')
    return folder


GONE = {5: "unreadable", 12: "name", 20: "short"}


def curate(*arguments: object, status: int = 0):
    """Run the command in this process."""
    done = CliRunner().invoke(cli, ["curate", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == status, done.output
    return done


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def number(row: dict) -> int:
    return int(Path(row["image"]).stem)


def test_every_pair_is_kept_or_removed_with_its_reasons(shards, model, tmp_path):
    out = tmp_path / "out"
    done = curate(shards / "{00000..00002}.tar", "--out", out, "--model", model, *RULES)
    removed, kept = lines(out / "removed.jsonl"), lines(out / "kept.jsonl")
    assert sorted(number(row) for row in removed + kept) == list(range(24))
    found = {number(row): [reason["rule"] for reason in row["reasons"]] for row in removed}
    assert found.keys() - GONE.keys() in ({2, 3}, {2, 17}, {9, 3}, {9, 17})
    assert {k: v for k, v in found.items() if k in GONE} == {k: [v] for k, v in GONE.items()}
    (copy,) = [r for row in removed for r in row["reasons"] if r["rule"] == "duplicate"]
    assert copy["of"].startswith(str(shards))
    assert "the same bytes" in copy["why"]
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["pairs"], summary["kept"], summary["removed"]) == (24, 19, 5)
    assert "19 of 24 pairs kept" in done.output
    assert max(map(len, done.output.splitlines())) <= 80 or str(tmp_path) in done.output
    page = (out / "report.html").read_text()
    assert page.count("<img") > 20
    for title in ("Which threshold?", "Kept", "Copies", "Removed: name"):
        assert title in page
    ranked = [row["cosine"] for row in lines(out / "mismatched.jsonl")]
    assert ranked == sorted(ranked)
    assert len(ranked) == 23


def test_shards_are_rewritten_with_every_other_member_byte_for_byte(shards, model, tmp_path):
    out = tmp_path / "out"
    curate(shards, "--out", out, "--model", model, "--write", "shards", *RULES)
    gone = {number(row) for row in lines(out / "removed.jsonl")}
    for i in range(3):
        old, new = raw_members(shards / f"{i:05d}.tar"), raw_members(out / "kept" / f"{i:05d}.tar")
        expected = {n: b for n, b in old.items() if not (n[0] == "0" and int(n[:9]) in gone)}
        assert list(new) == list(expected)
        assert new == expected
        sidecar = parquet.read_table(out / "kept" / f"{i:05d}.parquet")
        keys = {f"{k:09d}" for k in range(8 * i, 8 * i + 8)} - {f"{k:09d}" for k in gone}
        assert set(sidecar["key"].to_pylist()) == keys | {"000000777"}
        assert (out / "kept" / f"{i:05d}_stats.json").read_text() == '{"count": 9, "successes": 8}'
    assert (out / "kept/00001.tar").stat().st_size % tarfile.RECORDSIZE == 0
    notes = json.loads((out / "summary.json").read_text())["notes"]
    assert any("00001_stats.json was copied as it is" in note for note in notes)
    assert any("samples without a caption stay" in note for note in notes)


def test_a_shard_with_long_names_links_and_gzip_keeps_them(tmp_path, model):
    rows = good_rows(3)
    long = "photos/" + "x" * 150
    folder = tmp_path / "in"
    folder.mkdir()
    with tarfile.open(folder / "a.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as tar:
        for i, (photo, text) in enumerate(rows):
            add(tar, f"{long}{i}.jpg", photo)
            add(tar, f"{long}{i}.txt", b"dog" if i == 1 else text.encode())
    out = tmp_path / "out"
    curate(folder / "a.tar.gz", "--out", out, "--model", model, "--write", "shards", *RULES)
    with tarfile.open(folder / "a.tar.gz") as old, tarfile.open(out / "kept/a.tar.gz") as new:
        kept = [m.name for m in old if not m.name.startswith(f"{long}1")]
        assert new.getnames() == kept
        for name in kept:
            assert new.extractfile(name).read() == old.extractfile(name).read()


@pytest.mark.parametrize("inside", [-100, 100], ids=["header", "photo"])
def test_a_cut_shard_keeps_what_there_is_and_says_so(shards, model, tmp_path, inside):
    path = shards / "00002.tar"
    with tarfile.open(path) as tar:
        end = tar.getmember("000000021.jpg").offset_data + inside
    path.write_bytes(path.read_bytes()[:end])
    out = tmp_path / "out"
    curate(shards, "--out", out, "--model", model, "--write", "shards", *RULES)
    old = [n for n in raw_members(out / "kept/00002.tar") if n.endswith(".txt")]
    assert old == [f"{i:09d}.txt" for i in (16, 17, 18, 19) if i != 17 or "000000017.txt" in old]
    summary = json.loads((out / "summary.json").read_text())
    assert any("is cut off" in note or "is damaged" in note for note in summary["notes"])
    removed = lines(out / "removed.jsonl")
    lost = [r["why"] for row in removed for r in row["reasons"] if "what follow" in r["why"]]
    assert len(lost) == 1
    assert summary["kept"] + len(removed) == summary["pairs"]


def test_a_parquet_source_keeps_its_own_columns(tmp_path, model):
    rows = good_rows(6)
    rows[4] = (rows[1][0], rows[4][1])
    table = pyarrow.table(
        {
            "caption": [text if i != 2 else "dog" for i, (_, text) in enumerate(rows)],
            "image": [{"bytes": photo, "path": f"{i}.jpg"} for i, (photo, _) in enumerate(rows)],
            "list": [[i, i] for i in range(6)],
        }
    )
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    out = tmp_path / "out"
    curate(tmp_path / "a.parquet", "--out", out, "--model", model, "--write", "parquet", *RULES)
    found = parquet.read_table(out / "kept/a.parquet")
    gone = {4} if found.num_rows and "4.jpg" not in [r["path"] for r in found["image"].to_pylist()] else {1}
    assert found.equals(table.filter(pyarrow.array([i not in gone | {2} for i in range(6)])))


def test_a_table_beside_photos_as_csv(tmp_path, model):
    for i, (photo, _) in enumerate(good_rows(5)):
        (tmp_path / f"p{i}.jpg").write_bytes(photo)
    captions = tmp_path / "c.csv"
    captions.write_text(
        "image,caption,licence\n"
        + "".join(f"p{i}.jpg,a dog runs on the grass number {i},by\n" for i in range(6))
    )
    out = tmp_path / "out"
    done = curate(captions, "--out", out, "--model", model, "--write", "csv", "--strict", *RULES, status=1)
    with open(out / "kept.csv", newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == [f"p{i}.jpg" for i in range(5)]
    (row,) = lines(out / "removed.jsonl")
    assert (row["image"], row["licence"], row["reasons"][0]["rule"]) == ("p5.jpg", "by", "unreadable")
    assert "there is no photo" in row["reasons"][0]["why"]
    assert "unreadable" in done.output


def test_other_rules_decide_anew_without_measuring(shards, model, tmp_path):
    out = tmp_path / "out"
    curate(shards, "--out", out, "--model", model, "--write", "shards", *RULES)
    before = {p: p.stat().st_mtime_ns for p in (out / "measured/parts").iterdir()}
    curate(shards, "--out", out, "--model", model, "--write", "shards", "--min-words", "1", *RULES)
    assert {p: p.stat().st_mtime_ns for p in (out / "measured/parts").iterdir()} == before
    assert "000000020.txt" in raw_members(out / "kept/00002.tar")
    stamp = (out / "kept/00002.tar").stat().st_mtime_ns
    decided = (out / "decided/decision.json").stat().st_mtime_ns
    curate(shards, "--out", out, "--model", model, "--write", "shards", "--min-words", "1", *RULES)
    assert (out / "kept/00002.tar").stat().st_mtime_ns == stamp
    assert (out / "decided/decision.json").stat().st_mtime_ns == decided


def test_a_dry_run_writes_nothing(shards, model, tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    before = sorted(p for p in tmp_path.rglob("*"))
    done = curate(shards, "--dry-run", "--model", model, "--out", tmp_path / "out", *RULES)
    assert sorted(p for p in tmp_path.rglob("*")) == before
    assert "3 files" in done.output
    assert "24 pairs" in done.output
    assert "a second" in done.output
    found = json.loads(curate(shards, "--dry-run", "--json", "--model", model, *RULES).output)
    assert found["exact"]
    assert found["sample_removed"] == {"unreadable": 1, "name": 1, "short": 1}


def test_wrong_input_is_refused_before_work(shards, model, tmp_path):
    def refused(*arguments: object) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "cliplet", "curate", *map(str, arguments), "--model", model],
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 2, done.stdout
        assert "Traceback" not in done.stderr
        return done.stderr

    captions = tmp_path / "c.csv"
    captions.write_text("image,caption\na.jpg,a dog\n")
    out = tmp_path / "out"
    assert "--write shards rewrites WebDataset tars" in refused(captions, "--out", out, "--write", "shards")
    assert "--language xx" in refused(shards, "--out", out, "--language", "xx")
    assert "--out DIR" in refused(shards)
    assert "there is no such file" in refused(tmp_path / "none.tar", "--out", out)
    assert "has no match" in refused(shards, "--out", out, "--min-match", "0.5")
    assert "--skip nothing" in refused(shards, "--out", out, "--skip", "nothing")
    assert "no photo was found" in refused(captions, "--out", out)
    assert not out.exists() or not list(out.glob("*.json*"))
    curate(shards, "--out", out, "--model", model, *RULES)
    assert "holds another run" in refused(shards, "--out", out, "--preset", "cosine")


def test_engines_and_workers_give_the_same_files(shards, model, tmp_path):
    curate(shards, "--out", tmp_path / "one", "--model", model, "--write", "shards", *RULES)
    curate(shards, "--out", tmp_path / "two", "--model", model, "--write", "shards", "--workers", "2", *RULES)
    assert output(tmp_path / "one") == output(tmp_path / "two")
    assert len(output(tmp_path / "one")) > 15


def test_a_killed_run_goes_on_and_gives_the_same_files(tmp_path, model):
    rows = good_rows(60)
    for i in range(30):
        write_shard(tmp_path / "in" / f"{i:05d}.tar", rows[2 * i : 2 * i + 2], 2 * i)
    command = [
        sys.executable, "-m", "cliplet", "curate", str(tmp_path / "in"), "--model", model, "--write", "shards", *RULES,
        "--min-words", "3", "--out",
    ]  # fmt: skip
    subprocess.run([*command, str(tmp_path / "once")], check=True, capture_output=True)
    out = tmp_path / "killed"
    for wanted in (
        "measured/parts/part-00004.parquet",
        "measured/parts/part-00020.parquet",
        "kept/00003.tar",
    ):
        process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while not (out / wanted).exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run([*command, str(out)], check=True, capture_output=True, text=True)
    assert "parts are there already" in done.stderr
    assert output(out) == output(tmp_path / "once")
    assert not list(out.glob("*.part"))
    assert not (out / ".scratch").exists()


@pytest.mark.skipif("ray" not in os.environ.get("CLIPLET_TEST_ENGINES", "ray"), reason="left out")
def test_ray_gives_the_same_files(shards, model, tmp_path):
    pytest.importorskip("ray")
    curate(shards, "--out", tmp_path / "one", "--model", model, *RULES)
    done = subprocess.run(
        [sys.executable, "-m", "cliplet", "curate", str(shards), "--model", model, *RULES, "--engine", "ray",
         "--workers", "1", "--out", str(tmp_path / "two")],
        capture_output=True, text=True, env={**os.environ, "RAY_ADDRESS": "local"},  # not one that runs here already
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert output(tmp_path / "one") == output(tmp_path / "two")


def test_photos_are_read_once_and_as_the_scorer_reads_them(tmp_path, model):
    from cliplet.curate.measure import Measurer, Pair
    from cliplet.data.records import CaptionEntry
    from cliplet.scoring.scorer import Scorer

    image = drawn(7, 900)
    image = image.transpose(Image.Transpose.ROTATE_90)
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(out, "JPEG", exif=exif)
    sources = [out.getvalue(), good_rows(1)[0][0], b"no photo"]
    pairs = [
        Pair("a.tar", CaptionEntry(str(i), "a red dog", str(i)), photo, str(i), None)
        for i, photo in enumerate(sources)
    ]
    scorer = Scorer(model)
    (table,) = Measurer(scorer).tables(pairs, set())
    expected = scorer.score(sources, ["a red dog"] * 3)
    assert table["cosine"].to_pylist()[:2] == pytest.approx(expected.cosine[:2].tolist(), abs=1e-6)
    assert table["cosine"].to_pylist()[2] is None
    assert "not an image" in table["reason"].to_pylist()[2]
    assert table["width"].to_pylist() == [900, 96, None]
    assert [cell is not None for cell in table["embedding"].to_pylist()] == [True, True, False]


def test_a_saved_data_set_comes_out_as_parquet_by_name_too(tmp_path, model):
    from pyarrow import ipc

    (tmp_path / "set").mkdir()
    rows = good_rows(6)
    table = pyarrow.table({"image": [photo for photo, _ in rows], "caption": [text for _, text in rows]})
    path = tmp_path / "set" / "data-00000-of-00001.arrow"
    with ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)
    curate(path, "--model", model, "--out", tmp_path / "out", "--write", "parquet", *RULES)
    (kept,) = [p for p in (tmp_path / "out" / "kept").iterdir() if not p.name.startswith(".")]
    assert kept.name == "data-00000-of-00001.arrow.parquet"
    assert parquet.read_table(kept).num_rows == 6


def test_a_decision_that_was_half_taken_away_is_made_again(tmp_path, model, shards, monkeypatch):
    given = [shards, "--model", model, "--out", tmp_path / "out", *RULES]
    curate(*given)
    before = (tmp_path / "out" / "kept.jsonl").read_bytes()

    def stopped(path: Path) -> None:
        if path.name == "decided":
            (path / "part-00001.parquet").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("cliplet.files._remove", stopped)
        done = CliRunner().invoke(cli, ["curate", *map(str, given), "--min-words", "9"])
        assert done.exit_code
    curate(*given)
    assert (tmp_path / "out" / "kept.jsonl").read_bytes() == before


def test_two_curations_in_one_folder_are_refused(tmp_path, model, shards):
    from cliplet.stream.run import alone

    (tmp_path / "out").mkdir()
    with alone(tmp_path / "out"), pytest.raises(InputError, match="another run is at work"):
        curate(shards, "--model", model, "--out", tmp_path / "out", *RULES)


def test_a_shard_without_one_photo_that_can_be_read_goes_through(tmp_path, model):
    folder = tmp_path / "shards"
    write_shard(folder / "0.tar", [])
    (folder / "00.tar").write_bytes(b"no tar" * 200)
    write_shard(folder / "1.tar", [(b"none", text) for _, text in good_rows(3)])
    write_shard(folder / "2.tar", good_rows(3, 10), 10)
    curate(
        folder, "--model", model, "--out", tmp_path / "out", "--write", "shards", *RULES, status=1
    )  # 00.tar
    removed = lines(tmp_path / "out" / "removed.jsonl")
    assert [row["reasons"][0]["rule"] for row in removed] == ["unreadable"] * 3
    assert len(raw_members(tmp_path / "out" / "kept" / "2.tar")) == 9
    alone = tmp_path / "alone"
    curate(folder / "1.tar", "--model", model, "--out", alone, *RULES)
    assert len(lines(alone / "removed.jsonl")) == 3


def test_a_dry_run_passes_broken_shards(tmp_path, model, shards):
    (shards / "00000.tar").write_bytes(b"no tar" * 200)
    done = curate(shards, "--model", model, "--dry-run", "--json", *RULES)
    assert json.loads(done.stdout)["sampled"] == 16  # of two shards


@pytest.mark.parametrize("form", ["shards", "list"])
def test_samples_of_a_part_that_was_given_up_do_not_pass_for_kept(tmp_path, model, form):
    shard, out = write_shard(tmp_path / "a.tar", good_rows(30)), tmp_path / "out"
    given = [shard, "--model", model, "--out", out, "--write", form, "--part-rows", 10, *RULES]
    curate(*given)
    (out / "measured" / "parts" / "part-00001.parquet").unlink()
    (out / "measured" / "failed").mkdir()
    about = {"part": 1, "source": "a.tar", "reason": "killed"}
    (out / "measured" / "failed" / "part-00001.json").write_text(json.dumps(about))
    curate(*given, status=1)
    if form == "shards":
        assert len(raw_members(out / "kept" / "a.tar")) == 3 * 20
    notes = json.loads((out / "summary.json").read_text())["notes"]
    assert any("10 samples of parts that were given up are left out" in note for note in notes) == (
        form == "shards"
    )
    curate(*given, "--retry-failed")
    if form == "shards":
        assert len(raw_members(out / "kept" / "a.tar")) == 3 * 30


def test_a_library_that_happens_to_be_imported_makes_no_other_run(tmp_path, model, shards, monkeypatch):
    given = [shards / "00000.tar", "--model", model, "--out", tmp_path / "out", *RULES]
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    curate(*given)
    monkeypatch.setitem(sys.modules, "torch", io)
    curate(*given)


def test_paths_are_whole_for_the_processes_of_other_machines(tmp_path, model, monkeypatch):
    from cliplet.curate.work import CurateWork
    from cliplet.stream import run
    from cliplet.stream.scores import located

    (tmp_path / "photos").mkdir()
    for i, (photo, _) in enumerate(good_rows(3)):
        (tmp_path / "photos" / f"{i}.jpg").write_bytes(photo)
    (tmp_path / "a.csv").write_text(
        "image,caption\n" + "".join(f"{i}.jpg,a red dog runs {i}\n" for i in range(3))
    )
    monkeypatch.chdir(tmp_path)
    given, local = [], run.ENGINES["local"]

    def noted(workers, work, *rest):
        given.append(work)
        return local(0, work, *rest)

    monkeypatch.setattr(run, "ENGINES", {"local": noted})
    Path("m").symlink_to(model)
    curate("a.csv", "--images", "photos", "--model", "m", "--out", "out", *RULES)
    assert (given[0].images, given[0].model) == (str(tmp_path / "photos"), str(tmp_path / "m"))
    for images, path in (("s3://photos/a", "s3://photos/a"), ("file://photos", str(tmp_path / "photos"))):
        assert located(CurateWork(images=images)).images == path
