"""Rewrites of training captions: every source, what joins what, a run from recipe to table, several texts a step."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from cliplet.errors import InputError
from cliplet.training.dclip.config import load_dclip
from cliplet.training.dclip.cost import describe
from cliplet.training.dclip.run import DclipRun, dclip
from cliplet.training.dclip.student import StudentBatches
from cliplet.training.objectives import Drawn
from cliplet.training.objectives.multi_text import MultiText, MultiTextSettings
from cliplet.training.pairs import PairSet
from cliplet.training.rewriting import RewriteSettings, Rewriting, near_captions, offers, used_captions
from tests.training import make

TEXTS = [
    "A man is riding a horse .", "Two dogs run on grass .", "A dog is running .", "A cat sleeps .",
    "A man rides a horse .", "A man is riding a horse",
]  # fmt: skip
PHOTOS = np.array([0, 1, 1, 2, 2, 3])


def pairs():
    return PairSet([f"{i}.png" for i in range(4)], list(range(4)), list(TEXTS), PHOTOS)


def vectors():
    """Captions 0, 4 and 5 lie close, 1 and 2 less so, 3 alone."""
    angles = np.array([0.0, 1.5, 1.9, 3.0, 0.1, 0.05])
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def rewritten(folder, **settings):
    one = Rewriting(RewriteSettings(**settings), folder, folder / "features", vectors)
    return (*one(pairs()), one)


# ---------------------------------------------------------------- the sources
def test_without_sources_nothing_changes(tmp_path):
    same = pairs()
    found, source = Rewriting(RewriteSettings(), tmp_path, tmp_path, vectors)(same)
    assert found is same
    assert source.tolist() == [0, 1, 2, 3, 4, 5]


def test_rewrites_stand_after_the_captions_with_photo_and_source(tmp_path):
    found, source, _ = rewritten(tmp_path, sources=("rules", "eda"), per_caption=2)
    assert found.captions[:6] == TEXTS
    assert source[:6].tolist() == [0, 1, 2, 3, 4, 5]
    assert found.photo_of.tolist() == PHOTOS[source].tolist()
    assert len(found.captions) == len(source) > 12
    counts = np.bincount(source[6:], minlength=6)
    assert counts.max() <= 4  # two of each source
    plain = [(p, c.lower().rstrip(" .")) for p, c in zip(found.photo_of, found.captions, strict=True)]
    assert len(set(plain)) == len(plain)  # no text of a photo is there twice
    again, _, _ = rewritten(tmp_path, sources=("rules", "eda"), per_caption=2)
    assert again.captions == found.captions
    other, _, _ = rewritten(tmp_path, sources=("rules", "eda"), per_caption=2, seed=1)
    assert other.captions != found.captions


def test_only_the_first_captions_of_each_photo(tmp_path):
    assert used_captions(pairs(), 1).tolist() == [0, 1, 3, 5]
    found, source, _ = rewritten(tmp_path, captions=1)
    assert found.captions == [TEXTS[i] for i in (0, 1, 3, 5)]
    assert found.photo_of.tolist() == [0, 1, 2, 3]
    assert source.tolist() == [0, 1, 3, 5]
    found, source, _ = rewritten(tmp_path, captions=1, sources=("rules",))
    assert set(source.tolist()) <= {0, 1, 3, 5}
    assert not {TEXTS[2], TEXTS[4]} & set(found.captions)


def test_near_captions_are_of_other_photos_and_never_equal(tmp_path):
    near = near_captions(vectors(), pairs(), np.arange(6), 0.9, 4)
    # 5 is 0 without its full stop, and 1 and 2 are of one photo
    assert near == [[TEXTS[4]], [], [], [], [TEXTS[5]], [TEXTS[4]]]
    found, source, _ = rewritten(tmp_path, sources=("retrieved",), cosine=0.9)
    assert found.captions[6:] == [TEXTS[4], TEXTS[5], TEXTS[4]]
    assert source[6:].tolist() == [0, 4, 5]
    assert near_captions(vectors(), pairs(), np.arange(6), 0.9999, 4) == [[]] * 6
    assert near_captions(vectors()[[0, 5]], pairs(), np.array([0, 5]), 0.9, 4) == [[], []]


def test_a_file_of_rewrites_and_what_is_wrong_in_it(tmp_path, capsys):
    lines = [
        {"caption": "a cat sleeps", "rewrites": ["A cat naps .", "one", 3, "", "A cat sleeps ."]},
        {"caption": "nowhere", "rewrites": ["A text of nothing"]},
        {"caption": TEXTS[1], "rewrites": "Two dogs race"},
        {"rewrites": []},
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{broken\n")
    found, source, one = rewritten(tmp_path, sources=(str(file),))
    assert found.captions[6:] == ["A cat naps ."]
    assert source[6:].tolist() == [3]
    listed = (tmp_path / "rewrites-skipped.txt").read_text().splitlines()
    assert len(listed) == len(one.skipped) == 6
    for line, part in zip(
        listed,
        ("line 1: 'one': it has one word", "line 1: 3: the caption is not a string", "line 1: '': the caption is empty",
         "line 3: the rewrites are no list but 'Two dogs race'", "line 4: no object", "line 5: no JSON"),
        strict=True,
    ):  # fmt: skip
        assert part in line
    assert "6 rewrites or lines left out" in capsys.readouterr().err
    file.write_text(json.dumps({"caption": "of nothing", "rewrites": ["A text of nothing"]}) + "\n")
    with pytest.raises(InputError, match="has a rewrite of none of the 6 training captions"):
        rewritten(tmp_path, sources=(str(file),))


OWN = """
calls = []


