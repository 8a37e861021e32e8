"""Every reward on true captions and on what a captioner that games its reward would say (Flickr8k dev split).

    python -m benchmarks.reward_degenerate                # 1,000 photos: about a minute on two cores
    python -m benchmarks.reward_degenerate --photos 100

A photo's true caption is the first of its five; the other four are the references, so the true caption does not meet
itself. Fluency, document frequencies and the list of nouns come from the training split. Against the true one stand:

- permuted: its words in random order;
- repeated: its last two words said three times more;
- stutter: its first two words over and over, as long as it is;
- cut: everything after its last function word left out ("a dog runs on the");
- nouns: its nouns alone, one after the other;
- all nouns: the nouns of all five captions, listed;
- nouns added: itself, followed by the nouns that only the other captions have;
- other photo: the true caption of another photo.

"cider, end" is CIDEr-D with an end token; the mixtures are of parts normalised over all these captions together.
Printed as Markdown: the mean reward of each kind, then in how many of 100 photos the true caption gets more than the
degenerate one (a tie counts half).
"""

import argparse
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from benchmarks.flickr8k_rewards import captions_of, photos_of

import cliplet
from cliplet.metrics.cider import DocumentFrequencies
from cliplet.metrics.tokenizer.ptb import tokenize_many
from cliplet.rewards import REWARDS, CiderReward, FluencyReward, MixedReward, Reward, build_reward
from cliplet.rewards.references import with_end

END = "<end>"
Words = Sequence[str]
_FUNCTION_WORDS = """
a an the and or but of in on at to by for from with as into over under up down out off about through is are was were be
while who which that his her their its some
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
MIXTURES = {
    "lclipscore + cider, end": ("lclipscore", "cider, end"),
    "lclipscore + cider, end + fluency": ("lclipscore", "cider, end", "fluency"),
}


def noun_list(captions: Iterable[Words]) -> frozenset[str]:
    """Words that often stand between an article or number and a verb, a preposition or the caption's end."""
    all_uses: Counter[str] = Counter()
    as_noun: Counter[str] = Counter()
    before = {"a", "an", "the", "two", "three", "his", "her"}
    after = {"is", "are", "in", "on", "at", "with", "of", ""}
    for words in captions:
        all_uses.update(words)
        for left, word, right in zip(words, words[1:], [*words[2:], ""], strict=False):
            if left in before and right in after:
                as_noun[word] += 1
    return frozenset(
        word
        for word, uses in all_uses.items()
        if as_noun[word] >= 3 and as_noun[word] > 0.12 * uses and word not in FUNCTION_WORDS
    )


def kinds(nouns: frozenset[str], rng: random.Random) -> dict[str, Callable[[Words, list[Words]], Words]]:
    """Each kind of degenerate caption as a function of the true one and the references."""

    def permuted(words: Words, _: list[Words]) -> Words:
        shuffled = list(words)
        while shuffled == list(words) and len(set(words)) > 1:
            rng.shuffle(shuffled)
        return shuffled

    def cut(words: Words, _: list[Words]) -> Words:
        ends = [place for place, word in enumerate(words[:-1]) if word in FUNCTION_WORDS and place > 0]
        return words[: ends[-1] + 1] if ends else words

    def listed(captions: Iterable[Words]) -> list[str]:
        return list(dict.fromkeys(word for words in captions for word in words if word in nouns))

    return {
        "permuted": permuted,
        "repeated": lambda words, _: [*words, *words[-2:] * 3],
        "stutter": lambda words, _: (list(words[:2]) * len(words))[: len(words)],
        "cut": cut,
        "nouns": lambda words, _: listed([words]),
        "all nouns": lambda words, others: listed([words, *others]),
        "nouns added": lambda words, others: [*words, *(w for w in listed(others) if w not in words)],
    }


def candidates(captions: dict[str, list[str]], nouns: frozenset[str]) -> dict[str, list[str]]:
    """For each kind the caption of each photo; one that equals the true caption is left as it is."""
    rng = random.Random(0)
    words = [[list(group) for group in tokenize_many(texts, joined=False)] for texts in captions.values()]
    true = [group[0] for group in words]
    made: dict[str, list[Words]] = {"true": list(true)}
    for name, make in kinds(nouns, rng).items():
        made[name] = [make(group[0], group[1:]) for group in words]
    made["other photo"] = [*true[1:], true[0]]
    return {name: [" ".join(caption) for caption in group] for name, group in made.items()}


def measure(photos: int) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, list[str]]]:
    """For each reward and kind the values ``[photos]``, and the captions of each kind."""
    captions = captions_of("dev", photos)
    training = captions_of("train")
    training_words = [tokenize_many(group, joined=False) for group in training.values()]
    flat = [words for group in training_words for words in group]
    said = candidates(captions, noun_list(flat))
    references = {name: group[1:] for name, group in captions.items()}
    reward = build_reward(
        dict.fromkeys((name for name in REWARDS if name != "fluency"), 0.0),
        references,
        images=photos_of("dev", list(captions)),
        document_frequencies=DocumentFrequencies.from_references(training_words),
        remember=len(captions) * len(said),
    )
    ending = DocumentFrequencies.from_references([with_end(group, END) for group in training_words])
    parts: dict[str, Reward] = {**reward.rewards, "fluency": FluencyReward(flat)}
    parts["cider, end"] = CiderReward(references, ending, end_token=END)
    images = [image for _ in said for image in captions]
    texts = [text for group in said.values() for text in group]
    found = {name: part(images, texts) for name, part in parts.items()}
    for name, members in MIXTURES.items():
        found[name] = MixedReward({member: (parts[member], 1.0) for member in members})(images, texts)
    return {
        name: dict(zip(said, values.reshape(len(said), -1), strict=True)) for name, values in found.items()
    }, said


def wins(true: np.ndarray, other: np.ndarray, differ: np.ndarray) -> float:
    """In how many of 100 photos the true caption gets more, ties half, where the two captions differ."""
    gap = (true - other)[differ]
    return 100 * float(((gap > 1e-9) + 0.5 * (np.abs(gap) <= 1e-9)).mean())


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=1000)
    options = parser.parse_args()
    values, said = measure(options.photos)
    card = cliplet.load().card
    print(
        f"{len(said['true']):,} photos of Flickr8k dev; model {card.name} {card.fingerprint}. For example:\n"
    )
    print(table(["kind", "caption"], [[kind, group[0]] for kind, group in said.items()]))
    print("\nMean reward:\n")
    means = [[name, *(f"{group[kind].mean():.2f}" for kind in said)] for name, group in values.items()]
    print(table(["reward", *said], means))
    print("\nThe true caption gets more, of 100 photos:\n")
    others = [kind for kind in said if kind != "true"]
    differ = {
        kind: np.array([a != b for a, b in zip(said["true"], said[kind], strict=True)]) for kind in others
    }
    rows = [
        [name, *(f"{wins(group['true'], group[kind], differ[kind]):.0f}" for kind in others)]
        for name, group in values.items()
    ]
    print(table(["reward", *others], rows))


if __name__ == "__main__":
    main()
