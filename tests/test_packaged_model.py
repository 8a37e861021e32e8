"""The script that measures a model on every collection: its list of near-wrong sentences, its rules, its tables."""

import json
import re
import sys
from collections import Counter

import numpy as np
import pytest
from benchmarks import packaged_model
from benchmarks.packaged_model_captions import counting_pairs, order_pairs, read_near_wrong
from benchmarks.packaged_model_data import LEAST, Data, share
from benchmarks.packaged_model_names import animals_by_captions, kept_out_synsets

from tests.shared_data import data_root, shared_data
from tests.tiny_model import build_tiny_model


# ---------------------------------------------------------------- the list
def test_the_list_has_30_photos_each_with_a_right_sentence_and_others_that_exchange_one_thing():
    rows = read_near_wrong()
    assert len(rows) == 30
    assert len({row["photo"] for row in rows}) == 30
    for row in rows:
        texts = [row["right"], *row["wrong"]]
        assert 3 <= len(texts) == len(set(texts)) <= 4, row["photo"]
        assert all(text == text.strip().lower() for text in texts)
        right = Counter(row["right"].split())
        for wrong in row["wrong"]:
            kept = (right & Counter(wrong.split())).total()
            assert right.total() - kept <= 3, wrong  # "on a surfboard" for "in a kayak" at most


def test_each_photo_of_the_list_is_the_first_whose_captions_name_its_thing():
    shared_data("coco-dev/captions.json")
    captions = Data(data_root()).captions("coco-dev")
    taken = set()
    for row in read_near_wrong():
        named = re.compile(rf"\b(?:{'|'.join(row['named'])})\b", re.IGNORECASE)
        first = next(
            photo
            for photo in sorted(captions)
            if photo not in taken and sum(bool(named.search(text)) for text in captions[photo]) >= LEAST
        )
        assert first == row["photo"], row["named"]
        taken.add(first)


# ---------------------------------------------------------------- the rules
def test_a_photo_is_asked_for_the_only_animal_that_three_captions_name():
    captions = {
        "dog": ["A dog.", "Two dogs run.", "A puppy", "A cat", "Grass"],
        "both": ["A dog and a cat"] * 5,
        "few": ["A dog", "A dog", "Grass", "Grass", "Grass"],
        "toy": ["A teddy bear"] * 5,
        "bear": ["A brown bear", "a BEAR", "Bears in a river", "A river", "Rocks"],
    }
    assert animals_by_captions(captions) == {"dog": "dog", "bear": "bear"}


def test_numbers_from_two_to_five_are_exchanged_and_two_stands_apart():
    pairs = counting_pairs({"a": ["Two dogs", "Three dogs run", "Seven dogs", "A dog"]})
    assert [(p.true, p.category) for p in pairs] == [("Two dogs", "two"), ("Three dogs run", "three to five")]
    assert all(p.false.split()[1:] == p.true.split()[1:] and p.false != p.true for p in pairs)


@pytest.mark.parametrize(
    ("caption", "swapped"),
    [
        ("A dog runs through the snow .", "The snow runs through a dog ."),
        ("a man riding a brown horse on a beach", "a brown horse riding a man on a beach"),
        ("A dog and a cat on grass", None),
        ("A man next to a horse", None),
        ("A man on a snow board", None),
        ("A dog sleeps", None),
    ],
)
def test_two_things_change_places_where_that_changes_the_meaning(caption, swapped):
    assert [p.false for p in order_pairs({"a": [caption]})] == ([swapped] if swapped else [])


def test_the_kept_out_names_are_those_of_a_hundred_classes():
    pytest.importorskip("cliplet.models.compat").prepare_torchvision()
    pytest.importorskip("timm")
    found = kept_out_synsets()
    assert len(found) == 100
    assert {"n01484850", "n15075141"} <= found  # great white shark, toilet tissue


# ---------------------------------------------------------------- the tables
def test_a_second_model_is_compared_question_by_question():
    photo = np.repeat(np.arange(20), 5)
    first = share("here", "right", np.tile([0, 0, 1, 1, 1], 20), photo)
    second = share("here", "right", np.tile([0, 1, 1, 1, 1], 20), photo)
    assert (first.value, first.photos, first.asked) == (60, 20, 100)
    found = packaged_model.against(first, second)
    assert (found["difference"], found["error_ratio"]) == (pytest.approx(20), 0.5)
    other = share("here", "right", np.ones(100), np.repeat(np.arange(50), 2))
    assert packaged_model.against(first, other) is None


def run(monkeypatch, capsys, *arguments: object) -> str:
    monkeypatch.setattr(sys, "argv", ["packaged_model.py", *map(str, arguments)])
    packaged_model.main()
    return capsys.readouterr().out


def test_two_models_stand_side_by_side_and_what_has_no_data_is_named(tmp_path, monkeypatch, capsys):
    shared_data("coco-dev/photos.tar")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "coco-dev").symlink_to(data_root() / "coco-dev")
    models = [build_tiny_model(tmp_path / name, seed) for seed, name in enumerate("ab")]
    out = tmp_path / "out.json"
    shown = run(
        monkeypatch, capsys, "--data", tmp_path / "data", "--model", models[0], "--model", models[1],
        "--only", "near-wrong", "aerial", "--out", out,
    )  # fmt: skip
    assert "Aerial photos: not measured, ucm-captions not in the data" in shown
    assert shown.count("| 000000") == 30
    content = json.loads(out.read_text())
    total = content["measures"][0]
    first, second = (m["label"] for m in content["models"])
    for label in (first, second):
        answers = content["near_wrong"][label]
        assert total["results"][label]["value"] == pytest.approx(
            100 * sum(a["won"] for a in answers) / 30, abs=1e-3
        )
    values = [total["results"][label]["value"] for label in (first, second)]
    assert total["against_first"][second]["difference"] == pytest.approx(values[1] - values[0], abs=1e-3)
    assert str(data_root()) not in out.read_text()


def test_the_packaged_model_on_aerial_photos(tmp_path, monkeypatch, capsys):
    shared_data("ucm-captions/photos_val.tar")
    shown = run(monkeypatch, capsys, "--data", data_root(), "--only", "aerial", "--cache-dir", tmp_path)
    assert "| UCM-Captions val | class names: top-1 of 21 |" in shown
    assert "391 distinct captions" in shown
