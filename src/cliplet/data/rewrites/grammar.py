"""What the rewriting rules must know of English: articles, number, the subject, verbs that tell."""

import re

from cliplet.data.rewrites import words
from cliplet.data.rewrites.words import Verb
from cliplet.data.spans import ENDERS, Span, noun_phrases

WORD = re.compile(r"[A-Za-z0-9]+(?:['’-][A-Za-z0-9]+)*")
"""A word of a caption."""


def article(word: str) -> str:
    """``a`` or ``an``, whichever fits before a word."""
    low = word.lower()
    if low in ("hour", "honest", "8", "11", "18") or (low[0] in "aeiou" and not _LIKE_YOU.match(low)):
        return "an"
    return "a"


_LIKE_YOU = re.compile(r"(?:uni(?!n|m|d)|use|usu|utensil|euro|eu|one\b|once|ukulele|u-|ufo)")


def with_articles(text: str) -> str:
    """The text, ``a`` and ``an`` made to fit the words after them."""

    def fit(match: re.Match[str]) -> str:
        a = article(match.group(3))
        return (a.capitalize() if match.group(1)[0].isupper() else a) + match.group(2) + match.group(3)

    return re.sub(r"\b([Aa]n?)(\s+)([A-Za-z0-9][\w'’-]*)", fit, text)


def is_plural(phrase: str) -> bool | None:
    """Whether a noun phrase is plural; None where its form does not say."""
    own = [w.lower() for w in WORD.findall(phrase)]
    if not own:
        return None
    first, head = own[0], own[-1]
    if first in words.SINGULAR_STARTS:
        return None if head in words.PLURALS - {"fish", "sheep"} else False
    if first in words.PLURAL_STARTS or (first.isdigit() and first != "1"):
        return True
    if head in words.PLURALS:
        return None if head in ("fish", "sheep", "police") else True
    if head.endswith("s") and not head.endswith(("ss", "us", "is")) and head not in words.NO_PLURALS:
        return True
    return False if first == "the" else None


def lowered(text: str) -> str:
    """The text with its first letter small, where the first word is no name."""
    first = WORD.match(text)
    if first and (first.group().lower() in _COMMON_STARTS or first.group().lower() in words.NOUNS):
        return text[0].lower() + text[1:]
    return text


_COMMON_STARTS = (
    words.PLURAL_STARTS
    | words.SINGULAR_STARTS
    | words.PLURALS
    | words.word_set(
        """
    the his her their young old small little large big black white brown dogs boys girls children on in at
    """
    )
)


def starts_common(text: str) -> bool:
    """Whether a text begins with a word that may stand in the middle of a sentence without its capital."""
    return not text[:1].isupper() or lowered(text) != text


def indefinite(phrase: str) -> bool:
    """Whether a noun phrase begins with "a", a number or the like, so that "there is" may stand before it."""
    first = phrase.split()[0].lower()
    return first in (words.SINGULAR_STARTS | words.PLURAL_STARTS) - {"this", "these", "those", "both", "few"}


def subject_of(body: str) -> Span | None:
    """The noun phrase that a caption begins with."""
    phrases = noun_phrases(body)
    return phrases[0] if phrases and phrases[0].start == 0 else None


def verb_after(body: str, place: int, form: str) -> tuple[Verb, int] | None:
    """The listed verb, in this form, right after a place, and where it ends."""
    match = re.match(r"\s+([a-z]+)\b(?!-)", body[place:])
    verb = words.verbs().get(match.group(1)) if match else None
    return (verb, place + match.end()) if match and verb and getattr(verb, form) == match.group(1) else None


def finite(text: str) -> bool:
    """Whether a text may have a verb that tells: a word outside its noun phrases that is none of the little ones."""
    phrases = noun_phrases(text)
    if any(WORD.findall(p.text)[1:] and _tells(WORD.findall(p.text)[-1]) for p in phrases):
        return True  # the chunker takes "red flies" of "wearing red flies away" for a noun phrase
    inside = [range(span.start, span.end) for span in phrases]
    outside = [m.group().lower() for m in WORD.finditer(text) if not any(m.start() in r for r in inside)]
    return any(w in _TELLING or (w not in ENDERS and not w.endswith(("ing", "ed", "ly"))) for w in outside)


def _tells(word: str) -> bool:
    verb = words.verbs().get(word)
    return verb is not None and verb.s == word


_TELLING = words.word_set(
    """
    is are was were has have had do does did can will seems appears gets got that which who
    """
)
