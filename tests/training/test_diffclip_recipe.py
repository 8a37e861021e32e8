"""The recipe diffclip_houston on samples of two modalities made up here, windows and pixels, and on the real pixels."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from cliplet.cli.main import cli
from cliplet.errors import InputError
from cliplet.training.diffclip.folder import load_multimodal
from cliplet.training.recipes import kind_settings, open_recipe
from tests.shared_data import ROOT, shared_data

RECIPE = ROOT / "recipes" / "diffclip_houston"
CLASSES = ["grass", "water", "road"]
SMALL = (
    "draws=2", "shots=[2, 1]", 'arms=["diffclip", "nearest-mean", "plain", "no-pretraining", "shuffled-words"]',
    "pretrain.stage.epochs=1", "pretrain.stage.batch_size=16", "tune.steps=6", "tune.start=2", "plain_tune.steps=6",
    "tune.unlabelled_batch=8", "model.width=16", "model.heads=2",
)  # fmt: skip
PIXELS = (
    'modalities=[{name = "hsi", groups = 4, components = 3}, {name = "lidar", groups = 2, whitening = 0.5}]',
)
WINDOWS = ('modalities=[{name = "hsi", patch = 1}, {name = "lidar", patch = 3}]',)


@pytest.fixture(autouse=True)
def sentences(monkeypatch):
    """Embeddings of class sentences without the sentence encoder, which is a package of its own."""
    pytest.importorskip("sklearn")
    from diffclip_houston import network

    def embed(settings, classes):
        rng = np.random.default_rng(0)
        return rng.normal(size=(len(classes), len(settings.templates), 12)).astype(np.float32)

    monkeypatch.setattr(network, "embed_sentences", embed)


def write_data(folder, window: bool, each: int = 24):
    """Classes that differ in the level of both modalities."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), each)
    shape = (3, 3) if window else ()
    level = labels.reshape(-1, *[1] * (len(shape) + 1))
    folder.mkdir(exist_ok=True)
    np.savez(
        folder / "houston2013.npz",
        hsi=rng.normal(size=(len(labels), *shape, 8)) + 2 * level,
        lidar=rng.normal(size=(len(labels), *shape, 4)) - level,
        label=labels,
    )
    (folder / "class_names.json").write_text(json.dumps(CLASSES))
    return folder


def open_small(tmp_path, *changes, window=False):
    data = write_data(tmp_path / "data", window)
    shape = WINDOWS if window else PIXELS
    return open_recipe(RECIPE, [f"data={data}", f"out={tmp_path / 'run'}", *SMALL, *shape, *changes])


def results(tmp_path, name="run"):
    return [json.loads(line) for line in (tmp_path / name / "results.jsonl").read_text().splitlines()]


