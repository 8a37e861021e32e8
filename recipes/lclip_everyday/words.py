"""Short texts that the text tower learns beside captions, and what ImageNet's classes are called."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from cliplet.data.spans import noun_phrases
from cliplet.models.pretrained import imagenet_names

from .detections import counted, plural

KINDS = Path(__file__).with_name("class_kinds.txt")
CLASSES = 1000
_DETERMINER = re.compile(
    r"^(?:an?|the|two|three|four|five|some|several|many|his|her|their|its)\s+", re.IGNORECASE
)


def with_article(name: str) -> str:
    """A name with "a" or "an"."""
    return f"an {name}" if name[0].lower() in "aeiou" else f"a {name}"


@cache
def everyday_names() -> tuple[str, ...]:
    """What people call each of ImageNet's classes, with its article, such as "a dog" for a beagle."""
    found = [with_article(name) for name in imagenet_names()]
    for line in KINDS.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            numbers, name = line.split(" ", 1)
            first, _, last = numbers.partition("-")
            for number in range(int(first), int(last or first) + 1):
                found[number] = name
    return tuple(found)


def kept_out(count: int, seed: int) -> frozenset[int]:
    """Classes whose names the image tower is not taught, so that such classes can be measured."""
    return frozenset(np.random.default_rng(seed).choice(CLASSES, count, replace=False).tolist())


def class_texts() -> list[tuple[str, ...]]:
    """Texts for each of ImageNet's classes: its name twice, then its everyday name."""
    return [
        (f"a photo of {with_article(name)}.", with_article(name), f"a photo of {everyday}")
        for name, everyday in zip(imagenet_names(), everyday_names(), strict=True)
    ]


def short_texts(
    captions: Sequence[str], things: Sequence[str], least: int = 3, most: int = 6000
) -> list[str]:
    """Bare nouns, plurals, counts, phrases and class names.

    Args:
        captions: their noun phrases that occur at least ``least`` times are taken, the most frequent first.
        things: names of a detector's classes.
        least: uses of a phrase.
        most: phrases to take.

    Returns:
        Each text once.
    """
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(span.text.lower() for span in noun_phrases(caption))
    found = [text for text, uses in counts.most_common(most) if uses >= least]
    bare = [_DETERMINER.sub("", text) for text in found[: most // 2]]
    texts = [*found, *bare]
    for name in things:
        texts += [name, plural(name), f"a photo of {counted(name, 1)}"]
        texts += [counted(name, count) for count in (1, 2, 3, 4, 5)]
    for name, everyday in zip(imagenet_names(), everyday_names(), strict=True):
        texts += [
            name,
            with_article(name),
            f"a photo of {with_article(name)}.",
            f"a photo of {with_article(name)}",
        ]
        texts += [everyday, f"a photo of {everyday}", f"a close up of {with_article(name)}"]
    return list(dict.fromkeys(text for text in texts if text))
