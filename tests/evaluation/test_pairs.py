"""Hard negatives: formats, accuracy, Winoground's scores, blind controls, and captions made false."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner

from cliplet.cli.evaluate import evaluate
from cliplet.data.book import read_book
from cliplet.data.photos import PhotoStore
from cliplet.errors import InputError
from cliplet.evaluation.hard_negatives import KINDS, Swaps, hard_negatives, mentioned, swap_word
from cliplet.evaluation.model_runs import run_pairs
from cliplet.evaluation.pairs import (
    CaptionPair,
    PairSet,
    blind_wins,
    both_wins,
    evaluate_pairs,
    read_pair_files,
)
from tests.evaluation.colours import ColourEncoder, write_photos
from tests.shared_data import shared_data


@pytest.fixture
def store(tmp_path):
    names = {
        "r.jpg": "red",
        "b.jpg": "blue",
        "000000000007.jpg": "green",
        "ex_0_img_0.png": "red",
        "ex_0_img_1.png": "blue",
    }
    return PhotoStore([write_photos(tmp_path / "photos", names)])


def test_formats(tmp_path):
    sugar = {"0": {"filename": "000000000007.jpg", "caption": "green", "negative_caption": "red"}}
    (tmp_path / "swap_obj.json").write_text(json.dumps(sugar))
    valse = {
        "x": {
            "image_file": "r.jpg",
            "caption": "red",
            "foil": "blue",
            "mturk": {"caption": 3},
            "linguistic_phenomena": "plurality",
        },
        "y": {
            "image_file": "r.jpg",
            "caption": "red",
            "foil": "blue",
            "mturk": {"caption": 1},
            "linguistic_phenomena": "plurality",
        },
    }
    (tmp_path / "plurals.json").write_text(json.dumps(valse))
    (tmp_path / "mine.csv").write_text("image,caption,false,category\nb.jpg,blue,red,colour\n")
    data = read_pair_files([tmp_path / n for n in ("swap_obj.json", "plurals.json", "mine.csv")])
    assert data.pairs == [
        CaptionPair("000000000007.jpg", "green", "red", "swap_obj"),
        CaptionPair("r.jpg", "red", "blue", "plurality"),
        CaptionPair("b.jpg", "blue", "red", "colour"),
    ]
    assert sum(data.notes.values()) == 1
    (tmp_path / "bad.csv").write_text("image,caption\nb.jpg,blue\n")
    with pytest.raises(InputError, match="no column for the false caption"):
        read_pair_files([tmp_path / "bad.csv"])


def test_accuracy_by_category_and_missing_photos(store):
    pairs = [
        CaptionPair("r.jpg", "a red ball", "a blue ball", "good"),
        CaptionPair("b.jpg", "a red ball", "a blue ball", "bad"),
        CaptionPair("b.jpg", "a ball", "the ball", "tie"),
        CaptionPair("gone.jpg", "a", "b", "good"),
    ]
    result = evaluate_pairs(ColourEncoder(), PairSet(pairs), store, resamples=10)
    assert {r.category: r.interval.value for r in result.results} == {
        "all": 1 / 3,
        "good": 1.0,
        "bad": 0.0,
        "tie": 0.0,
    }
    assert result.notes["pairs left out: the photo is missing or cannot be read"] == 1
    half = evaluate_pairs(ColourEncoder(), PairSet(pairs), store, ties="half", resamples=10)
    assert half.results[0].interval.value == pytest.approx(0.5)
    assert len(result.margins) == 3


def test_a_model_that_sees_only_the_average_photo_cannot_solve_a_balanced_set(store):
    pairs = [
        CaptionPair("r.jpg", "a red ball", "a blue ball"),
        CaptionPair("b.jpg", "a blue ball", "a red ball"),
    ]
    (result,) = evaluate_pairs(ColourEncoder(), PairSet(pairs), store, resamples=0).results
    assert result.interval.value == 1.0
    assert result.blind["this model, average photo"] == 0.5


def test_prefix_goes_before_every_caption(store):
    encoder = ColourEncoder(prefix="A photo depicts ")
    data = PairSet([CaptionPair("r.jpg", "red", "blue")])
    evaluate_pairs(encoder, data, store, resamples=0)
    assert set(encoder.texts_seen) == {"A photo depicts red", "A photo depicts blue"}
    evaluate_pairs(encoder, data, store, prefix="", resamples=0)
    assert "red" in encoder.texts_seen


def test_winoground_scores(tmp_path, store):
    rows = [
        {
            "id": 0,
            "image_0": "ex_0_img_0",
            "image_1": "ex_0_img_1",
            "caption_0": "red",
            "caption_1": "blue",
            "tag": "t",
        },
        {
            "id": 1,
            "image_0": "ex_0_img_0",
            "image_1": "ex_0_img_1",
            "caption_0": "red",
            "caption_1": "green",
            "tag": "t",
        },
        {
            "id": 2,
            "image_0": "ex_0_img_0",
            "image_1": "ex_0_img_1",
            "caption_0": "blue",
            "caption_1": "red",
            "tag": "t",
        },
    ]
    (tmp_path / "examples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = read_pair_files([tmp_path / "examples.jsonl"])
    result = evaluate_pairs(ColourEncoder(), data, store, resamples=0)
    values = {r.statistic: r.interval.value for r in result.results if r.category == "all"}
    encoder = ColourEncoder()
    images = encoder.encode_images([store.photo("ex_0_img_0"), store.photo("ex_0_img_1")])
    wins = []
    for row in rows:  # by the definition of Thrush et al. 2022
        s = images @ encoder.encode_texts([row["caption_0"], row["caption_1"]]).T  # [image, caption]
        text = s[0, 0] > s[0, 1] and s[1, 1] > s[1, 0]
        image = s[0, 0] > s[1, 0] and s[1, 1] > s[0, 1]
        wins.append((text, image, text and image))
    expected = np.mean(np.array(wins, dtype=float), axis=0)
    assert [values[f"{n} score"] for n in ("text", "image", "group")] == pytest.approx(expected.tolist())
    assert 0 < expected[2] < 1


def test_blind_controls_find_what_gives_a_set_away():
    pairs = [
        CaptionPair("x", f"a dog number {'i' * i}", f"a zebra of the rarest kind {i}") for i in range(20)
    ]
    blind = {k: v.mean() for k, v in blind_wins(pairs).items()}
    assert blind["shorter"] + blind["longer"] == pytest.approx(1.0)
    assert blind["shorter"] > 0.7
    fair = [CaptionPair("x", *c) for c in (("red dog", "blue dog"), ("blue dog", "red dog"))]
    assert {k: float(v.mean()) for k, v in blind_wins(fair).items()} == {
        "shorter": 0.5,
        "longer": 0.5,
        "commoner words": 0.5,
    }


# ---------------------------------------------------------------- two true captions
def test_both_true_captions_must_win(store, tmp_path):
    pairs = [
        CaptionPair("r.jpg", "a red ball", "a blue ball", "c", "the red thing"),
        CaptionPair("r.jpg", "a red ball", "a blue ball", "c", "a thing"),  # only one of them is nearer
        CaptionPair("b.jpg", "a red ball", "a blue ball", "c", "the blue thing"),
        CaptionPair("b.jpg", "a blue ball", "a red ball", "c"),  # has no second one
    ]
    result = evaluate_pairs(ColourEncoder(), PairSet(pairs), store, resamples=10)
    values = {r.statistic: r for r in result.results if r.category == "all"}
    assert values["accuracy"].interval.value == 3 / 4
    both = values["both true captions"]
    encoder = ColourEncoder()
    wins = []
    for p in pairs[:3]:
        image = encoder.encode_images([store.photo(p.image)])[0]
        true, also, false = encoder.encode_texts([p.true, p.also, p.false]) @ image
        wins.append(true > false and also > false)
    assert both.interval.value == pytest.approx(np.mean(wins))
    assert (both.interval.n, both.chance) == (3, pytest.approx(1 / 3))
    assert set(both.blind) == {"this model, average photo", "shorter", "longer", "commoner words"}
    assert both.blind["shorter"] == pytest.approx(1 / 3)  # "a thing" and "a red ball" are the shorter ones
    assert both.blind["longer"] == 0.0
    rows = [{"image": "r.jpg", "caption": "red", "caption2": "a red one", "negative_caption": "blue"}]
    (tmp_path / "swap.json").write_text(json.dumps(rows))
    assert read_pair_files([tmp_path / "swap.json"]).pairs == [
        CaptionPair("r.jpg", "red", "blue", "swap", "a red one")
    ]


def test_ties_of_two_true_captions():
    first, second = np.array([1, 1, 0.5, 0.5, 0, np.nan]), np.array([1, 0, 1, 0.5, 0.5, 1])
    expected = [1, 0, 1 / 2, 1 / 3, 0, np.nan]
    np.testing.assert_allclose(both_wins(first, second), expected)


# ---------------------------------------------------------------- captions made false
def test_swaps_keep_form_case_and_article():
    rng = np.random.default_rng(0)
    for caption, kind, pattern in (
        ("A dog runs .", "object", r"^An? (?!dog)\w+ runs \.$"),
        ("Two dogs play", "number", r"^(Three|Four|Five|Six|Seven|Eight|Nine|Ten) dogs play$"),
        ("2 dogs", "number", r"^([3-9]|10) dogs$"),
        ("a man walks", "action", r"^a man (?!walks)\w+s$"),
        ("a man walking", "action", r"^a man (?!walking)\w+ing$"),
    ):
        for _ in range(20):
            false, before, after = swap_word(caption, kind, rng)
            assert re.match(pattern, false), false
            assert before != after
            assert not false.lower().startswith(("a elephant", "a airplane"))
    assert swap_word("nothing here", "colour", rng) is None
    with pytest.raises(InputError, match="unknown kind"):
        swap_word("a dog", "verb", rng)  # type: ignore[arg-type]


def test_never_a_synonym_and_never_what_another_caption_mentions():
    rng = np.random.default_rng(1)
    others = ["A horse and a cow .", "sheep , birds , ducks"]
    for _ in range(100):
        _, _, after = swap_word("a puppy sleeps", "object", rng, others)
        assert after not in {"dog", "puppy", "horse", "pony", "cow", "bull", "sheep", "goat", "bird", "duck"}
    assert mentioned(["a grey cat"], "colour") == mentioned(["silver"], "colour")


def test_hard_negatives_on_real_captions_are_deterministic_and_false():
    root = shared_data("flickr8k/Flickr8k.token.txt").parent
    names = (root / "split_dev.txt").read_text().split()[:200]
    book = read_book([root / "Flickr8k.token.txt"]).only(names)
    captions = book.images
    made = hard_negatives(captions)
    backwards = hard_negatives(dict(reversed(captions.items())))
    assert sorted(made, key=repr) == sorted(backwards, key=repr)
    assert made != hard_negatives(captions, seed=1)
    counts = {kind: sum(n.category == kind for n in made) for kind in KINDS}
    assert min(counts.values()) > 100
    for n in made:
        assert n.true != n.false
        true, false = n.true.split(), n.false.split()
        assert len(true) == len(false)
        changed = [(a, b) for a, b in zip(true, false, strict=True) if a != b]
        assert len([c for c in changed if c[0].lower() not in ("a", "an")]) == 1
        assert not mentioned([n.after], n.category) & mentioned(captions[n.image], n.category)
    blind = {
        k: float(v.mean()) for k, v in blind_wins([n.pair() for n in made if n.category == "colour"]).items()
    }
    assert all(0.4 < v < 0.6 for v in blind.values()), blind


def test_run_from_captions(tmp_path):
    folder = write_photos(tmp_path / "photos", {"r.jpg": "red", "g.jpg": "green"})
    (tmp_path / "c.csv").write_text("image,caption\nr.jpg,a red dog\ng.jpg,a green dog\nz.jpg,a blue dog\n")
    run = run_pairs("made", ColourEncoder(), [tmp_path / "c.csv"], [folder], from_captions=True, resamples=10)
    values = {(e.metric, e.statistic): e.value for e in run.entries}
    assert values["colours", "accuracy, colour"] == 100.0
    assert values["colours", "accuracy, object"] == 0.0  # it cannot tell, and a tie is no win
    assert ("blind: shorter", "accuracy, colour") in values
    assert ("blind: this model, average photo", "accuracy, colour") in values
    assert any("photos are not there" in n for n in run.notes)


def test_run_with_unseen_words_and_two_true_captions(tmp_path):
    folder = write_photos(tmp_path / "photos", {"r.jpg": "red", "g.jpg": "green"})
    (tmp_path / "c.csv").write_text(
        "image,caption\nr.jpg,a red dog\nr.jpg,one red animal\ng.jpg,a green dog\ng.jpg,one green animal\n"
    )
    files = ([tmp_path / "c.csv"], [folder])
    runs = {
        words: run_pairs(
            "made", ColourEncoder(), *files, from_captions=True, resamples=10, swaps=Swaps(words, two_true=True)
        )
        for words in ("all", "train", "test")
    }  # fmt: skip
    for words, run in runs.items():
        values = {(e.metric, e.statistic): e.value for e in run.entries}
        assert values["colours", "both true captions, colour"] == 100.0
        assert ("blind: longer", "both true captions, colour") in values
        assert (run.provenance["words"], run.provenance["two_true"]) == (words, True)
    made = {words: {(p.true, p.false) for p in run.details[0].result.pairs} for words, run in runs.items()}
    assert made["train"]
    assert not made["train"] & made["test"]


@pytest.mark.parametrize("option", [["--words", "test"], ["--fluent"], ["--balanced"], ["--two-true"]])
def test_options_of_made_captions_need_them(option):
    result = CliRunner().invoke(evaluate, ["pairs", "pairs.json", *option])
    assert result.exit_code == 2
    assert "go with --from-captions only" in result.output
