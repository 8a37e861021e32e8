"""Planted faults in a few real pairs are found, and little else is removed."""

import random

from benchmarks.curate_faults import COPIES, judge, plant, real_pairs, removed_of, write_shards
from click.testing import CliRunner

from cliplet.cli.main import cli
from tests.shared_data import data_root, shared_data


def test_planted_faults_are_found(tmp_path):
    shared_data("flickr8k/images_dev.tar")
    rng = random.Random(7)
    rows = plant(real_pairs(data_root(), "dev", rng)[:300], rng)
    truth = write_shards(rows, tmp_path / "shards", rng)
    done = CliRunner().invoke(
        cli, ["curate", str(tmp_path / "shards"), "--out", str(tmp_path / "out"), "--language", "en"]
    )
    assert done.exit_code == 0, done.output
    found = judge(truth, removed_of(tmp_path / "out"))
    for kind in (
        "copy",
        "truncated",
        "file name",
        "too short",
        "other language",
        "says nothing",
        "boilerplate",
    ):
        assert found[kind][3] == 1, kind
    assert min(found[kind][3] for kind in COPIES) >= 0.8
    assert found["swapped"][3] >= 0.7
    _, _, precision, recall = found["all"]
    assert (precision > 0.94) & (recall > 0.94), found
