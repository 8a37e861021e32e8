"""Parts, resuming, and runs that are killed: the output is that of a run that was never stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cliplet.errors import InputError
from cliplet.stream.score import score_stream
from cliplet.stream.scores import ScoreWork
from tests.shared_data import ROOT
from tests.stream.conftest import ROWS, contents, rows
from tests.stream.works import SlowWork


@pytest.fixture
def work(here):
    return SlowWork(str(here / "tiny"), images=str(here / "photos"))


@pytest.fixture(scope="module")
def whole(here, tmp_path_factory):
    """An uninterrupted run in this process."""
    folder = tmp_path_factory.mktemp("whole")
    work = ScoreWork(str(here / "tiny"), images=str(here / "photos"))
    score_stream([str(here / "captions.csv")], folder, work, workers=0, part_rows=10, quiet=True)
    return folder


def test_the_rows_are_those_of_a_plain_run(here, whole, tmp_path):
    from cliplet.scoring.file import score_file
    from cliplet.scoring.scorer import Scorer

    plain = score_file(here / "captions.csv", here / "photos", Scorer(here / "tiny")).rows
    found = rows(whole)
    assert len(found) == len(plain) == ROWS
    for row, other in zip(found, plain, strict=True):
        assert row["cosine"] == pytest.approx(other["cosine"], abs=2e-6)
        assert {
            name: row[name] for name in ("image", "caption", "where", "origin", "truncated", "reason")
        } == {name: other[name] for name in ("image", "caption", "where", "origin", "truncated", "reason")}


def test_worker_processes_write_the_same_bytes(here, whole, work, tmp_path):
    done = score_stream([str(here / "captions.csv")], tmp_path, work, workers=2, part_rows=10, quiet=True)
    assert contents(tmp_path) == contents(whole)
    assert not done.run.failed
    assert (tmp_path / "summary.json").read_text() == (whole / "summary.json").read_text()


def test_json_lines_hold_the_same_rows(here, whole, work, tmp_path):
    score_stream(
        [str(here / "captions.csv")], tmp_path, work, form="jsonl", workers=0, part_rows=10, quiet=True
    )
    files = sorted((tmp_path / "parts").iterdir())
    lines = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    assert [line["cosine"] for line in lines] == [round(row["cosine"], 6) for row in rows(whole)]
    assert lines[7]["origin"] == "web7"


def test_a_run_goes_on_with_the_parts_that_are_missing(here, whole, work, tmp_path):
    arguments = [str(here / "captions.csv")]
    score_stream(arguments, tmp_path, work, workers=0, part_rows=10, quiet=True)
    kept = tmp_path / "parts" / "part-00003.parquet"
    before = kept.stat().st_mtime_ns
    for lost in ("part-00000.parquet", "part-00004.parquet"):
        (tmp_path / "parts" / lost).unlink()
    done = score_stream(arguments, tmp_path, work, workers=0, part_rows=10, quiet=True)
    assert done.run.before == 8
    assert contents(tmp_path) == contents(whole)
    assert kept.stat().st_mtime_ns == before


def test_another_run_in_the_folder_is_refused_and_the_difference_named(here, work, tmp_path):
    arguments = [str(here / "captions.csv")]
    score_stream(arguments, tmp_path, work, workers=0, part_rows=10, quiet=True)
    with pytest.raises(InputError, match="part rows was 10 and is 20"):
        score_stream(arguments, tmp_path, work, workers=0, part_rows=20, quiet=True)
    with pytest.raises(InputError, match="preset was .paper. and is .cosine."):
        score_stream(arguments, tmp_path, replace(work, preset="cosine"), workers=0, part_rows=10, quiet=True)
    with pytest.raises(InputError, match="form was"):
        score_stream(arguments, tmp_path, work, form="jsonl", workers=0, part_rows=10, quiet=True)


def test_a_changed_file_is_refused(here, work, tmp_path):
    captions = tmp_path / "c.csv"
    captions.write_bytes((here / "captions.csv").read_bytes())
    score_stream([str(captions)], tmp_path / "out", work, workers=0, part_rows=10, quiet=True)
    captions.write_bytes(captions.read_bytes() + b"1.jpg,a dog,x\n")
    with pytest.raises(InputError, match="c.csv has another size"):
        score_stream([str(captions)], tmp_path / "out", work, workers=0, part_rows=10, quiet=True)


def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost_or_twice(here, whole, work, tmp_path):
    """The first kill: a worker."""
    once = replace(work, kills_once=str(tmp_path / "killed"))
    done = score_stream(
        [str(here / "captions.csv")], tmp_path / "out", once, workers=2, part_rows=10, quiet=True
    )
    assert (tmp_path / "killed").exists()
    assert not done.run.failed
    assert contents(tmp_path / "out") == contents(whole)


def test_a_part_that_keeps_killing_its_process_is_given_up_after_three_attempts(here, whole, work, tmp_path):
    arguments = [str(here / "captions.csv")]
    bad = replace(work, kills=2)
    done = score_stream(arguments, tmp_path, bad, workers=2, part_rows=10, quiet=True)
    about = json.loads((tmp_path / "failed" / "part-00002.json").read_text())
    assert (about["attempts"], about["reason"]) == (3, "its process ended with signal 9")
    assert list(done.run.failed) == [2]
    assert "part-00002" in json.loads((tmp_path / "summary.json").read_text())["failed_parts"]
    assert len(rows(tmp_path)) == ROWS - 10
    again = score_stream(arguments, tmp_path, work, workers=0, part_rows=10, quiet=True)
    assert list(again.run.failed) == [2], "given up stays given up"
    again = score_stream(arguments, tmp_path, work, workers=0, part_rows=10, retry_failed=True, quiet=True)
    assert not again.run.failed
    assert contents(tmp_path) == contents(whole)


def test_a_part_that_is_broken_is_given_up_at_once(here, work, tmp_path):
    done = score_stream([str(here / "captions.csv")], tmp_path, replace(work, raises=1), workers=0, part_rows=10,
                        quiet=True)  # fmt: skip
    about = json.loads((tmp_path / "failed" / "part-00001.json").read_text())
    assert (about["attempts"], about["reason"]) == (1, "this part is broken")
    assert list(done.run.failed) == [1]


def drive(here: Path, folder: Path, engine: str = "local", workers: int = 2) -> "subprocess.Popen[bytes]":
    """A driver in a process of its own, with slow parts."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.stream.works", str(here / "captions.csv"), str(folder), str(here / "tiny"),
         str(here / "photos"), engine, str(workers)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        cwd=ROOT, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def wait_for_parts(folder: Path, count: int, seconds: float = 60) -> None:
    """Until so many parts are there."""
    end = time.monotonic() + seconds
    while len(list((folder / "parts").glob("part-*.parquet"))) < count:
        assert time.monotonic() < end, "no parts come"
        time.sleep(0.05)


