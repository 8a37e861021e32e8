"""The bench of objectives: its questions by hand, every arm's settings, and a whole small run that goes on."""

import json
import shutil

import numpy as np
import pytest

from cliplet.errors import InputError
from cliplet.training.recipes import open_recipe
from tests.shared_data import ROOT
from tests.training import make

RECIPE = ROOT / "recipes" / "objectives"
CLASSES = {"r": "red thing", "g": "green thing", "b": "blue thing", "y": "yellow thing"}


def write_data(folder):
    """Two collections of drawings, named by their colour, and classes to name."""
    for name, count, seed in (("train", 40, 0), ("test", 16, 1)):
        make.dataset(folder / name, count, seed)
        for photo in (folder / name / "photos").iterdir():
            colour = list(make.COLOURS)[int(photo.stem) % 4]
            photo.rename(photo.with_name(f"{colour[0]}{name}{photo.name}"))
        lines = [json.loads(line) for line in (folder / name / "captions.jsonl").read_text().splitlines()]
        for line in lines:
            colour = list(make.COLOURS)[int(line["image"][:3]) % 4]
            line["image"] = f"{colour[0]}{name}{line['image']}"
        text = "\n".join(json.dumps(line) for line in lines)
        (folder / name / "captions.jsonl").write_text(text)
    (folder / "classes").mkdir()
    for colour in make.COLOURS:
        make.drawing(colour, "square", 7).save(folder / "classes" / f"n01_{colour}.png")
    (folder / "class_names.json").write_text(json.dumps(CLASSES))
    make.model_folder(folder / "start")
    return folder


def small(folder, out, *changes):
    """The recipe on them, from a start that is there already."""
    domain = (
        f'{{name="toy", few=16, batch_size=8, class_names="{folder}/class_names.json", '
        f'train={{captions=["{folder}/train/captions.jsonl"], photos=["{folder}/train/photos"]}}, '
        f'test={{captions=["{folder}/test/captions.jsonl"], photos=["{folder}/test/photos"]}}}}'
    )
    return open_recipe(
        RECIPE,
        [
            f"data={folder}", f"out={out}", f"domains=[{domain}]", "steps=4", "resamples=50", "detector=''",
            f"classes={folder}/classes", 'tuning.student.train=["released"]', "tuning.student.dropout=0.0",
            "tuning.augment={views = 1}", "tuning.regions={proposer = 'grid:2'}", *changes,
        ],
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("bench"))


def start(monkeypatch, data):
    """Take the small model in the place of what the recipe makes."""
    from objectives import run

    def copied(folder, *_):
        if not folder.exists():
            shutil.copytree(data / "start", folder)

    monkeypatch.setattr(run, "make_start", copied)


def test_the_bench_runs_goes_on_and_compares(data, tmp_path, monkeypatch):
    few = '"contrastive", "wise_ft", "negclip", "sclip", "xclip", "multi_text"'
    _, kind, config = small(data, tmp_path / "run", f"only=[{few}]")
    start(monkeypatch, data)
    text = kind.run(config, False)
    assert text.startswith("All arms start from ")
    assert "## All settings" in text
    assert "## toy-few" in text
    assert "## toy-all" in text
    assert "the way from few captions" in text
    facts = json.loads((tmp_path / "run" / "toy-few-draw0" / "sclip-seed0" / "facts.json").read_text())
    assert facts["step_seconds"] > 0
    assert not (tmp_path / "run" / "toy-all-draw0" / "sclip-seed0").exists()  # there are no bare photos there
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("result.npz")}
    assert kind.run(config, False) == text
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("result.npz")} == before
    told = dict(kind.describe(config))
    assert told["toy-few, divided"] == "16 with captions to train on, 4 kept back, 20 bare"
    assert any(what.startswith("toy-few, sclip") for what in told)


def test_an_arm_that_cannot_learn_here_is_named_and_the_others_go_on(data, tmp_path, monkeypatch):
    boxes = '{name="boxes", set=["objectives.regions=1.0"]}'
    own = f'arms=[{{name="contrastive"}}, {boxes}, {{name="sr", set=["objectives.sr=1"]}}]'
    _, kind, config = small(data, tmp_path / "run", own, 'settings=["toy-few"]')
    start(monkeypatch, data)
    text = kind.run(config, False)
    assert "Not done:" in text
    assert "toy-few, seed 0: boxes:" in text
    assert "| sr | contrastive |" in text


