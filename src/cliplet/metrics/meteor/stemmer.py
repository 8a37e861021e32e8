"""The Snowball English stemmer ("Porter2"), as METEOR 1.5 uses it to match word forms.

Written from the public description of the algorithm (M. F. Porter, snowballstem.org, "The English (Porter2)
stemming algorithm"), in the version of 2012 that METEOR 1.5 ships; later versions added a few exceptions.
"""

import re
from functools import lru_cache

_VOWELS = frozenset("aeiouy")

# whole words with a stem of their own
_EXCEPTIONS = {
    "skis": "ski",
    "skies": "sky",
    "dying": "die",
    "lying": "lie",
    "tying": "tie",
    "idly": "idl",
    "gently": "gentl",
    "ugly": "ugli",
    "early": "earli",
    "only": "onli",
    "singly": "singl",
    **{word: word for word in ("sky", "news", "howe", "atlas", "cosmos", "bias", "andes")},
}

# words that are finished once a plural ending is gone
_INVARIANT = frozenset(("inning", "outing", "canning", "herring", "earring", "proceed", "exceed", "succeed"))

_R1_PREFIX = re.compile("gener|commun|arsen")
_REGION = re.compile("[aeiouy][^aeiouy]")  # a region begins behind the first non-vowel that follows a vowel
_DOUBLES = ("bb", "dd", "ff", "gg", "mm", "nn", "pp", "rr", "tt")

# suffix -> replacement, tried from the longest; the conditions on single suffixes are in the code
_STEP2 = {
    "ization": "ize",
    "ational": "ate",
    "fulness": "ful",
    "ousness": "ous",
    "iveness": "ive",
    "tional": "tion",
    "biliti": "ble",
    "lessli": "less",
    "entli": "ent",
    "ation": "ate",
    "alism": "al",
    "aliti": "al",
    "ousli": "ous",
    "iviti": "ive",
    "fulli": "ful",
    "enci": "ence",
    "anci": "ance",
    "abli": "able",
    "izer": "ize",
    "ator": "ate",
    "alli": "al",
    "bli": "ble",
    "ogi": "og",
    "li": "",
}
_STEP3 = {
    "ational": "ate",
    "tional": "tion",
    "alize": "al",
    "icate": "ic",
    "iciti": "ic",
    "ative": "",
    "ical": "ic",
    "ness": "",
    "ful": "",
}
_STEP4 = (
    "ement",
    "ance",
    "ence",
    "able",
    "ible",
    "ment",
    "ant",
    "ent",
    "ism",
    "ate",
    "iti",
    "ous",
    "ive",
    "ize",
    "ion",
    "al",
    "er",
    "ic",
)


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """The stem of a lower-case English word: ``running`` -> ``run``, ``sandy`` -> ``sandi``."""
    if word in _EXCEPTIONS:
        return _EXCEPTIONS[word]
    if len(word) < 3:
        return word
    word = _mark_consonant_y(word.removeprefix("'"))
    r1, r2 = _regions(word)
    word = _step1a(word)
    if word not in _INVARIANT:
        word = _step1c(_step1b(word, r1))
        word = _step3(_step2(word, r1), r1, r2)
        word = _step5(_step4(word, r2), r1, r2)
    return word.replace("Y", "y")


def _mark_consonant_y(word: str) -> str:
    """Write the y that acts as a consonant (first in the word, or behind a vowel) as Y."""
    if "y" not in word:
        return word
    letters = list(word)
    for k, letter in enumerate(letters):
        if letter == "y" and (k == 0 or letters[k - 1] in _VOWELS):
            letters[k] = "Y"
    return "".join(letters)


def _regions(word: str) -> tuple[int, int]:
    """Where R1 and R2 begin; the length of the word when there is none."""
    first = _R1_PREFIX.match(word) or _REGION.search(word)
    if first is None:
        return len(word), len(word)
    second = _REGION.search(word, first.end())
    return first.end(), second.end() if second else len(word)


def _ends_in_short_syllable(word: str) -> bool:
    if len(word) == 2:
        return word[0] in _VOWELS and word[1] not in _VOWELS
    return (
        len(word) > 2
        and word[-1] not in _VOWELS
        and word[-1] not in "wxY"
        and word[-2] in _VOWELS
        and word[-3] not in _VOWELS
    )


def _has_vowel(part: str) -> bool:
    return not _VOWELS.isdisjoint(part)


def _step1a(word: str) -> str:
    for suffix in ("'s'", "'s", "'"):
        if word.endswith(suffix):
            word = word[: -len(suffix)]
            break
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith(("ied", "ies")):
        return word[:-2] if len(word) > 4 else word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")) and _has_vowel(word[:-2]):
        return word[:-1]
    return word


def _step1b(word: str, r1: int) -> str:
    for suffix in ("eedly", "eed"):
        if word.endswith(suffix):
            return word[: -len(suffix)] + "ee" if len(word) - len(suffix) >= r1 else word
    for suffix in ("ingly", "edly", "ing", "ed"):
        if word.endswith(suffix):
            break
    else:
        return word
    base = word[: -len(suffix)]
    if not _has_vowel(base):
        return word
    if base.endswith(("at", "bl", "iz")):
        return base + "e"
    if base.endswith(_DOUBLES):
        return base[:-1]
    return base + "e" if len(base) == r1 and _ends_in_short_syllable(base) else base


def _step1c(word: str) -> str:
    if len(word) > 2 and word[-1] in "yY" and word[-2] not in _VOWELS:
        return word[:-1] + "i"
    return word


def _step2(word: str, r1: int) -> str:
    for suffix, replacement in _STEP2.items():
        if word.endswith(suffix):
            base = word[: -len(suffix)]
            if len(base) < r1:
                return word
            if suffix == "ogi" and not base.endswith("l"):
                return word
            if suffix == "li" and not base.endswith(tuple("cdeghkmnrt")):
                return word
            return base + replacement
    return word


def _step3(word: str, r1: int, r2: int) -> str:
    for suffix, replacement in _STEP3.items():
        if word.endswith(suffix):
            base = word[: -len(suffix)]
            return base + replacement if len(base) >= (r2 if suffix == "ative" else r1) else word
    return word


def _step4(word: str, r2: int) -> str:
    for suffix in _STEP4:
        if word.endswith(suffix):
            base = word[: -len(suffix)]
            if len(base) < r2 or (suffix == "ion" and not base.endswith(("s", "t"))):
                return word
            return base
    return word


def _step5(word: str, r1: int, r2: int) -> str:
    base = word[:-1]
    if word.endswith("e"):
        droppable = len(base) >= r2 or (len(base) >= r1 and not _ends_in_short_syllable(base))
        return base if droppable else word
    if word.endswith("ll") and len(base) >= r2:
        return base
    return word