def without_seconds(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


# ---------------------------------------------------------------- whole runs
@pytest.mark.parametrize("window", [False, True])
def test_the_recipe_runs_on_pixels_and_on_windows(tmp_path, window):
    _, how, config = open_small(tmp_path, window=window)
    table = how.run(config, False)
    assert (tmp_path / "run" / "table.md").read_text() == table
    rows = results(tmp_path)
    assert len(rows) == 2 * 2 * 5
    assert {(r["shots"], r["arm"], r["draw"]) for r in rows} == {
        (k, arm, d) for k in (1, 2) for arm in config.arms for d in (0, 1)
    }
    assert all(0 <= r["overall"] <= 1 and -1 <= r["kappa"] <= 1 for r in rows)
    assert "| DiffCLIP, corrected |" in table
    assert "Does language help?" in table
    model = load_multimodal(tmp_path / "run" / "model")
    with np.load(tmp_path / "data" / "houston2013.npz") as data:
        assert set(model.predict([data["hsi"], data["lidar"]])) <= set(CLASSES)
    assert [m.tokens for m in model.model.config.modalities] == ([9, 1] if window else [4, 2])


def test_a_run_that_stopped_goes_on_to_the_same_results(tmp_path, monkeypatch):
    _, how, config = open_small(tmp_path)
    how.run(config, False)
    whole = results(tmp_path)
    from diffclip_houston.run import Grid

    kept, count = Grid.measure, [0]

    def measure(self, *job):
        count[0] += 1
        if count[0] == 8:
            raise KeyboardInterrupt
        return kept(self, *job)

    _, how, config = open_small(tmp_path, f"out={tmp_path / 'killed'}")
    with monkeypatch.context() as patch:
        patch.setattr(Grid, "measure", measure)
        with pytest.raises(KeyboardInterrupt):
            how.run(config, False)
    file = tmp_path / "killed" / "results.jsonl"
    assert len(results(tmp_path, "killed")) == 7
    file.write_text(file.read_text() + '{"arm": "diffclip", "sho')  # the line that was being written
    measured = []
    monkeypatch.setattr(Grid, "measure", lambda self, *job: measured.append(job) or kept(self, *job))
    how.run(config, False)
    assert len(measured) == len(whole) - 7
    assert without_seconds(results(tmp_path, "killed")) == without_seconds(whole)


def test_another_recipe_does_not_mix_with_a_run(tmp_path):
    _, how, config = open_small(tmp_path, "shots=[1]", "draws=1", 'arms=["nearest-mean"]')
    how.run(config, False)
    _, _, other = open_small(tmp_path, "shots=[1]", "draws=1", 'arms=["nearest-mean"]', "seed=1")
    with pytest.raises(InputError, match="another recipe"):
        how.run(other, False)
    _, _, more = open_small(tmp_path, "shots=[1, 2]", "draws=2", 'arms=["nearest-mean"]')
    how.run(more, False)
    assert len(results(tmp_path)) == 4


# ---------------------------------------------------------------- what no arm may see
def test_no_arm_sees_a_test_sample_but_the_one_that_says_so(tmp_path):
    from diffclip_houston.arms import ARMS
    from diffclip_houston.run import Grid

    _, _, config = open_small(tmp_path)
    grid = Grid(config)
    parts = grid.pixels.parts
    test = set(parts.test.tolist())
    for name, arm in ARMS.items():
        seen = set(grid.networks.unlabelled_rows(arm).tolist())
        assert bool(seen & test) == (name == "test-inputs")
    for draw in range(5):
        assert set(grid.pixels.shots(config, 2, draw).tolist()) <= set(parts.train.tolist())


def test_inputs_are_fitted_without_test_samples(tmp_path):
    from diffclip_houston.data import prepare, read_samples

    _, _, config = open_small(tmp_path)
    samples = read_samples(config)
    first = prepare(config, samples)
    for values in samples.values:
        values[first.parts.test] *= 100
    second = prepare(config, samples)
    assert all((a.matrix == b.matrix).all() for a, b in zip(first.inputs, second.inputs, strict=True))


def test_settings_are_chosen_by_other_draws(tmp_path):
    from diffclip_houston.data import prepare, read_samples

    _, _, config = open_small(tmp_path)
    _, _, dev = open_small(tmp_path, 'report_on="dev"')
    pixels = prepare(config, read_samples(config))
    assert set(pixels.shots(config, 2, 0)) != set(pixels.shots(dev, 2, 0))


def test_arms_of_a_draw_start_alike(tmp_path):
    """Language is the only difference: with the same class vectors the shuffled arm would be the first arm again."""
    import dataclasses

    from diffclip_houston import arms, network
    from diffclip_houston.run import Grid

    _, _, config = open_small(tmp_path, "draws=1")
    grid = Grid(config)
    first = grid.measure("diffclip", 2, 0)
    arms.ARMS["again"] = dataclasses.replace(network.ARMS["diffclip"])
    try:
        second = grid.measure("again", 2, 0)
    finally:
        del arms.ARMS["again"]
    assert (first["overall"], first["kappa"]) == (second["overall"], second["kappa"])


# ---------------------------------------------------------------- the command
def call(*arguments):
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def test_dry_run_writes_nothing(tmp_path):
    data = write_data(tmp_path / "data", False)
    done = call("distill", RECIPE, "--dry-run", f"data={data}", f"out={tmp_path / 'run'}", *SMALL, *PIXELS)
    assert done.exit_code == 0, done.output
    assert "train, dev, test" in done.output
    assert "20, 20 of them still to do" in done.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (['arms=["nearest"]'], "arms nearest; choose from diffclip"),
        (['modalities=[{name = "radar"}]'], "arrays radar and label"),
        (['modalities=[{name = "hsi", groups = 3}]'], "hsi: 3 groups do not divide 8 bands"),
        (["shots=[100]"], "to draw 100 shots from"),
        (["tune.step=3"], "unknown setting tune.step"),
    ],
)
def test_wrong_settings_are_named(tmp_path, changes, complaint):
    data = write_data(tmp_path / "data", False)
    done = call("distill", RECIPE, f"data={data}", f"out={tmp_path / 'run'}", *SMALL, *PIXELS, *changes)
    assert done.exit_code != 0
    assert complaint in f"{done.output} {done.exception}"


def test_missing_data_is_said_first(tmp_path):
    done = call("distill", RECIPE, f"data={tmp_path}")
    assert done.exit_code != 0
    assert "houston2013.npz" in f"{done.output} {done.exception}"


def test_settings_are_listed():
    assert "tune.unlabelled_noise" in kind_settings(str(RECIPE))


# ---------------------------------------------------------------- the real pixels
def test_the_real_pixels_have_fifteen_classes_and_no_twin_across_parts(tmp_path):
    shared_data("houston2013-pixels/houston2013.npz")
    from diffclip_houston.data import prepare, read_samples

    _, _, config = open_recipe(RECIPE, [f"data={shared_data('houston2013-pixels').parent}"])
    pixels = prepare(config, read_samples(config))
    flat, parts = pixels.samples.flat, pixels.parts
    assert len(pixels.samples.classes) == 15
    texts = [{flat[i].tobytes() for i in rows} for rows in (parts.train, parts.dev, parts.test)]
    assert not (texts[0] | texts[1]) & texts[2]
    assert not texts[0] & texts[1]


# ---------------------------------------------------------------- tables
def test_tables_pair_by_draw_and_leave_out_what_is_not_measured(tmp_path):
    from diffclip_houston.table import tables

    _, _, config = open_small(tmp_path, 'arms=["diffclip", "plain", "shuffled-words"]')
    rows = []
    for draw, level in enumerate((0.5, 0.9)):  # draws differ by 40 points, the arms by 2 within each
        for arm, gain in (("diffclip", 0.02), ("plain", 0.0)):
            figures = dict.fromkeys(("overall", "average", "kappa"), level + gain)
            rows.append({"arm": arm, "shots": 2, "draw": draw, **figures})
    text = tables(config, rows)
    assert "| plain network, labelled pixels only |  | 70.0 |" in text
    assert "| +2.0 (+2.0 to +2.0) |" in text
    assert "shuffled" not in text
