"""METEOR 1.5's own word splitting (its ``-norm`` option), which runs after the PTB tokeniser has run.

It looks at a caption a second time: hyphenated words are split, contractions and quotes regrouped, full stops
set apart unless they end an abbreviation. The rules are METEOR's, kept with their quirks, since a token more or
less changes the score.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest

# METEOR's idea of a letter: Latin with its extensions, Cyrillic, phonetic extensions. Others are symbols to it.
_LETTERS = "A-Za-z\u0160\u017d\u0161\u017e\u0178\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u017e\u0400-\u04ff"
_LETTERS += "\u0500-\u0527\ua640-\ua66e\ua67e-\ua697\u1d00-\u1d7f"

# a caption of these characters alone comes out as it went in
_PLAIN = re.compile(r"[a-z0-9 ]*\Z")

_SPLIT = re.compile("[ \t\n\r\f]+")
_LETTER = re.compile(f"[{_LETTERS}]")
_SYMBOL = re.compile(rf"([^0-9{_LETTERS}\s.'`,\-\u2018\u2019])", re.ASCII)
_DOTS = re.compile(r"\.{2,}")
_UNICODE_SPACES = re.compile("[ \u2000-\u200a\u202f\u205f\u3000\u00a0]+")

# each rule takes one character on either side with it, so of two candidates that share a character only the
# first is found: a quirk of METEOR that the order below keeps
_RULES = (
    (re.compile(r"([^0-9]),([^0-9])"), r"\1 , \2"),
    (re.compile(r"([0-9]),([^0-9])"), r"\1 , \2"),
    (re.compile(r"([^0-9]),([0-9])"), r"\1 , \2"),
    (re.compile("[`\u2018\u2019]"), "'"),
    (re.compile("[\u201c\u201d]|''"), ' " '),
    (re.compile("\u2013|--"), "-"),
    (re.compile(rf"([0-9{_LETTERS}.])-([0-9{_LETTERS}])"), r"\1 \2"),
    (re.compile(rf"([^{_LETTERS}])'([^{_LETTERS}])"), r"\1 ' \2"),
    (re.compile(rf"([^0-9{_LETTERS}])'([{_LETTERS}])"), r"\1 ' \2"),
    (re.compile(rf"([{_LETTERS}])'([^{_LETTERS}])"), r"\1 ' \2"),
    (re.compile(rf"([{_LETTERS}])'([{_LETTERS}])"), r"\1 '\2"),
    (re.compile(r"([0-9])'(s)"), r"\1 '\2"),
)

# what Java trims from the ends of a line: spaces and control characters
_TRIMMED = "".join(map(chr, range(0x21)))

# stands for one full stop of an ellipsis while single full stops are looked at; no character, so no caption has it
_HELD_DOT = "\ud800"


def normalize(tokens: Sequence[str], abbreviations: Mapping[str, bool]) -> list[str]:
    """Split a PTB-tokenised caption into METEOR's words, lower-cased.

    ``abbreviations`` are the words whose final full stop belongs to them; the value says whether only before a
    number.
    """
    text = " ".join(tokens)
    if _PLAIN.match(text):
        return text.split()
    text = _SYMBOL.sub(r" \1 ", f" {text.strip(_TRIMMED)} ")
    text = _DOTS.sub(lambda dots: " " + _HELD_DOT * len(dots[0]) + " ", text)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    text = _separate_full_stops(_words(text), abbreviations)
    text = _UNICODE_SPACES.sub(" ", text.replace(_HELD_DOT, "."))
    return _words(text.strip(_TRIMMED).lower())


def _words(text: str) -> list[str]:
    return [word for word in _SPLIT.split(text) if word]


def _separate_full_stops(words: list[str], abbreviations: Mapping[str, bool]) -> str:
    """Set a word's final full stop apart, unless it ends an abbreviation or the sentence visibly goes on."""
    out = []
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        bare = word[:-1]
        if not bare or not word.endswith("."):
            out.append(word)
        elif "." in bare and _LETTER.search(bare):  # u.s.a. -> usa
            out.append(word.replace(".", ""))
        elif "a" <= following[:1] <= "z" or (
            bare in abbreviations and (not abbreviations[bare] or "0" <= following[:1] <= "9")
        ):
            out.append(word)
        else:
            out.append(f"{bare} .")
    return " ".join(out)
