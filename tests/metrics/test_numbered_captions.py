"""Captions tokenised into numbers have the words that lists of words have, and give the same scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliplet.errors import InputError
from cliplet.metrics.ngrams import encode
from cliplet.metrics.numbered import GroupedCaptions, NumberedCaptions, in_order
from cliplet.metrics.registry import reference_scores, word_scores
from cliplet.metrics.tokenizer import numbers
from cliplet.metrics.tokenizer.grammar import ABBREVIATED
from cliplet.metrics.tokenizer.names import TOKENIZERS
from cliplet.metrics.tokenizer.numbers import number_many
from cliplet.metrics.tokenizer.ptb import SPLIT_WORDS, tokenize_many
from tests.metrics.hard_captions import GENERATORS, HARD, random_captions

CAPTIONS = [caption for pairs in HARD.values() for caption, _ in pairs]
PIECES = [
    "a", "Dog", "cat", " ", "  ", ",", ", ", " ,", ".", " .", ". ", "..", "\n", "no", "Mr", "cannot", "gonna,", "x",
    "I", "don't", "5", "\u00e9", "\u212a", "\u0130", "\ud800", "\u00a0", "1 1/2", "<b", ">", "abcdefgh", "abcdefghi",
    "abcdefghijklmnop", "abcdefghijklmnopq",
]  # fmt: skip


@pytest.fixture(autouse=True)
def however_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of many captions, also for one, and in several parts."""
    monkeypatch.setattr(numbers, "_FEWEST", 1)
    monkeypatch.setattr(numbers, "_TOGETHER", 50)


def assert_same_words(captions: list[str]) -> None:
    for joined in (True, False):
        found, expected = number_many(captions, joined=joined), tokenize_many(captions, joined=joined)
        assert found.lists == expected
        assert [found[i] for i in range(len(found))] == expected
        assert found.words == list(dict.fromkeys(word for words in expected for word in words))


@pytest.mark.parametrize("kind", GENERATORS)
def test_words_are_those_of_lists(kind: str) -> None:
    captions = random_captions(kind, 400, CAPTIONS, seed=3)
    assert_same_words(captions)
    found = number_many(captions, tokenizer="ptb-punctuation")
    assert found.lists == tokenize_many(captions, tokenizer="ptb-punctuation")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), min_size=1, max_size=8))
def test_words_of_any_captions_are_those_of_lists(captions: list[str]) -> None:
    assert_same_words(captions)


def test_special_words_are_left_to_the_grammar() -> None:
    special = sorted(ABBREVIATED | SPLIT_WORDS)
    assert_same_words([f"{before} {word}{after}" for word in special for before in ("a", "") for after in (
        "", ".", " .", ". ", ", x", "s.", " x", ".. ")])  # fmt: skip


def test_no_captions_and_captions_without_words() -> None:
    assert number_many([]).lists == []
    assert number_many(["", " ", ".", "a dog."]).lists == [[], [], [], ["a", "dog"]]
    assert set(TOKENIZERS) == {"ptb", "ptb-punctuation"}
    with pytest.raises(InputError, match="unknown tokenizer"):
        number_many(["a"], tokenizer="moses")
    with pytest.raises(InputError, match="must be a string"):
        number_many(["a", None])  # type: ignore[list-item]


def test_parts_of_numbered_captions_are_lists() -> None:
    captions = NumberedCaptions.of([["a", "dog"], [], ["a", "cat", "a"]])
    assert captions[0:3] is captions
    assert captions[1:] == [[], ["a", "cat", "a"]]
    assert captions[-1] == ["a", "cat", "a"]
    groups = GroupedCaptions(captions, [2, 1])
    assert (len(groups), groups[0], groups[1:]) == (2, [["a", "dog"], []], [[["a", "cat", "a"]]])
    assert [group for group in groups] == [[["a", "dog"], []], [["a", "cat", "a"]]]
    both = captions.followed_by(NumberedCaptions.of([["the", "cat"]]))
    assert both.lists == [["a", "dog"], [], ["a", "cat", "a"], ["the", "cat"]]
    flat, words = in_order(np.array([3, 1, 3, 0]), ["p", "q", "never", "s"])
    assert (flat.tolist(), words) == ([0, 1, 0, 2], ["s", "q", "p"])


def test_words_with_white_space_inside_are_parted_where_they_stand() -> None:
    captions = [["b", "1\u00a01/2", "c"], ["1/2", "b"], ["c"], ["x\u00a0y\u00a0z", "1"]]
    flat, lengths, words, split = encode(captions)
    whole = [" ".join(caption).split() for caption in captions]
    plain = encode(whole)
    assert (flat.tolist(), lengths.tolist(), words) == (plain[0].tolist(), plain[1].tolist(), plain[2])
    assert words == ["b", "1", "1/2", "c", "x", "y", "z"]
    assert (split, plain[3]) == ([0, 3], [])


def test_scores_are_those_of_lists_to_the_last_bit() -> None:
    captions = [c for kind in GENERATORS for c in random_captions(kind, 60, CAPTIONS, seed=4)] + [
        "1 1/2 cups"
    ] * 9
    said, groups = captions[::4], [captions[i : i + 3] for i in range(0, len(captions), 4)]
    found = reference_scores(said, groups, None, ("bleu", "rouge", "cider"))
    flat = iter(tokenize_many([caption for group in groups for caption in group]))
    words = [[next(flat) for _ in group] for group in groups]
    expected = word_scores(tokenize_many(said), words, ("bleu", "rouge", "cider"))
    assert list(found.per_caption) == list(expected.per_caption)
    for name, values in expected.per_caption.items():
        assert np.array_equal(found.per_caption[name], values)
        assert found.statistics[name].corpus() == expected.statistics[name].corpus()
    with pytest.raises(InputError, match="image 1 has no reference"):
        reference_scores(["a", "b"], [["a"], []], None, ("bleu",))
