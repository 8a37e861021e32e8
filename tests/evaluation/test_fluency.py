"""The trigram model by hand, fluent and balanced false captions, and the split of word pairs."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from cliplet.data.book import read_book
from cliplet.errors import InputError
from cliplet.evaluation.fluency import NgramModel, count_ngrams, fair_choice, tokens
from cliplet.evaluation.hard_negatives import KINDS, hard_negatives, in_words, swap_word
from cliplet.evaluation.pairs import blind_wins
from tests.shared_data import shared_data


def test_trigrams_by_hand():
    model = NgramModel(["a dog", "a cat"])
    # words: a 2, dog 1, cat 1, end 2; four different ones, and one for the unseen
    uniform = 1 / 5
    one = {
        w: (n + 4 * uniform) / (6 + 4) for w, n in {"a": 2, "dog": 1, "cat": 1, "</s>": 2, "cow": 0}.items()
    }
    assert model.probability("dog", []) == pytest.approx(one["dog"])
    two = (1 + 2 * one["dog"]) / (2 + 2)  # after "a": dog and cat
    assert model.probability("dog", ["a"]) == pytest.approx(two)
    three = (1 + 2 * two) / (2 + 2)  # after "<s> a"
    assert model.probability("dog", ["<s>", "a"]) == pytest.approx(three)
    assert model.probability("cow", ["<s>", "a"]) == pytest.approx((2 * (2 * one["cow"]) / 4) / 4)
    everything = ["a", "dog", "cat", "</s>", "never seen"]
    for history in ([], ["a"], ["<s>", "a"], ["x", "y"]):
        assert sum(model.probability(w, history) for w in everything) == pytest.approx(1.0)


def test_own_sentences_can_be_left_out():
    model, other = (
        NgramModel(["a dog runs", "a cat sits", "a dog sits"]),
        NgramModel(["a cat sits", "a dog sits"]),
    )
    own = count_ngrams(["a dog runs"])
    for word, history in (("dog", ["<s>", "a"]), ("runs", ["a", "dog"]), ("sits", ["a", "dog"])):
        with_words = model.probability(word, history, own)
        assert with_words == pytest.approx(
            other.probability(word, history), rel=0.1
        )  # single words stay counted
    assert model.probability("runs", ["a", "dog"], own) < 0.15 < model.probability("runs", ["a", "dog"])


def test_the_difference_is_that_of_whole_sentences():
    model = NgramModel(["a dog runs on the beach", "a cat sits on a bench", "two dogs run"])
    for changed, true in (
        ("a cat runs on the beach", "a dog runs on the beach"),
        ("two cats run", "two dogs run"),
        ("a dog runs", "a dog runs on the beach"),
        ("a dog runs on the bench .", "a dog runs on the beach ."),
    ):
        whole = model.log_likelihood(changed) - model.log_likelihood(true)
        assert model.difference(changed, true) == pytest.approx(whole)
    assert tokens("A T-shirt, red!") == ["<s>", "<s>", "a", "t-shirt", ",", "red", "!", "</s>"]


def test_a_fair_choice_leaves_no_guesser_a_chance():
    rng = np.random.default_rng(0)
    gaps = np.stack([rng.normal(0.7, 1.5, 4000), rng.choice([-1, 0, 1], 4000, p=[0.2, 0.3, 0.5])], axis=1)
    groups = ["a" if i % 3 else "b" for i in range(4000)]
    keep = fair_choice(gaps, groups, list(range(4000)))
    assert 1000 < keep.sum() < 4000
    for group in "ab":
        for column in gaps[keep & (np.array(groups) == group)].T:
            assert (column > 0).sum() == (column < 0).sum()
    alone = np.array([[1.5, 0], [1.2, 0], [-1.9, 0], [0.0, 0.0]])
    assert fair_choice(alone, ["a"] * 4, [3, 1, 2, 0]).tolist() == [False, True, True, True]


def test_word_pairs_are_split_by_family():
    colours = ["red", "blue", "green", "yellow", "black", "white", "brown", "grey"]
    pairs = list(combinations(colours, 2))
    counts = Counter(in_words("colour", a, b, "test", 5) for a, b in pairs)
    assert counts[True] in (9, 10)  # one in three of 28
    for a, b in pairs:
        assert in_words("colour", a, b, "test", 5) != in_words("colour", b, a, "train", 5)
        assert in_words("colour", a, b, "all", 5)
    assert in_words("colour", "red", "blue", "test", 5) == in_words("colour", "navy", "pink", "test", 5)
    splits = {tuple(in_words("colour", a, b, "test", seed) for a, b in pairs) for seed in range(6)}
    assert len(splits) == 6
    twos = [in_words("object", "boy", "girls", "test", seed) for seed in range(60)]
    assert 8 < sum(twos) < 32  # a family of one pair is a test's in one seed of three
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="unknown part 'other'"):
        swap_word("a dog", "object", rng, words="other")  # type: ignore[arg-type]


def test_odd_sentences_are_left_out():
    captions = {
        f"{i}": [f"a man is climbing up a set of stairs {i}", "a woman is standing by a wall"]
        for i in range(20)
    }
    captions |= {f"w{i}": ["a man is walking up a hill", "a child is running up a hill"] for i in range(20)}
    fluent = {n.false for n in hard_negatives(captions, ["action"], fluent=True)}
    plain = {n.false for n in hard_negatives(captions, ["action"])}
    assert any("standing up a hill" in text for text in plain)
    assert {text.rstrip("0123456789 ") for text in fluent} == {
        "a man is walking up a set of stairs",
        "a man is climbing up a hill",
    }


def test_fluent_and_balanced_on_real_captions():
    root = shared_data("flickr8k/Flickr8k.token.txt").parent
    names = (root / "split_dev.txt").read_text().split()[:80]
    captions = read_book([root / "Flickr8k.token.txt"]).only(names).images
    model = NgramModel(c for own in captions.values() for c in own)
    won = {}
    for name, how in (
        ("plain", {}),
        ("fluent", {"fluent": True}),
        ("fair", {"fluent": True, "balanced": True}),
    ):
        made = hard_negatives(captions, KINDS, 0, "train", **how)
        apart = np.array([model.difference(n.false, n.true, count_ngrams(captions[n.image])) for n in made])
        won[name] = float(np.mean((apart < 0) + 0.5 * (apart == 0)))
        blind = {k: float(v.mean()) for k, v in blind_wins([n.pair() for n in made]).items()}
    assert won["fluent"] < won["plain"] - 0.05
    assert won["fair"] == pytest.approx(0.5)
    assert blind["shorter"] == blind["longer"] == pytest.approx(0.5)
    again = hard_negatives(dict(reversed(captions.items())), KINDS, 0, "train", fluent=True, balanced=True)
    assert sorted(made, key=repr) == sorted(again, key=repr)
