"""`cliplet score` as a stream: what chooses it, what it refuses, what it prints."""

import json

import pytest
from click.testing import CliRunner

from cliplet.cli.main import cli
from tests.stream.conftest import ROWS, rows, shard


def call(*arguments):
    return CliRunner().invoke(cli, ["score", *map(str, arguments)])


@pytest.fixture
def given(here, tmp_path):
    return [
        here / "captions.csv",
        "--images",
        here / "photos",
        "--model",
        here / "tiny",
        "--out",
        tmp_path / "out",
    ]


def test_the_command_writes_parts_summary_and_report_and_goes_on(given, tmp_path):
    done = call(*given, "--part-rows", 40, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["summary"]["captions"] == ROWS
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        ".lock", "parts", "plan.json", "summary.json", "report.html"}  # fmt: skip
    assert len(rows(tmp_path / "out")) == ROWS
    page = (tmp_path / "out" / "report.html").read_text()
    assert "A sample of" in page
    assert "data:image/jpeg" in page
    again = call(*given, "--part-rows", 40)
    assert "3 of 3 parts are there already" in again.stderr
    assert "100 captions" in again.stdout


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--safe-csv"], "--safe-csv is for rows.csv"),
        (["--model", "none"], "only metrics on references: give references and metrics"),
    ],
)
def test_options_that_a_stream_does_not_have_are_refused(given, more, why):
    done = call(*given, "--parts", "jsonl", *more)
    assert done.exit_code != 0
    assert why in f"{done.output} {done.exception}".replace("\n", " ")


def test_a_stream_needs_a_folder(here):
    done = call(here / "captions.csv", "--images", here / "photos", "--parts", "parquet")
    assert "--out DIR" in done.output
    assert done.exit_code != 0


@pytest.mark.parametrize("option", ["--images", "--refs"])
def test_photos_or_references_at_an_address_make_it_a_stream(here, option):
    done = call(here / "captions.csv", option, "memory://somewhere")
    assert done.exit_code == 2
    assert "--out DIR" in done.output


def test_a_folder_of_shards_is_a_stream_by_itself(here, tmp_path):
    (tmp_path / "shards").mkdir()
    for i in range(2):
        shard(tmp_path / "shards" / f"{i}.tar", 10 * i, 10)
    done = call(tmp_path / "shards", "--model", here / "tiny", "--out", tmp_path / "out", "--parts", "jsonl")
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for i in range(2)
             for line in (tmp_path / "out" / "parts" / f"part-0000{i}.jsonl").read_text().splitlines()]  # fmt: skip
    assert len(lines) == 20
    assert lines[0]["member"] == "0000.jpg"
    assert lines[0]["image"].endswith("0.tar/0000.jpg")


def test_files_without_captions_are_refused(here, tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(here / "photos" / "0.jpg", "0.jpg")
    done = call(tmp_path / "a.tar", "--model", here / "tiny", "--out", tmp_path / "out", "--parts", "jsonl")
    assert isinstance(done.exception, Exception)
    assert "holds no captions" in str(done.exception)


def test_what_a_cut_tar_has_lost_is_told_without_an_image(here, tmp_path):
    content = shard(tmp_path / "whole.tar", 0, 6).read_bytes()
    (tmp_path / "a.tar").write_bytes(content[: len(content) // 2])
    done = call(tmp_path / "a.tar", "--model", here / "tiny", "--out", tmp_path / "out", "--parts", "jsonl")
    assert "the tar is cut off" in done.stdout
    assert ": :" not in done.stdout