def model(texts):
    calls.append(list(texts))
    return [["so to say " + text, f"number {len(calls)}", "x"] for text in texts]


def fails(texts):
    raise RuntimeError("out of memory")


def short(texts):
    return [["one two"]]


number = 3
"""


def test_a_function_is_asked_once_and_its_answers_are_kept(tmp_path, monkeypatch):
    (tmp_path / "own_model.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    found, _, one = rewritten(tmp_path, sources=("own_model:model",))
    import own_model

    assert len(own_model.calls) == 1
    assert "so to say A cat sleeps ." in found.captions
    assert "number 1" in found.captions
    assert len(one.skipped) == 6
    assert "own_model:model, 'A cat sleeps .': 'x': it has one word only" in one.skipped
    again, _, _ = rewritten(tmp_path, sources=("own_model:model",))
    assert again.captions == found.captions
    assert len(own_model.calls) == 1
    (kept,) = tmp_path.glob("rewrites-model-*.jsonl")
    kept.write_text(kept.read_text()[:-20])  # a run killed while it wrote
    rewritten(tmp_path, sources=("own_model:model",))
    assert own_model.calls[1:] == [[TEXTS[5]]]
    for name, message in (
        ("fails", "own_model:fails failed: RuntimeError: out of memory; what it gave before is kept"),
        ("short", "own_model:short gave 1 items for 6 captions"),
        ("number", "own_model:number is of type int: it must be a function"),
    ):
        with pytest.raises(InputError, match=message):
            rewritten(tmp_path, sources=(f"own_model:{name}",))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sources": ("rule",)}, "'rule' is none of rules, retrieved, eda, a file that ends in .jsonl"),
        ({"per_caption": 0}, "per_caption=0 must be at least 1"),
        ({"captions": -1}, "captions=-1 must be at least 1, or 0"),
        ({"cosine": 9.0}, r"cosine=9.0 must be in -1..1"),
        ({"rules": ("voices",)}, "rewrites.rules: unknown rule 'voices'"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        RewriteSettings(**settings)


def test_a_missing_file_or_function_is_named_before_long_work():
    with pytest.raises(InputError, match="there is no file nowhere.jsonl"):
        RewriteSettings(sources=("nowhere.jsonl",)).check()
    with pytest.raises(InputError, match="no module 'nowhere'"):
        RewriteSettings(sources=("nowhere:model",)).check()


def test_offers_count_what_there_is(tmp_path):
    settings = RewriteSettings(sources=("rules", "retrieved", "eda", "none.jsonl"), captions=1, per_caption=2)
    rows = dict(offers(settings, pairs()))
    made, source, _ = rewritten(tmp_path, sources=("rules",), captions=1, per_caption=2)
    assert rows["captions in use"] == "4 of 6"
    count = len(made.captions) - 4
    assert rows["rewrites, rules"] == (
        f"{count} rewrites of {len(set(source[4:].tolist()))} captions, at most 2 each"
    )
    assert "cosine >= 0.9 by the base model" in rows["rewrites, retrieved"]
    assert rows["rewrites, none.jsonl"] == "rewrites.sources: there is no file none.jsonl"


# ---------------------------------------------------------------- in a run
@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rewriting")
    make.dataset(folder / "train", 16)
    make.model_folder(folder / "base")
    return folder


def recipe(data, out, *changes):
    text = f"""
