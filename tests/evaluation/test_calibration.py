"""The match: measured on right and wrong captions, read by people, never mixed up with the raw score."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cliplet.cli.main import cli
from cliplet.data.text import content_problem
from cliplet.encoders.card import MatchSpec, ModelCard
from cliplet.encoders.onnx import OnnxEncoder
from cliplet.errors import InputError
from cliplet.evaluation.calibration import (
    KINDS,
    Mix,
    calibrate,
    calibration_error,
    like_photos,
    mix_captions,
)
from cliplet.scoring.match import load_match, matches, save_match
from cliplet.scoring.scorer import Scorer
from tests.evaluation.colours import COLOURS, ColourEncoder, jpeg, write_photos
from tests.shared_data import shared_data
from tests.tiny_model import build_tiny_model

SPEC = MatchSpec((-1.0, 0.0, 0.5, 1.0), (0.0, 0.1, 0.8, 0.9))


@pytest.mark.parametrize(
    ("caption", "problem"),
    [
        ("a dog", None),
        ("dog", None),
        ("a dog and a dog", None),
        ("two dogs", None),
        ("собака", None),
        ("狗", None),
        ("a a a a .", "it has only stop words"),
        ("this is the one that there is", "it has only stop words"),
        ("this is what it is", "it has only stop words"),
        ("A photo of the", "it has only stop words"),
        ("... !! ?", "it has no words"),
        ("123 45", "it has no words"),
        ("🐶", "it has no words"),
        ("dog dog", "it says one word over and over (dog)"),
        ("Dog, DOG.", "it says one word over and over (dog)"),
        ("a dog a dog a dog", "it says one word over and over (dog)"),
    ],
)
def test_captions_without_content(caption, problem):
    assert content_problem(caption) == problem


def test_a_match_is_a_line_through_its_knots():
    found = matches(SPEC, [-1, -0.5, 0, 0.25, 0.75, 1, np.nan])
    assert found[:-1] == pytest.approx([0, 0.05, 0.1, 0.45, 0.85, 0.9])
    assert np.isnan(found[-1])
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("cosines", "probabilities", "message"),
    [
        ((0, 1), (0.2,), "as many"),
        ((0,), (0.2,), "at least two"),
        ((0, 0), (0.1, 0.2), "grow"),
        ((0, 1), (0.3, 0.2), "grow"),
        ((0, 1), (0, 1.5), "between 0 and 1"),
        ((0, float("nan")), (0, 1), "finite"),
        ("01", (0, 1), "finite"),
    ],
)
def test_knots_are_checked(cosines, probabilities, message):
    with pytest.raises(InputError, match=message):
        MatchSpec(cosines, probabilities)


def drawn_mix(n=4000, seed=0, name="made"):
    """Cosines whose share of right ones is known: P(right | x) = x on 0 to 1."""
    rng = np.random.default_rng(seed)
    x = rng.random(n)
    right = rng.random(n) < x
    return Mix(name, x, np.where(right, 0, 1), np.arange(n) // 4)


def test_calibration_finds_the_share_of_right_ones():
    mix = drawn_mix()
    done = calibrate([mix])
    assert matches(done.spec, [0.2, 0.5, 0.8]) == pytest.approx([0.2, 0.5, 0.8], abs=0.04)
    assert done.errors()["made"] < 0.04
    grid = matches(done.spec, np.linspace(-1, 1, 500))
    assert (np.diff(grid) > 0).all()
    kept = done.kept(0.5)["made"]
    assert kept["own"] > 0.7 > 0.3 > kept["another photo's"]


def test_held_out_photos_are_not_seen():
    """Cosines that tell nothing but which photo it is: an in-sample curve would look right, held out it is not."""
    mix = drawn_mix()
    done = calibrate([mix])
    for fold in range(5):
        here = mix.photo % 5 == fold
        changed = Mix(mix.name, mix.cosine, np.where(here, 1 - mix.kind, mix.kind), mix.photo)
        np.testing.assert_array_equal(calibrate([changed]).held_out[0][here], done.held_out[0][here])


def test_each_collection_weighs_the_same():
    small = Mix("small", np.array([0.1, 0.9] * 100), np.array([0, 1] * 100), np.arange(200))
    large = Mix("large", np.array([0.1, 0.9] * 10_000), np.array([1, 0] * 10_000), np.arange(20_000))
    with pytest.raises(InputError, match="tell nothing"):  # one against the other
        calibrate([small, large])


def test_calibration_error_by_hand():
    match = np.array([0.1] * 5 + [0.9] * 5)
    right = np.array([False] * 5 + [True] * 4 + [False])
    assert calibration_error(match, right, bins=2) == pytest.approx((0.1 + 0.1) / 2)


def test_like_photos_share_words():
    found = like_photos([["a red dog"], ["a blue boat"], ["the red dog runs"], ["boat on blue water"]], 1)
    assert found[:, 0].tolist() == [2, 3, 0, 1]


def colour_set(n=60):
    """Names, colours and captions of n photos."""
    colours = list(COLOURS)[:4]
    return {f"{i}.jpg": colours[i % 4] for i in range(n)}


def test_wrong_captions_are_never_the_photos_own(tmp_path):
    encoder = ColourEncoder()
    photos = [jpeg(colour) for colour in colour_set().values()]
    captions = [text for c in colour_set().values() for text in (f"a {c} ball", f"{c}")]
    owner = np.repeat(np.arange(60), 2)
    mix = mix_captions(
        "colours", encoder, encoder.encode_images(photos), encoder.encode_texts(captions), captions, owner
    )
    assert set(mix.kind) == {0, 1, 2}  # the most like photos have the same captions, which are right
    assert mix.right.mean() == pytest.approx(0.5, abs=0.02)
    assert (mix.cosine[mix.kind == 0] > 0.95).all()
    assert mix.cosine[mix.kind == 1].max() < 0.95


def test_too_few_photos_are_refused():
    encoder, colours = ColourEncoder(), list(colour_set(10).values())
    with pytest.raises(InputError, match="10 photos with captions are too few"):
        mix_captions(
            "few", encoder, encoder.encode_images([jpeg(c) for c in colours]), encoder.encode_texts(colours),
            colours, np.arange(10),
        )  # fmt: skip


# ---------------------------------------------------------------- in the scorer
def test_the_scorer_gives_the_match_and_leaves_the_score():
    encoder = ColourEncoder()
    plain, with_match = Scorer(encoder), Scorer(encoder, match=SPEC)
    photos, captions = [jpeg("red")] * 4, ["red", "blue", "the the", ""]
    a, b = plain.score(photos, captions), with_match.score(photos, captions)
    assert a.match is None
    np.testing.assert_array_equal(a.score, b.score)
    assert b.match[:3] == pytest.approx([*matches(SPEC, b.cosine[:2]), 0])
    assert np.isnan(b.match[3])
    assert b.without_content == {2: "it has only stop words"}
    assert any("'the the'" in note for note in b.notes)
    assert list(b.columns()) == ["CLIPScore", "match", "cosine"]


def test_no_match_for_texts_without_the_prefix_that_it_was_measured_with():
    encoder = ColourEncoder(prefix="A photo depicts ")
    assert Scorer(encoder, match=SPEC).score(jpeg("red"), "red").match is not None
    assert Scorer(encoder, "cosine", match=SPEC).score(jpeg("red"), "red").match is None


def test_the_packaged_model_has_a_match():
    card = Scorer().encoder.card
    assert card.match
    assert "half own" in card.match.about


def test_a_match_file_belongs_to_one_model(tmp_path):
    encoder = ColourEncoder()
    save_match(tmp_path / "m.json", SPEC, encoder.card)
    assert load_match(tmp_path / "m.json", encoder.card) == SPEC
    with pytest.raises(InputError, match="measured on colours .* not on other"):
        load_match(tmp_path / "m.json", ColourEncoder("other").card)
    (tmp_path / "bad.json").write_text('{"match": 3}')
    with pytest.raises(InputError, match=r"bad.json is not a match that cliplet calibrate wrote"):
        Scorer(encoder, match=tmp_path / "bad.json")
    with pytest.raises(InputError, match="cannot be read"):
        Scorer(encoder, match=tmp_path / "none.json")


# ---------------------------------------------------------------- the command
@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def collection(tmp_path):
    names = colour_set()
    write_photos(tmp_path / "photos", names)
    captions = {name: [f"a {c} car", f"the {c} dog runs on grass"] for name, c in names.items()}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)


def test_calibrate_writes_a_file_that_score_reads(model, collection, monkeypatch):
    monkeypatch.setattr("cliplet.evaluation.calibration.KNOTS", 4)
    common = (
        "calibrate",
        model,
        "--captions",
        collection / "captions.json",
        "--images",
        collection / "photos",
    )
    done = run(*common, "--out", collection / "match.json", "--json")
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert set(content["calibration error"]) == {"captions"}
    assert set(content["kept"]["match >= 0.5"]["captions"]) <= set(KINDS)
    scored = run("score", collection / "photos" / "0.jpg", "a red car", "of the", "--model", model,
                 "--match", collection / "match.json")  # fmt: skip
    assert "match  CLIPScore" in scored.output
    assert "[it has only stop words]" in scored.output
    rows = run("score", collection / "captions.json", "--images", collection / "photos", "--model", model,
               "--match", collection / "match.json", "--json")  # fmt: skip
    table = json.loads(rows.stdout)
    assert all(0 <= row["match"] <= 1 for row in table["rows"])
    assert "match" in table["summary"]["metrics"]
    without = json.loads(
        run("score", collection / "photos" / "0.jpg", "a car", "--model", model, "--json").stdout
    )
    assert "match" not in without["rows"][0]


def test_save_writes_into_the_card_and_nothing_else(model, collection, tmp_path):
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    before = {p.name: p.read_bytes() for p in copy.iterdir()}
    fingerprint = OnnxEncoder(copy).card.fingerprint
    done = run("calibrate", copy, "--captions", collection / "captions.json", "--images", collection / "photos",
               "--save")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert {p.name for p in copy.iterdir() if p.read_bytes() != before[p.name]} == {"card.json"}
    assert ModelCard.load(copy).match
    assert OnnxEncoder(copy).card.fingerprint == fingerprint


def test_save_needs_a_folder(collection):
    done = CliRunner().invoke(
        cli, ["calibrate", "packaged", "--captions", str(collection / "captions.json"), "--save"]
    )
    assert "packaged is not a model folder" in str(done.exception)


def test_a_card_with_broken_knots_is_refused(model, tmp_path):
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    card = json.loads((copy / "card.json").read_text())
    card["match"] = {"cosines": [0, 1], "probabilities": [0.5, 0.2]}
    (copy / "card.json").write_text(json.dumps(card))
    with pytest.raises(Exception, match="match.probabilities must grow"):
        OnnxEncoder(copy)


def test_the_packaged_match_holds_on_both_dev_sets():
    """Calibration error at most 0.05 on each collection, on photos that the curve has not seen."""
    flickr, coco = shared_data("flickr8k"), shared_data("coco-dev")
    done = run(
        "calibrate", "packaged", "--captions", flickr / "Flickr8k.token.txt", "--captions", coco / "captions.json",
        "--images", flickr / "images_dev.tar", "--images", coco / "photos.tar", "--json",
    )  # fmt: skip
    content = json.loads(done.stdout)
    assert max(content["calibration error"].values()) <= 0.05
    grid = np.linspace(-1, 1, 101)
    again = MatchSpec(content["match"]["cosines"], content["match"]["probabilities"])
    np.testing.assert_allclose(matches(Scorer().encoder.card.match, grid), matches(again, grid), atol=0.02)


def test_the_report_shows_the_match_beside_the_score(model, collection, monkeypatch):
    monkeypatch.setattr("cliplet.evaluation.calibration.KNOTS", 4)
    run("calibrate", model, "--captions", collection / "captions.json", "--images", collection / "photos",
        "--out", collection / "match.json")  # fmt: skip
    common = (
        "score",
        collection / "captions.json",
        "--images",
        collection / "photos",
        "--model",
        model,
        "--explain",
        0,
    )
    run(*common, "--match", collection / "match.json", "--out", collection / "with")
    run(*common, "--out", collection / "without")
    assert 'class="match">match 0.' in (collection / "with" / "report.html").read_text()
    assert 'class="match"' not in (collection / "without" / "report.html").read_text()
    assert '"match": ' in (collection / "with" / "rows.jsonl").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--captions", "other/captions.json"], "two files have the same name"),
        (["--out", "none/m.json"], "its folder"),
    ],
)
def test_calibrate_refuses_before_work(model, collection, more, message):
    done = CliRunner().invoke(
        cli, ["calibrate", str(model), "--captions", str(collection / "captions.json"), *more]
    )
    assert message in str(done.exception)
