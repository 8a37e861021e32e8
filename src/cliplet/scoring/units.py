"""A caption cut into sentences, words and at most eight units, each a word or a phrase with its place."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cliplet.data.spans import Span, noun_phrases
from cliplet.scoring.vocabulary import DETERMINERS, FUNCTION, Kind, kind_by_place, kinds_of

MOST_UNITS = 8
"""Units of a sentence: all 2^8 subsets of them are scored."""
_SCRIPTS_WITHOUT_SPACES = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(
    rf"[{_SCRIPTS_WITHOUT_SPACES}]|[^\W_{_SCRIPTS_WITHOUT_SPACES}]+(?:['’-][^\W_{_SCRIPTS_WITHOUT_SPACES}]+)*"
)
_SENTENCE = re.compile(r"[^.!?。！？\n]*(?:[.!?](?!\s|$)[^.!?。！？\n]*)*[.!?。！？]*[\"”')\]]*")
_ABBREVIATED = re.compile(r"(?:^|\s)(?:mr|mrs|ms|dr|st|vs|no|e\.g|i\.e|etc)\.$", re.IGNORECASE)


@dataclass(frozen=True)
class Word:
    """A word of a caption."""

    text: str
    """As it is written."""
    start: int
    """Place of its first character in the caption."""
    end: int
    """Place after its last character."""
    kind: Kind | None
    """What kind of word, where it says something that a photo can show; None for other words."""


def sentences(caption: str) -> list[Span]:
    """The sentences of a caption that hold a word, in order, without the space round them.

    Example:
        >>> [s.text for s in sentences("A dog runs . It is 2.5 m long. Wow!")]
        ['A dog runs .', 'It is 2.5 m long.', 'Wow!']
    """
    found: list[Span] = []
    open_at: int | None = None
    for match in _SENTENCE.finditer(caption):
        text = match.group()
        if not text.strip():
            continue
        if not _WORD.search(text) and found and open_at is None:  # "..." belongs to what stands before
            found[-1] = _span(caption, found[-1].start, match.end())
            continue
        start = match.start() if open_at is None else open_at
        open_at = start if _ABBREVIATED.search(text) else None
        if open_at is None and _WORD.search(caption[start : match.end()]):
            found.append(_span(caption, start, match.end()))
    if open_at is not None:
        found.append(_span(caption, open_at, len(caption)))
    return found


def _span(caption: str, start: int, end: int) -> Span:
    text = caption[start:end]
    start += len(text) - len(text.lstrip())
    text = text.strip()
    return Span(text, start, start + len(text))


def words(caption: str) -> list[Word]:
    """The words of a caption with their kinds, in order; a character is a word in scripts that part none by spaces."""
    phrases = [(p.start, p.end) for p in _phrases(caption)]
    matches = list(_WORD.finditer(caption))
    found = []
    for i, match in enumerate(matches):
        text, start, end = match.group(), match.start(), match.end()
        phrase = next((p for p in phrases if p[0] <= start < p[1]), None)
        head = phrase is not None and not any(m.start() < phrase[1] for m in matches[i + 1 :])
        found.append(Word(text, start, end, _kind(text.lower(), phrase is not None, head)))
    return found


def _kind(word: str, in_phrase: bool, head: bool) -> Kind | None:
    """The word's kind: a listed one, the one of its place where several are, else by its ending."""
    if word in DETERMINERS or not word.isascii():
        return None
    by_place = kind_by_place(word, in_phrase, head)
    listed = kinds_of(word)
    if not listed:
        return None if word in FUNCTION else by_place
    wanted = (by_place,) if by_place != "quality" else ("quality", "colour", "number")
    return next((kind for kind in listed if kind in wanted), listed[0])


def units(found: Sequence[Word], caption: str, most: int = MOST_UNITS) -> list[Span]:
    """The words of one sentence as at most ``most`` neighbouring units, in order; together they hold every word.

    Each noun phrase is one unit, and so is every other word that says something ("runs", "under"); what says nothing
    by itself goes with the unit after it. Where there are more than ``most``, the shortest neighbours are merged.
    """
    if not found:
        return []
    first, last = found[0].start, found[-1].end
    phrases = [p for p in _phrases(caption) if first <= p.start and p.end <= last]
    groups: list[list[Word]] = []
    waiting: list[Word] = []
    inside: Span | None = None
    for word in found:
        phrase = next((p for p in phrases if p.start <= word.start < p.end), None)
        if phrase is not None and phrase is inside:
            groups[-1].append(word)
        elif phrase is not None or word.kind is not None:
            groups.append([*waiting, word])
            waiting = []
        else:
            waiting.append(word)
        inside = phrase
    if waiting and groups:
        groups[-1] += waiting
    elif waiting:
        groups = [[word] for word in waiting]
    while len(groups) > most:
        i = min(range(len(groups) - 1), key=lambda n: _cost(groups[n], groups[n + 1]))
        groups[i : i + 2] = [groups[i] + groups[i + 1]]
    return [_span(caption, group[0].start, group[-1].end) for group in groups]


def _cost(left: list[Word], right: list[Word]) -> tuple[int, int]:
    """How unwelcome two neighbours are as one unit: "on" goes with what follows it, then short ones go together."""
    order = 2 if right[0].kind == "place" else 0 if left[-1].kind == "place" else 1
    return order, right[-1].end - left[0].start


def _phrases(caption: str) -> list[Span]:
    """Noun phrases that are written in Latin letters: the chunker knows English."""
    return [phrase for phrase in noun_phrases(caption) if phrase.text.isascii()]


def without(caption: str, spans: Sequence[Span | Word]) -> str:
    """The caption with these places left out and the space put in order."""
    out, at = [], 0
    for span in sorted(spans, key=lambda s: s.start):
        out.append(caption[at : span.start])
        at = span.end
    return tidy("".join([*out, caption[at:]]))


def replaced(caption: str, word: Word, by: str) -> str:
    """The caption with another word in one place, its capital kept and an article before it made to fit."""
    before = caption[: word.start]
    article = re.search(r"\b([Aa])n?(\s+)$", before)
    if article is not None:
        n = "n" if by[0] in "aeiou" and not by.startswith("uni") else ""
        before = before[: article.start()] + article.group(1) + n + article.group(2)
    return before + (by.capitalize() if word.text[:1].isupper() else by) + caption[word.end :]


def tidy(text: str) -> str:
    """Single spaces, and none before a comma or full stop that lost its word."""
    return re.sub(r"^[\s,;]+", "", re.sub(r"\s+([,;])(?=\s*[,;.])", "", re.sub(r"\s+", " ", text))).strip()
