"""The language model against one written out with loops, and the fluency reward on real captions."""

import math
import random
from collections import Counter, defaultdict

import numpy as np
import pytest

from cliplet.errors import InputError
from cliplet.metrics.tokenizer.ptb import tokenize_many
from cliplet.rewards import FluencyReward
from cliplet.rewards import language_model as module
from cliplet.rewards.language_model import NgramModel
from tests.shared_data import shared_data

SMALL = """
a dog runs on the beach
a dog runs on grass
a black dog sits on the grass
two dogs run on the beach
two men sit on a bench
a man and a dog on the beach
a man sits
two men and two dogs
the beach
a unicorn sits on a dog
"""


class KneserNey:
    """Interpolated Kneser-Ney by the book: dictionaries, one word at a time."""

    def __init__(self, captions: list[list[str]]) -> None:
        seen = Counter(word for caption in captions for word in caption)
        self.vocabulary = {word for word, count in seen.items() if count > 1}
        padded = [self.pad(caption) for caption in captions]
        self.words = {*self.vocabulary, "<unk>", "</s>"}
        counts: dict[int, Counter] = {n: Counter() for n in (1, 2, 3)}
        for caption in padded:
            for n in (1, 2, 3):
                counts[n].update(tuple(caption[i - n + 1 : i + 1]) for i in range(2, len(caption)))
        self.counts = {3: counts[3]}
        for n in (2, 1):
            before = defaultdict(set)
            for gram in counts[n + 1]:
                before[gram[1:]].add(gram[0])
            self.counts[n] = Counter(
                {g: counts[n][g] if g[0] == "<s>" else len(before[g]) for g in counts[n]}
            )
        self.discounts = {}
        for n, table in self.counts.items():
            once, twice = (sum(value == k for value in table.values()) for k in (1, 2))
            self.discounts[n] = once / (once + 2 * twice)

    def pad(self, caption: list[str]) -> list[str]:
        return ["<s>", "<s>", *(w if w in self.vocabulary else "<unk>" for w in caption), "</s>"]

    def probability(self, word: str, history: tuple[str, ...]) -> float:
        n = len(history) + 1
        after = {g: c for g, c in self.counts[n].items() if g[:-1] == history}
        shorter = 1 / len(self.words) if n == 1 else self.probability(word, history[1:])
        if not after:
            return shorter
        total, discount = sum(after.values()), self.discounts[n]
        own = max(after.get((*history, word), 0) - discount, 0) / total
        return own + discount * len(after) / total * shorter

    def log_probability(self, caption: list[str]) -> float:
        padded = self.pad(caption)
        return sum(
            math.log(self.probability(padded[i], tuple(padded[i - 2 : i]))) for i in range(2, len(padded))
        )


@pytest.fixture(scope="module")
def small() -> list[list[str]]:
    return [line.split() for line in SMALL.strip().splitlines()]


def test_the_model_is_kneser_ney(small: list[list[str]]) -> None:
    by_hand, model = KneserNey(small), NgramModel(small)
    asked = [
        *small,
        [],
        ["dog"],
        ["a", "zebra", "runs"],
        ["beach", "the", "on", "zebra", "zebra"],
        ["bench"] * 4,
    ]
    expected = [by_hand.log_probability(caption) for caption in asked]
    found = model(asked)
    np.testing.assert_allclose(found.model, expected, rtol=1e-12)
    np.testing.assert_array_equal(found.words, [len(caption) + 1 for caption in asked])
    for history in (("<s>", "<s>"), ("<s>", "a"), ("a", "dog"), ("the", "the"), ("bench", "zebra")):
        assert sum(by_hand.probability(word, history) for word in by_hand.words) == pytest.approx(1)


def test_word_frequencies_excuse_known_words_only(small: list[list[str]]) -> None:
    every = Counter(word for caption in small for word in (*caption, "</s>"))
    total = sum(every.values())
    found = NgramModel(small)([["a", "dog"], ["unicorn", "zebra"]])
    expected = sum(math.log(every[word] / total) for word in ("a", "dog", "</s>"))
    np.testing.assert_allclose(found.unigrams, [expected, math.log(every["</s>"] / total)])


def test_the_size_of_the_counted_blocks_does_not_matter(
    small: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = NgramModel(small)(small).model
    monkeypatch.setattr(module, "BLOCK_IMAGES", 3)
    np.testing.assert_allclose(NgramModel(small)(small).model, whole, rtol=1e-12)


def test_strings_and_words_are_alike_and_a_value_is_the_captions_own(small: list[list[str]]) -> None:
    reward = FluencyReward([" ".join(caption) for caption in small])
    asked = ["A dog runs on the grass.", "", "zebra", "the the the"]
    values = reward(["any"] * 4, asked)
    np.testing.assert_array_equal(values, FluencyReward(small)(["any"] * 4, asked))
    np.testing.assert_allclose([reward(["any"], [caption])[0] for caption in asked], values, rtol=1e-12)
    assert values[0] > values[3]
    assert np.isfinite(values).all()
    assert values[1] == values.min()


def test_no_training_captions_is_an_error() -> None:
    for nothing in ([], [[]], [""]):
        with pytest.raises(InputError, match="training captions with words"):
            FluencyReward(nothing)


def test_people_beat_word_salad_lists_and_captions_cut_short() -> None:
    """On Flickr8k: counted on 4,000 training photos, asked about dev captions."""
    train = set(shared_data("flickr8k/split_train.txt").read_text().split()[:4000])
    dev = set(shared_data("flickr8k/split_dev.txt").read_text().split()[:300])
    captions: dict[bool, list[str]] = {True: [], False: []}
    for line in shared_data("flickr8k/Flickr8k.token.txt").read_text().splitlines():
        key, caption = line.split("\t")
        if (name := key.split("#")[0]) in train or name in dev:
            captions[name in train].append(caption)
    reward = FluencyReward(captions[True])
    true = [words for words in tokenize_many(captions[False], joined=False) if len(words) > 5]
    rng = random.Random(0)
    small_words = {"a", "an", "the", "in", "on", "of", "with", "and", "is", "are", "to", "at", "his", "her"}
    spoilt = {
        "permuted": ([rng.sample(words, len(words)) for words in true], 0.98),
        "repeated": ([[*words, *words[-2:] * 3] for words in true], 0.88),
        "first words over and over": ([(words[:2] * 9)[: len(words)] for words in true], 0.97),
        "no small words": ([[word for word in words if word not in small_words] for words in true], 0.95),
        "two neighbours swapped": ([_swapped(words, rng.randrange(len(words) - 1)) for words in true], 0.93),
        "stops after a small word": ([_cut(words, small_words) for words in true], 0.85),
    }
    values = reward.of_words([""] * len(true), true)
    for name, (captions_, at_least) in spoilt.items():
        different = np.array([a != b for a, b in zip(true, captions_, strict=True)])
        worse = values > reward.of_words([""] * len(true), captions_)
        assert worse[different].mean() > at_least, name
        assert different.mean() > 0.9, name


def _swapped(words: list[str], place: int) -> list[str]:
    return [*words[:place], words[place + 1], words[place], *words[place + 2 :]]


def _cut(words: list[str], small_words: set[str]) -> list[str]:
    ends = [place for place, word in enumerate(words[:-1]) if word in small_words and place > 1]
    return words[: ends[-1] + 1] if ends else words