def test_a_killed_driver_loses_and_repeats_nothing(here, whole, work, tmp_path):
    """The second kill: the driver."""
    driver = drive(here, tmp_path)
    wait_for_parts(tmp_path, 2)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    time.sleep(1.5)  # its workers end by themselves
    there = len(list((tmp_path / "parts").glob("part-*.parquet")))
    assert there < 10
    time.sleep(0.6)
    assert len(list((tmp_path / "parts").glob("part-*.parquet"))) == there, "a worker lives on"
    done = score_stream([str(here / "captions.csv")], tmp_path, work, workers=0, part_rows=10, quiet=True)
    assert done.run.before == there
    assert contents(tmp_path) == contents(whole)


def test_two_runs_in_one_folder_are_refused(here, work, tmp_path):
    driver = drive(here, tmp_path)
    wait_for_parts(tmp_path, 1)
    try:
        with pytest.raises(InputError, match="another run is at work"):
            score_stream([str(here / "captions.csv")], tmp_path, work, workers=0, part_rows=10, quiet=True)
    finally:
        driver.kill()
        driver.wait()


def test_a_model_that_cannot_be_loaded_ends_the_run(here, work, tmp_path):
    (tmp_path / "match.json").write_text("{}")
    with pytest.raises(InputError, match="is not a match"):
        score_stream([str(here / "captions.csv")], tmp_path / "o", replace(work, match=str(tmp_path / "match.json")),
                     workers=1, part_rows=10, quiet=True)  # fmt: skip


