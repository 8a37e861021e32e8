"""The phrase test and box naming, by hand."""

import numpy as np
import pytest

from cliplet.errors import InputError
from cliplet.evaluation.hard_negatives import in_words
from cliplet.evaluation.phrases import (
    PhraseQuestion,
    box_naming,
    edited_phrases,
    phrase_questions,
    phrase_test,
)

TEXTS = {
    "a red dog": (1, 0, 0),
    "a blue dog": (0, 1, 0),
    "a red cat": (0, 0, 1),
    "a green dog": (0.5, 0.8, 0),
}


def encode(texts):
    return np.array([TEXTS[t] for t in texts], dtype=np.float32)


def test_edited_phrases_differ_in_one_word_and_say_nothing_that_is_there():
    found = edited_phrases("two black dogs", ["two black dogs chase a cat", "a horse watches"], 10)
    assert len({text for text, _ in found}) == len(found) > 3
    for text, kind in found:
        changed = [(a, b) for a, b in zip(["two", "black", "dogs"], text.split(), strict=True) if a != b]
        assert len(changed) == 1
        assert changed[0][1] not in ("cats", "horses")
        assert changed[0][0] == {"object": "dogs", "colour": "black", "number": "two"}[kind]
    assert [kind for _, kind in found[:3]] == ["object", "colour", "number"]  # they take turns
    assert (
        edited_phrases("two black dogs", [], 2) == found[:2]
        or len(edited_phrases("two black dogs", [], 2)) == 2
    )
    assert edited_phrases("the thing", [], 5) == []
    assert edited_phrases("two black dogs", [], 0) == []


def test_words_of_training_and_test_are_parted():
    train = {t for t, _ in edited_phrases("a black dog", [], 99, words="train")}
    test = {t for t, _ in edited_phrases("a black dog", [], 99, words="test")}
    every = {t for t, _ in edited_phrases("a black dog", [], 99)}
    assert train | test == every
    assert not train & test
    for text in test:
        for before, after, kind in zip(("black", "dog"), text.split()[1:], ("colour", "object"), strict=True):
            assert before == after or in_words(kind, before, after, "test")


def test_phrase_test_by_hand():
    questions = [
        PhraseQuestion("1", "a red dog", ("a blue dog", "a red cat"), ("colour", "object")),
        PhraseQuestion("1", "a blue dog", ("a red dog",), ("colour",)),
        PhraseQuestion("2", "a red cat", ("a red dog",), ("object",)),
        PhraseQuestion("3", "a green dog", ("a red dog",), ("colour",)),
    ]
    regions = np.array([[2, 1, 0], [3, 1, 0], [0, 0, 5], [1, 1, 0]])
    # right: nearest "a red dog"; wrong; right; 1.3 against 1: right
    results = {r.name: r for r in phrase_test(regions, questions, encode, whole=regions[::-1], resamples=50)}
    assert list(results) == ["all", "2-way", "3-way", "colour", "object"]
    assert results["all"].interval.value == pytest.approx(3 / 4)
    assert results["all"].chance == pytest.approx((1 / 3 + 3 / 2) / 4)
    assert results["2-way"].interval.value == pytest.approx(2 / 3)
    assert results["colour"].interval.value == pytest.approx(2 / 3)
    assert results["object"].interval.value == 1
    assert results["object"].chance == 0.5
    # shorter: a tie of two with "a red cat" (9 letters each), wrong, half, wrong
    assert results["all"].blind["shorter"] == pytest.approx((1 / 2 + 0 + 1 / 2 + 0) / 4)
    # the photos are the boxes in reverse: [1, 1, 0], [0, 0, 5], [3, 1, 0], [2, 1, 0]; ties count their share
    assert results["all"].blind["this model, whole photo"] == pytest.approx((1 / 2 + 1 / 2 + 0 + 0) / 4)
    assert "this model, average box" in results["all"].blind


def test_commoner_words_by_hand():
    # others say dog 2 + 2 and cat 1 / 1, so a dog is guessed where a cat is shown
    said = {"a dog": (1, 0), "a cat": (0, 1)}
    questions = [
        PhraseQuestion("1", "a dog", ("a cat",)), PhraseQuestion("2", "a dog", ("a cat",)),
        PhraseQuestion("3", "a cat", ("a dog",)), PhraseQuestion("4", "a dog", ("the cow",)),
    ]  # fmt: skip
    regions = np.array([[1, 0]] * 4)
    found = phrase_test(
        regions, questions, lambda texts: np.array([said.get(t, (0, 0)) for t in texts]), resamples=10
    )
    # dog and cat are in each of the first three; "dog" is in the fourth too, so it is commoner; of the fourth, "a dog"
    assert found[0].blind["commoner words"] == pytest.approx(3 / 4)


def test_a_tie_is_no_right_answer():
    one = PhraseQuestion("1", "a red dog", ("a blue dog",), ("colour",))
    assert phrase_test(np.array([[1.0, 1.0, 0.0]]), [one], encode)[0].interval.value == 0


def test_questions_are_of_boxes_whose_phrase_can_be_edited():
    rows, questions = phrase_questions(
        ["a black dog", "the thing"], ["1", "2"], [["a black dog runs"], ["the thing is here"]], most=3
    )
    assert rows == [0]
    assert questions[0].true == "a black dog"
    assert len(questions[0].false) == 3


def test_box_naming_by_hand():
    def names(texts):
        return np.array([{"a photo of a dog.": (1, 0), "a photo of a cat.": (0, 1)}[t] for t in texts])

    result = box_naming(
        np.array([[2, 1], [1, 2], [3, 0], [0, 1]]), ["dog", "dog", "dog", "cat"], ["dog", "cat"], names
    )
    assert result.boxes.value == pytest.approx(3 / 4)
    assert result.classes == pytest.approx((2 / 3 + 1) / 2)
    assert (result.chance, result.commonest) == (0.5, 0.75)
    assert result.by_class["dog"] == (pytest.approx(2 / 3), 3)
    with pytest.raises(InputError, match="no class"):
        box_naming(np.zeros((1, 2)), ["cow"], ["dog"], names)
    with pytest.raises(InputError, match="one box each"):
        phrase_test(np.zeros((0, 2)), [], names)


def test_balanced_questions_cannot_be_guessed():
    colours = ["red"] * 30 + ["blue"] * 20 + ["green"] * 10 + ["yellow"] * 5
    photos = [str(i) for i in range(len(colours))]
    said = [f"a {c} square" for c in colours]
    rows, questions = phrase_questions(said, photos, [[t] for t in said], 3, balanced=True)
    assert len(rows) == len(questions) > 10
    assert all(len(q.false) == 1 and q.true == said[row] for row, q in zip(rows, questions, strict=True))
    encode_none = lambda texts: np.ones((len(texts), 2))  # noqa: E731
    (found, *_) = phrase_test(np.ones((len(rows), 2)), questions, encode_none, resamples=10)
    assert found.chance == 0.5
    for guesser in ("shorter", "longer"):
        assert found.blind[guesser] == pytest.approx(0.5)
    often = {c: colours.count(c) for c in colours}
    commoner = [often.get(q.true.split()[1], 0) > often.get(q.false[0].split()[1], 0) for q in questions]
    assert np.mean(commoner) == pytest.approx(0.5)
    assert phrase_questions(["the thing"], ["1"], [["the thing"]], balanced=True) == ([], [])
