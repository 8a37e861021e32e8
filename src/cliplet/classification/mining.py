"""Class texts mined from captions: what people have written of photos that show the class, found by its names."""

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from cliplet.classification.texts import ClassTexts

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def mine_sentences(
    classes: Sequence[ClassTexts], captions: Iterable[str], most: int = 16
) -> tuple[list[ClassTexts], int]:
    """Give each class the captions that name it: a name or synonym stands there as whole words, perhaps in the plural.

    Of a class's distinct captions those come first that were written most often, then the shorter ones, then by the
    alphabet: the choice is the same each time. A caption that names several classes is left out: it speaks for all. Of
    names inside each other the longest counts: "a hot dog" names no dog.

    Args:
        classes: the classes.
        captions: sentences, of any photos. They need no labels.
        most: captions that a class gets at most.

    Returns:
        The classes with more ``sentences``, and how many of them got any.
    """
    owners: dict[tuple[str, ...], int] = {}
    for number, own in enumerate(classes):
        for name in (own.name, *own.synonyms):
            words = _words(name)
            if words:
                owners.setdefault(words, number)
                owners.setdefault((*words[:-1], _plural(words[-1])), number)
    longest = max(map(len, owners), default=0)
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    for caption, times in Counter(text.strip() for text in captions).items():
        named = _named(_words(caption), owners, longest)
        if len(named) == 1:
            counts[named.pop()][caption] += times
    found = list(classes)
    for number, of_class in counts.items():
        best = sorted(of_class, key=lambda text: (-of_class[text], len(text), text))[:most]
        own = classes[number]
        found[number] = dataclasses.replace(own, sentences=tuple(dict.fromkeys([*own.sentences, *best])))
    return found, len(counts)


def _named(words: tuple[str, ...], owners: dict[tuple[str, ...], int], longest: int) -> set[int]:
    """The classes that words name, of names inside each other the longest: "hot dog" names no dog."""
    named, i = set(), 0
    while i < len(words):
        n = next((n for n in range(longest, 0, -1) if words[i : i + n] in owners and i + n <= len(words)), 0)
        if n:
            named.add(owners[words[i : i + n]])
        i += max(n, 1)
    return named


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.casefold()))


def _plural(word: str) -> str:
    if re.search(r"(?:s|x|z|ch|sh)$", word):
        return word + "es"
    return word[:-1] + "ies" if re.search(r"[^aeiou]y$", word) else word + "s"
