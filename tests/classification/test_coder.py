"""CODER's scores by hand: weights, standardisation, the gate."""

import dataclasses

import numpy as np
import pytest

from cliplet.classification.background import Background
from cliplet.classification.bank import encode_texts
from cliplet.classification.coder import CLIP_TEMPERATURE, Rule, make_head
from cliplet.classification.texts import ClassTexts
from cliplet.encoders.card import ModelCard, TextSpec
from cliplet.errors import InputError

PLAIN = Rule(standardise="none", gate=0)


class Words:
    """Texts have the vectors of a table; photos are vectors."""

    def __init__(self, table):
        self.table = {k: np.array(v, dtype=np.float32) / np.linalg.norm(v) for k, v in table.items()}
        dim = len(next(iter(self.table.values())))
        self.card = ModelCard("words", dim, text=TextSpec(77, ""), fingerprint_of=lambda: "words")

    def encode_texts(self, texts):
        return np.stack([self.table[text] for text in texts])

    def encode_images(self, images):
        return np.stack(images)


TABLE = {
    "cat": [1, 0, 0, 0], "kitty": [0.8, 0.6, 0, 0],
    "cat with fur": [0.6, 0, 0.8, 0], "cat similar to lion": [0, 0, 1, 0],
    "a cat": [0, 1, 0, 0], "dog": [0, 0, 0, 1], "cat not dog": [1, 0, 0, 0], "dog not cat": [0, 0, 0, 1],
}  # fmt: skip
CAT = ClassTexts("cat", ("kitty",), ("fur",), ("lion",), ("a cat",), {"dog": ("cat not dog",)})
DOG = ClassTexts("dog", against={"cat": ("dog not cat",)})
PHOTOS = np.array([[0.5, 0.5, 0.5, 0.5], [0.8, 0, 0, 0.6], [0, 0, 0, 1]], dtype=np.float32)


def bank(*classes):
    return encode_texts(Words(TABLE), classes, ("{}",))


def cosines(*texts):
    encoder = Words(TABLE)
    return [PHOTOS @ encoder.table[t] for t in texts]


def test_names_alone_are_the_ensemble_to_the_last_bit():
    head = make_head(bank(ClassTexts("cat"), DOG), Rule(gate=0))
    np.testing.assert_array_equal(head.scores(PHOTOS), PHOTOS @ bank(ClassTexts("cat"), DOG).names.T)


def test_weights_of_kinds_and_of_single_texts():
    cat, kitty, fur, lion, sentence = cosines("cat", "kitty", "cat with fur", "cat similar to lion", "a cat")
    best = np.maximum(cat, kitty)
    released = make_head(bank(CAT, DOG), dataclasses.replace(PLAIN, per_text=True)).scores(PHOTOS)
    np.testing.assert_allclose(released[:, 0], (best + fur + lion + sentence) / 4, atol=1e-6)
    rule = dataclasses.replace(PLAIN, names=2, attributes=1, analogues=0, sentences=0.5)
    found = make_head(bank(CAT, DOG), rule).scores(PHOTOS)
    np.testing.assert_allclose(found[:, 0], (2 * best + fur + 0.5 * sentence) / 3.5, atol=1e-6)
    np.testing.assert_allclose(found[:, 1], cosines("dog")[0], atol=1e-6)
    mean = make_head(bank(CAT, DOG), dataclasses.replace(rule, synonyms="mean")).scores(PHOTOS)
    np.testing.assert_allclose(mean[:, 0], (cat + kitty + fur + 0.5 * sentence) / 3.5, atol=1e-6)
    none = make_head(bank(CAT, DOG), dataclasses.replace(rule, synonyms="none")).scores(PHOTOS)
    np.testing.assert_allclose(none[:, 0], (2 * cat + fur + 0.5 * sentence) / 3.5, atol=1e-6)


def test_a_class_without_a_kind_that_counts_keeps_its_name():
    head = make_head(bank(CAT, DOG), dataclasses.replace(PLAIN, names=0, attributes=1))
    np.testing.assert_allclose(head.scores(PHOTOS)[:, 1], cosines("dog")[0], atol=1e-6)


def test_standardisation_by_hand():
    rng = np.random.default_rng(0)
    others = rng.normal(size=(50, 4)).astype(np.float32)
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    encoder = Words(TABLE)

    def z(text, spread):
        known = others @ encoder.table[text]
        return (PHOTOS @ encoder.table[text] - known.mean()) / (known.std() if spread else 1)

    for how in ("mean", "spread"):
        rule = Rule(standardise=how, gate=0, sentences=0)
        found = make_head(bank(CAT, DOG), rule, Background(others)).scores(PHOTOS)
        best = np.maximum(z("cat", how == "spread"), z("kitty", how == "spread"))
        wanted = (best + z("cat with fur", how == "spread") + z("cat similar to lion", how == "spread")) / 3
        np.testing.assert_allclose(found[:, 0], wanted, atol=1e-4)
        np.testing.assert_allclose(found[:, 1], z("dog", how == "spread"), atol=1e-4)


def test_the_gate_by_hand():
    table = {"a": [1, 0, 0, 0.1], "b": [1, 0, 0, -0.1], "a not b": [0, 1, 0, 0], "b not a": [0, 0, 1, 0]}
    classes = [ClassTexts("a", against={"b": ("a not b",)}), ClassTexts("b", against={"a": ("b not a",)})]
    texts = encode_texts(Words(table), classes, ("{}",))
    photos = np.array([[0.6, 0, 0.8, 0], [0.6, 0.8, 0, 0], [0.6, 0, 0.7, 0.4]], dtype=np.float32)
    head = make_head(texts, dataclasses.replace(PLAIN, gate=0.5))
    first = head.first_stage(photos)
    gap = np.abs(first[:, 0] - first[:, 1]) / CLIP_TEMPERATURE
    near = np.tanh(gap / 2) < 0.5  # of two classes, the difference of their softmax shares
    assert near.tolist() == [True, True, False]
    found = head.scores(photos)
    assert found.argmax(axis=1).tolist() == [1, 0, 0]  # the third leans to "b not a", but is not near
    np.testing.assert_allclose(np.sort(found, axis=1), np.sort(first, axis=1))
    np.testing.assert_array_equal(make_head(texts, PLAIN).scores(photos), first)


def test_a_text_for_one_side_alone_says_nothing():
    table = {"a": [1, 0.01, 0], "b": [1, 0, 0], "a not b": [0, 0, 1]}
    classes = [ClassTexts("a", against={"b": ("a not b",)}), ClassTexts("b")]
    head = make_head(encode_texts(Words(table), classes, ("{}",)), dataclasses.replace(PLAIN, gate=0.9))
    photos = np.array([[0.6, 0.0, -0.8], [0.6, 0.1, 0.8]], dtype=np.float32)
    np.testing.assert_array_equal(head.scores(photos), head.first_stage(photos))


@pytest.mark.parametrize(
    "wrong", [{"gate": -1}, {"names": 0, "attributes": 0, "analogues": 0, "sentences": 0}, {"standardise": "all"},
              {"synonyms": "some"}, {"names": True}],
)  # fmt: skip
def test_rules_that_cannot_be(wrong):
    with pytest.raises(InputError):
        Rule(**wrong)


def test_one_photo_has_no_spread():
    with pytest.raises(InputError, match="no spread"):
        Background(PHOTOS[:1])
