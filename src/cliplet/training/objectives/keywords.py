"""Keywords of captions: found, read or given, and which captions name them."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from math import log

import numpy as np
from numpy.typing import NDArray

from cliplet.data.spans import noun_phrases
from cliplet.data.text import read_names
from cliplet.errors import InputError
from cliplet.scoring.vocabulary import DETERMINERS, FUNCTION, words_of_kind

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_PAIRS = """
man/men woman/women child/children person/people foot/feet tooth/teeth mouse/mice goose/geese leaf/leaves knife/knives
wolf/wolves shelf/shelves calf/calves wife/wives loaf/loaves scarf/scarves tomato/tomatoes potato/potatoes
"""
_IRREGULAR: dict[str, str] = dict(pair.split("/") for pair in _PAIRS.split())
_SINGULAR = {many: one for one, many in _IRREGULAR.items()}
Phrase = tuple[str, ...]


def keywords_of(
    wanted: str | Sequence[str], captions: Sequence[str], photo_of: NDArray[np.int64], most: int
) -> list[str]:
    """The keywords that a setting asks for, distinct up to plurals.

    Args:
        wanted: ``found``, a file with one a line, or the keywords.
        captions: of the training photos.
        photo_of: photo of each caption ``[captions]``.
        most: how many are found at most.

    Raises:
        InputError: the file cannot be read, or none is found.
    """
    if wanted == "found":
        found = find_keywords(captions, photo_of, most)
        if not found:
            raise InputError(
                "no keyword is found: no word stands in the captions of two training photos; give a list or a file"
            )
        return found
    listed = read_names(wanted, "keywords") if isinstance(wanted, str) else wanted
    owners: dict[Phrase, int] = {}
    return [k for n, k in enumerate(listed) if _own(owners, k, n)]


def named(captions: Sequence[str], keywords: Sequence[str]) -> NDArray[np.bool_]:
    """Which captions name which keywords ``[captions, keywords]``.

    A keyword stands there as whole words, in the singular or plural; of keywords inside each other the longest counts:
    "a hot dog" names no dog. A hyphen parts words.

    Example:
        >>> named(["Two dogs at a hot-dog stand", "a hotdog"], ["dog", "hot dog"]).astype(int).tolist()
        [[1, 1], [0, 0]]
    """
    owners: dict[Phrase, int] = {}
    for number, keyword in enumerate(keywords):
        _own(owners, keyword, number)
    longest = max(map(len, owners), default=0)
    found = np.zeros((len(captions), len(keywords)), dtype=bool)
    for row, caption in enumerate(captions):
        words, i = _words(caption), 0
        while i < len(words):
            n = next((n for n in range(min(longest, len(words) - i), 0, -1) if words[i : i + n] in owners), 0)
            if n:
                found[row, owners[words[i : i + n]]] = True
            i += max(n, 1)
    return found


def find_keywords(captions: Sequence[str], photo_of: NDArray[np.int64], most: int = 100) -> list[str]:
    """Things that tell photos apart, as the captions call them in one to three words, the best first.

    Candidates are the ends of noun phrases ("white dog" and "dog"), without determiners and numbers, that the captions
    of two photos hold at least, distinct up to plurals. Score: how many photos, times ``log(photos / how many)``, times
    the root of its words.
    """
    photos: dict[Phrase, set[int]] = defaultdict(set)
    for caption, photo in zip(captions, photo_of.tolist(), strict=True):
        for phrase in _phrases(caption):
            photos[phrase].add(photo)
    merged: dict[Phrase, set[int]] = defaultdict(set)
    for phrase, has in photos.items():
        ones = ((*phrase[:-1], one) for one in sorted(_singulars(phrase[-1])))
        merged[next((one for one in ones if one in photos), phrase)] |= has
    total = len(set(photo_of.tolist()))
    score = Counter(
        {
            p: len(has) * log(total / len(has)) * len(p) ** 0.5
            for p, has in merged.items()
            if 1 < len(has) < total
        }
    )
    owners: dict[Phrase, int] = {}
    found: list[str] = []
    for phrase in sorted(score, key=lambda p: (-score[p], p)):
        if len(found) == most:
            break
        if _own(owners, " ".join(phrase), len(found)):
            found.append(" ".join(phrase))
    return found


def _words(text: str) -> Phrase:
    return tuple(_WORD.findall(text.casefold()))


def _phrases(caption: str) -> Iterator[Phrase]:
    """The last one to three words of the caption's noun phrases, without words that show nothing by themselves."""
    silent = FUNCTION | DETERMINERS | {*words_of_kind()["number"], *words_of_kind()["place"]}
    for span in noun_phrases(caption):
        words = _words(span.text)
        for start in range(len(words) - 1, max(len(words) - 4, -1), -1):
            if words[start] in silent or not words[start][0].isalpha():
                break
            yield words[start:]


def _own(owners: dict[Phrase, int], keyword: str, number: int) -> bool:
    """Let a keyword own its forms; False where another owns it already, or it holds no word."""
    words = _words(keyword)
    if not words or words in owners:
        return False
    for last in _forms(words[-1]):
        owners.setdefault((*words[:-1], last), number)
    return True


def _forms(word: str) -> set[str]:
    """A word in all its numbers."""
    return {word, _plural(word), *_singulars(word)}


def _singulars(word: str) -> set[str]:
    """What a word may be the plural of; some are no words."""
    if word in _SINGULAR:
        return {_SINGULAR[word]}
    return {w for w in (word[:-1], word[:-2], word[:-3] + "y") if len(w) > 1 and _plural(w) == word}


def _plural(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if re.search(r"(?:s|x|z|ch|sh)$", word):
        return word + "es"
    return word[:-1] + "ies" if re.search(r"[^aeiou]y$", word) else word + "s"