def test_every_arm_has_settings_that_can_be_read(data, tmp_path):
    from objectives.run import configuration

    _, _, config = small(data, tmp_path / "run")
    for name in config.known:
        found = configuration(config, name, 1)
        assert found.student_stage.batch_size == 8
        assert found.draw == 1
    against = {arm.against for arm in config.arms}
    assert {"negclip", "triplet", "sclip", "pseudo", "regions", "un2clip", "one_caption"} <= against


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('only=["contrastiv"]', "only: there is no 'contrastiv'"),
        ('settings=["toy-some"]', "settings: there is no 'toy-some'; choose from toy-few, toy-all"),
        ('arms=[{name="contrastive"}, {name="x", against="y"}]', "arm x: there is no arm 'y'"),
        ("steps=0", "steps must be at least 1"),
    ],
)
def test_what_is_wrong_is_named(data, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        small(data, tmp_path / "run", change)


def test_equal_captions_count_as_right():
    from objectives.measure import retrieval

    images = np.eye(3, dtype=np.float32)
    captions = ["a field.", "A field", "a river"]  # the first two are the same words, of photos 0 and 1
    texts = images[[1, 0, 2]]
    found = retrieval(images, texts, np.array([0, 1, 2]), captions)
    assert found["T2I|R@1"].tolist() == [1, 1, 1]  # each finds the other's photo, which says the same
    assert found["I2T|R@1"].tolist() == [1, 1, 1]
    assert len(found["T2I distinct|R@1"]) == 2
    apart = retrieval(images, texts, np.array([0, 1, 2]), ["x", "y", "z"])
    assert apart["T2I|R@1"].tolist() == [0, 0, 1]
    assert apart["T2I|mAP"][2] == 1
    assert apart["T2I|mAP"].min() == pytest.approx(1 / 3)  # ties count as wrong: the right photo comes last


def test_the_linear_probe_finds_a_direction():
    from objectives.measure import linear_probe

    rng = np.random.default_rng(0)
    seen = rng.normal(size=(200, 8)).astype(np.float32)
    target = np.stack([seen[:, 2] > 0, seen[:, 2] <= 0], axis=1).astype(np.float32)
    new = rng.normal(size=(100, 8)).astype(np.float32)
    right = linear_probe(seen, target, new, 1.0).argmax(1) == (new[:, 2] <= 0)
    assert right.mean() > 0.9


def test_agreement_with_people_is_that_of_evaluate_human(tmp_path):
    """Of a model that knows the right order of one photo's captions and not of the other's."""
    from objectives.measure import agreement

    folder = tmp_path / "judged"
    photos = folder / "photos"
    photos.mkdir(parents=True)
    names = ["a.jpg", "b.jpg"]
    for i, name in enumerate(names):
        make.drawing("red", "square", i).save(photos / name)
    texts = [f"caption {i}" for i in range(6)]
    (folder / "Flickr8k.token.txt").write_text(
        "".join(f"c{i}.jpg#0\t{t}\n" for i, t in enumerate(texts)) + "a.jpg#0\tits own\nb.jpg#0\tits own\n"
    )
    ratings = {"a.jpg": [1, 2, 4], "b.jpg": [3, 2, 1]}
    rows = [(name, i, r) for name, own in ratings.items() for i, r in enumerate(own)]
    (folder / "ExpertAnnotations.txt").write_text(
        "".join(f"{name}\tc{i}.jpg#0\t{r}\t{r}\t{r}\n" for name, i, r in rows)
    )
    (folder / "CrowdFlowerAnnotations.txt").write_text(
        "".join(f"{name}\tc{i}.jpg#0\t{r / 4}\t{r}\t{4 - r}\n" for name, i, r in rows)
    )

    class Known:
        def images(self, photos):
            return np.eye(2, dtype=np.float32)[: len(photos)]

        def texts(self, texts):
            height = [int(t.split()[1]) / 10 for t in texts]
            return np.array([[h, 0.2] for h in height], dtype=np.float32)

    found = agreement(Known(), folder, str(photos))
    x = np.array([0.0, 0.1, 0.2, 0.2, 0.2, 0.2])
    y = np.array([r for _, _, r in rows])
    from scipy.stats import kendalltau

    assert found["CF tau-b"]["value"] == pytest.approx(kendalltau(x, y, variant="b").statistic)
    three, thrice = np.repeat(x, 3), np.repeat(y, 3)
    assert found["Expert tau-c"]["value"] == pytest.approx(kendalltau(three, thrice, variant="c").statistic)
    assert found["Expert tau-c"]["low"] <= found["Expert tau-c"]["value"] <= found["Expert tau-c"]["high"]