def test_a_run_that_could_not_begin_is_in_nobodys_way(here, work, tmp_path):
    arguments = [str(here / "captions.csv")]
    with pytest.raises(InputError, match="its precision|precision is its own"):
        score_stream(
            arguments, tmp_path, replace(work, precision="fp16"), workers=0, part_rows=10, quiet=True
        )
    done = score_stream(arguments, tmp_path, work, workers=0, part_rows=50, quiet=True)
    assert len(done.run.files()) == 2


def test_parts_whose_plan_is_gone_are_not_taken_for_those_of_another(here, work, tmp_path):
    arguments = [str(here / "captions.csv")]
    score_stream(arguments, tmp_path, work, workers=0, part_rows=50, quiet=True)
    (tmp_path / "plan.json").unlink()
    with pytest.raises(InputError, match="parts without the plan"):
        score_stream(arguments, tmp_path, work, workers=0, part_rows=10, quiet=True)


def test_the_summary_names_device_provider_and_precision(here, whole):
    facts = json.loads((whole / "summary.json").read_text())["provenance"]
    assert (facts["device"], facts["provider"]) == ("cpu", "CPUExecutionProvider")
    assert facts["precision"]


def test_the_precision_of_a_stream_is_that_which_was_asked_for(here, tmp_path):
    pytest.importorskip("torch")
    work = ScoreWork("tests.training.make:encoder", images=str(here / "photos"), precision="bf16")
    score_stream([str(here / "captions.csv")], tmp_path, work, workers=0, part_rows=50, quiet=True)
    facts = json.loads((tmp_path / "summary.json").read_text())["provenance"]
    assert (facts["device"], facts["precision"]) == ("cpu", "bf16")


def test_another_onnxruntime_is_another_run(here, work, tmp_path, monkeypatch):
    from cliplet.stream import score

    arguments = [str(here / "captions.csv")]
    score_stream(arguments, tmp_path, work, workers=0, part_rows=50, quiet=True)
    plan = json.loads((tmp_path / "plan.json").read_text())["settings"]
    assert plan["onnxruntime"] == score.versions()["onnxruntime"]
    other = score.versions() | {"onnxruntime": "0.9"}
    monkeypatch.setattr(score, "versions", lambda: other)
    with pytest.raises(InputError, match="onnxruntime was .* and is .0.9.. Give the command that began it"):
        score_stream(arguments, tmp_path, work, workers=0, part_rows=50, quiet=True)
    (tmp_path / "parts" / "part-00000.parquet").unlink()
    (tmp_path / "parts" / "part-00001.parquet").unlink()
    done = score_stream(arguments, tmp_path, work, workers=0, part_rows=50, quiet=True)
    assert not done.run.before, "where no part is there it begins anew"
    assert json.loads((tmp_path / "plan.json").read_text())["settings"]["onnxruntime"] == "0.9"


def test_the_plan_says_which_device_auto_is(here, work, tmp_path):
    arguments = [str(here / "captions.csv")]
    score_stream(arguments, tmp_path, replace(work, device="auto"), workers=0, part_rows=50, quiet=True)
    assert json.loads((tmp_path / "plan.json").read_text())["settings"]["device"] == "cpu"
    done = score_stream(arguments, tmp_path, work, workers=0, part_rows=50, quiet=True)
    assert done.run.before == 2, "the default device is the same one"


def test_a_machine_with_another_version_says_so():
    from cliplet.stream.ray import _other_version
    from cliplet.versions import versions

    known = versions()["onnxruntime"]
    assert _other_version({"onnxruntime": known, "cliplet": versions()["cliplet"], "torch": None}) is None
    assert _other_version({"onnxruntime": "0.9"}) == f"onnxruntime {known}, and the run was planned with 0.9"
    assert (
        _other_version({"versions": {"onnxruntime": "0.9"}})
        == f"onnxruntime {known}, and the run was planned with 0.9"
    )


def test_a_difference_inside_a_setting_is_named(tmp_path):
    from cliplet.stream.plan import Plan, check_same

    plan = Plan([], [], {"versions": {"numpy": "1", "onnxruntime": "2"}})
    with pytest.raises(InputError, match='onnxruntime of versions was "2" and is "3"'):
        check_same(plan, [], {"versions": {"numpy": "1", "onnxruntime": "3"}}, tmp_path)