kind = "dclip"
out = "{out}"
base = "{data}/base"
cpu = true
resamples = 20
exclude_alike = false
held_out = 4
[[variants]]
name = "tuned"
[train]
captions = ["{data}/train/captions.jsonl"]
photos = ["{data}/train/photos"]
[student]
teacher = "text"
[student_stage]
epochs = 1
batch_size = 4
lr = 1e-3
"""
    file = out.parent / "recipe.toml"
    file.write_text(text)
    return load_dclip(file, changes)


RULES_ON = ('rewrites.sources=["rules"]', "rewrites.captions=1")


def test_a_rewrite_has_its_own_text_and_its_sources_target(data, tmp_path):
    run = DclipRun(recipe(data, tmp_path / "run", *RULES_ON))
    config = run.variants[0]
    tuning = run.fine_tuning(config)
    target = tuning.target(config, 0)
    made = tuning.student_data(config, target)
    plain = dataclasses.replace(config, rewrites=RewriteSettings())
    whole = tuning.student_data(plain, target)
    assert whole.pairs is run.data.train
    assert whole.captions is tuning.captions
    assert whole.target is target
    assert len(whole.pairs.captions) == 24
    texts = made.pairs.captions
    assert texts[:12] == whole.pairs.captions[::2]
    assert "the red square on grey" in texts
    row, of = texts.index("the red square on grey"), whole.pairs.captions.index("a red square on grey")
    np.testing.assert_array_equal(made.target[row], target[of])
    own = tuning.base.encoder.encode_texts(["the red square on grey"])[0]
    np.testing.assert_allclose(made.base_text[row], own, atol=2e-3)
    drawn = {int(c) for e in range(40) for b in _rows(made, e) for c in b}
    assert drawn == set(range(len(texts)))  # every text is drawn, originals and rewrites


def _rows(data, epoch):
    """The captions that an epoch draws."""
    batches, seen = StudentBatches(data, 4, 0), []
    embed = data.captions.batch
    data.captions.batch = lambda rows: seen.append(rows) or embed(rows)
    list(batches.load(epoch, 0))
    del data.captions.batch
    return seen


def test_the_mean_target_of_a_photo_is_over_the_captions_in_use(data, tmp_path):
    run = DclipRun(recipe(data, tmp_path / "run", "student.target=photo", "rewrites.captions=1"))
    config = run.variants[0]
    tuning = run.fine_tuning(config)
    target = tuning.target(config, 0)
    np.testing.assert_allclose(target[::2], tuning.captions.base[::2], atol=1e-6)  # one caption: its own mean


def test_runs_with_rewrites_end_in_a_table_and_do_not_mix(data, tmp_path):
    changes = (
        'student.train=["released", "text.head.*"]',
        *RULES_ON,
        "objectives={multi_text = {texts = 3}}",
    )
    first = recipe(data, tmp_path / "run", *changes)
    rows = dict(describe(first))
    assert rows["captions in use (of tuned)"] == "12 of 24"
    assert rows["rewrites, rules (of tuned)"].endswith("of 12 captions, at most 4 each")
    text = dclip(first)
    assert "| tuned |" in text
    assert dclip(recipe(data, tmp_path / "again", *changes)) == text
    with pytest.raises(InputError, match=r"another recipe \(other: rewrites\)"):
        dclip(recipe(data, tmp_path / "run", *changes, "rewrites.seed=1"))


def test_a_run_from_before_there_were_rewrites_goes_on(data, tmp_path):
    config = recipe(data, tmp_path / "run")
    text = dclip(config)
    for file in (tmp_path / "run" / "recipe.json", tmp_path / "run" / "tuned-seed0" / "recipe.json"):
        known = json.loads(file.read_text())
        del known["rewrites"]
        file.write_text(json.dumps(known))
    assert dclip(config) == text


# ---------------------------------------------------------------- several texts a step
class Read:
    """Stands for captions: gives the rows asked for."""

    def columns(self, rows):
        return {"rows": torch.from_numpy(rows)}


def setup_of(own):
    return type("Setup", (), {"train": own, "captions": Read()})()


def draw(settings, photos, captions, seed=0):
    objective = MultiText(setup_of(pairs()), settings)
    rows = np.array(captions)
    flags = np.zeros(len(rows), dtype=bool)
    drawn = Drawn(np.array(photos), rows, np.zeros_like(rows), flags, np.random.default_rng(seed))
    return objective, objective.batch(drawn)


def test_the_drawn_text_is_the_first_and_the_others_are_further_ones():
    _, columns = draw(MultiTextSettings(texts=2), [1, 2], [1, 4])
    assert columns["text_rows"].tolist() == [2, 3]
    assert columns["ids"].tolist() == [[1, 2], [4, 3]]
    _, columns = draw(MultiTextSettings(texts=4), [1, 0], [2, 0])
    assert set(columns["text_rows"][:3].tolist()) == {1, 2} or columns["text_rows"][:3].tolist() == [1, 1, 1]
    assert columns["text_rows"][3:].tolist() == [0, 0, 0]
    _, columns = draw(MultiTextSettings(texts=1), [0], [0])
    assert list(columns) == ["ids"]


@pytest.mark.parametrize("form", ["mean", "positive"])
def test_one_text_is_the_plain_contrastive_loss(form):
    from cliplet.training import losses
    from cliplet.training.objectives import Step

    objective, columns = draw(MultiTextSettings(texts=1, form=form), [0, 1, 2], [0, 1, 3])
    torch.manual_seed(0)
    image, text = torch.randn(3, 4), torch.randn(3, 4)
    image, text = image / image.norm(dim=1, keepdim=True), text / text.norm(dim=1, keepdim=True)
    loss = objective(Step(image, text, 5.0, columns, lambda c: image, lambda c: text))
    torch.testing.assert_close(loss, losses.contrastive(image, text, 5.0))


def test_multi_text_offers():
    rows = MultiText.offers(MultiTextSettings(texts=2), pairs(), PairSet(), None)
    assert rows == [("multi_text", "2 of 4 photos have 2 captions before rewriting")]
    with pytest.raises(InputError, match="texts=0 must be at least 1"):
        MultiTextSettings(texts=0)
