"""Whether a text can be in a stated language, by its script and its commonest words: no model, no download.

What it can: tell scripts apart; tell languages of one script apart where a text has two or more of their commonest
words. What it cannot: judge a text without such words ("Hund Strand Sonne"), names, or close relatives such as Danish
and Norwegian. Where nothing speaks against the language a text passes, so few good captions are lost.
"""

import re
import unicodedata
from collections import Counter
from functools import lru_cache

from cliplet.errors import InputError

_LATIN, _CYRILLIC = ("LATIN",), ("CYRILLIC",)
SCRIPTS: dict[str, tuple[str, ...]] = {
    "en": _LATIN, "de": _LATIN, "fr": _LATIN, "es": _LATIN, "it": _LATIN, "pt": _LATIN, "nl": _LATIN, "sv": _LATIN,
    "da": _LATIN, "pl": _LATIN, "tr": _LATIN, "id": _LATIN, "vi": _LATIN, "cs": _LATIN, "ro": _LATIN,
    "ru": _CYRILLIC, "uk": _CYRILLIC, "el": ("GREEK",), "ar": ("ARABIC",), "fa": ("ARABIC",), "he": ("HEBREW",),
    "hi": ("DEVANAGARI",), "th": ("THAI",), "ko": ("HANGUL", "CJK"), "zh": ("CJK",),
    "ja": ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "CJK"),
}  # fmt: skip
"""The scripts of each language, as Unicode's character names begin."""

WORDS: dict[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "en": "a an the of and in on is are with to at by his her its while from that this for it two man woman as do "
              "no not have has they be who out up there what she he him we you your over was were",
        "de": "ein eine einen einem einer der die das und ist sind im auf mit von zu vor zwei ein nicht den dem mann "
              "frau sich wird steht sitzt läuft aus bei über",
        "fr": "un une le la les des et est sont dans sur avec du de en au aux qui deux par pour sa son ses devant "
              "homme femme près d l",
        "es": "un una el la los las y es son en con del de al que dos por para su sus sobre está están hombre mujer "
              "lo se junto",
        "it": "un una il la lo gli le e è sono in con di del della nel nella su sul sulla che due per da al alla uomo "
              "donna si mentre",
        "pt": "um uma o os as e é são em com de do da no na nos nas que dois duas por para sua seu sobre está ao "
              "homem mulher se",
        "nl": "een de het en is zijn in op met van voor aan bij twee die dat naar over man vrouw door zit staat loopt",
        "sv": "en ett och är i på med av som till för två den det de vid över man kvinna sitter står från",
        "da": "en et og er i på med af som til for to den det de ved over mand kvinde sidder står fra",
        "pl": "i w na z ze się jest są do od za przez dwa dwie dwóch mężczyzna kobieta przy nad pod który która",
        "tr": "bir ve bu ile için iki olan üzerinde içinde adam kadın var çok da de",
        "id": "seorang sebuah yang dan di dengan pada dua itu ini dari ke untuk adalah sedang pria wanita atas",
        "vi": "một và của là trong với trên có hai người đang cho các những này ở",
        "cs": "a je v na se s z do po u dva dvě muž žena který která jsou před při",
        "ro": "un o și este sunt în pe cu de la din doi două care bărbat femeie lângă într",
    }.items()
}  # fmt: skip
"""The commonest words of captions in each language of the Latin script."""

_WORD = re.compile(r"[^\W\d_]+")
ENOUGH = 0.5
"""Share of the letters that must be of the language's scripts."""
STRANGERS = 2
"""Different words of another language, beyond those of the stated one, that speak against it."""


def known_language(code: str) -> str:
    """The code, in small letters.

    Raises:
        InputError: a language that is not known here.
    """
    if code.lower() not in SCRIPTS:
        raise InputError(f"--language {code} is not known: give one of {', '.join(SCRIPTS)}")
    return code.lower()


@lru_cache(maxsize=65_536)
def _script(character: str) -> str:
    return unicodedata.name(character, "?").split(" ")[0]


def language_problem(text: str, language: str) -> str | None:
    """Why a text cannot be in ``language`` (a key of :data:`SCRIPTS`), or None."""
    letters = [c for c in text if c.isalpha()]
    if not letters:
        return None
    scripts = SCRIPTS[language]
    own = sum(_script(c) in scripts for c in letters)
    if own < ENOUGH * len(letters):
        found = Counter(_script(c) for c in letters).most_common(1)[0][0]
        return f"its letters are {found.capitalize()}"
    if language not in WORDS:
        return None
    words = set(_WORD.findall(text.lower()))
    mine = len(words & WORDS[language])
    other, most = max(
        ((code, len(words & common)) for code, common in WORDS.items() if code != language),
        key=lambda pair: pair[1],
    )
    return f"its words are {other}, not {language}" if most >= mine + STRANGERS else None
