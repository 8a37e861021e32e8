"""Noun phrases of English captions, by a small chunker of our own: no model, no download.

"A brown dog jumps over the wooden fence" gives "a brown dog" and "the wooden fence". A phrase runs from a determiner,
number, adjective or noun to its last noun and ends at a preposition, conjunction, pronoun, verb or comma. Nouns and
verbs are told apart by place and ending, with a list of the verbs that captions use; it is a chunker for captions, not
a parser of English.
"""

import re
from dataclasses import dataclass


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORD = re.compile(r"[A-Za-z0-9]+(?:['’-][A-Za-z0-9]+)*|[^\sA-Za-z0-9]")

ENDERS = _words(
    """
    about above across after against ahead along alongside amid among amongst around as aside at atop away back before
    behind below beneath beside besides between beyond by down during for from in inside into like near nearby next of
    off on onto opposite out outside over past per through throughout to together toward towards under underneath until
    up upon upside via while with within without
    and but or nor so yet because if although though than then when where whereas which who whom whose that what why how
    i me my you your he him she they them we us it its itself himself herself themselves each other there here
    is are was were be been being am has have had having do does did can could will would may might must shall should
    appears seems gets got not very just also only too still apart each
    """
)
"""Words that end a noun phrase and are no verbs that tell, besides forms of to be, to have and the like."""
_STARTERS = _words(
    """
    a an the this these those some any another both several many few all every no his her their our two three four
    five six seven eight nine ten one dozens lots
    """
)
_SINGULAR = _words("a an another this every one")
_POSSESSIVE = _words("his her their our my your its")
_PLURALS = _words("men women people children kids boys girls police fish sheep")
_ING_NOUNS = _words(
    """
    building buildings ceiling clothing crossing earring earrings evening fencing flooring gathering king landing
    lightning lighting morning opening painting paintings parking railing railings ring rings sibling siblings sing
    string swing swings thing things wedding wing wings wrestling boxing skating bowling being
    """
)
_BASE_VERBS = _words(
    """
    are attempt bask bike bite bow box brush carry catch celebrate chase cheer clap climb compete converse cook cross
    cuddle dance dig dive drink drive eat embrace enjoy examine exit face fall fight fly follow gather get give go
    grab grin hang hike hit hold hug jog jump kick kiss kneel laugh lay lead lean leap leave lie lift listen look make
    march meet move observe pass perform pet play point pose prepare pull push race raise reach read relax rest ride
    roll row run sail serve share shop show sing sit skate ski sled sleep slide smile smoke splash stand stare stretch
    stroll support surf surround swim swing take talk throw touch try tug tumble wade wait walk wander watch wave wear
    work wrestle sat stood ran held wore took
    """
)
_NOT_VERBS = _words(
    """
    canvas tennis gymnastics jeans pants shorts sunglasses glasses goggles clothes stairs steps woods rocks waves trees
    """
)
_COLOURS = _words(
    "red orange pink blue purple green yellow gold golden black white cream brown tan beige grey gray silver blond "
    "blonde striped dark light"
)


@dataclass(frozen=True)
class Span:
    """Part of a caption."""

    text: str
    """Its words."""
    start: int
    """Place of its first character."""
    end: int
    """Place after its last character."""


def noun_phrases(caption: str) -> list[Span]:
    """The noun phrases of a caption, in order; empty where there are none.

    Example:
        >>> [s.text for s in noun_phrases("Two children in red shirts are playing with a large ball .")]
        ['Two children', 'red shirts', 'a large ball']
    """
    words = [(m.group(), m.start(), m.end()) for m in _WORD.finditer(caption)]
    found: list[Span] = []
    phrase: list[tuple[str, int, int]] = []

    def close() -> None:
        while phrase and phrase[0][0].lower() in _STARTERS and len(phrase) == 1:
            phrase.pop()
        if phrase:
            start, end = phrase[0][1], phrase[-1][2]
            found.append(Span(caption[start:end], start, end))
        phrase.clear()

    for i, (word, start, end) in enumerate(words):
        lower = word.lower()
        following = words[i + 1][0].lower() if i + 1 < len(words) else ""
        if phrase and _joins(phrase[-1][0].lower(), lower, following):
            phrase.append((word, start, end))
            continue
        if lower in _POSSESSIVE or (lower in _STARTERS and not (phrase and _is_number(phrase[-1][0], lower))):
            close()
            phrase.append((word, start, end))
        elif (
            not word[0].isalnum()
            or lower in ENDERS
            or _is_verb([p[0].lower() for p in phrase], lower, following)
        ):
            close()
        else:
            phrase.append((word, start, end))
    close()
    return found


def _joins(last: str, word: str, following: str) -> bool:
    """Whether ``word`` goes on with a phrase: "black and white", and the 's of "a person 's hand"."""
    if word in ("and", "or", "&"):
        return last in _COLOURS and following in _COLOURS
    return (word in ("'", "’") and following == "s") or (word == "s" and last in ("'", "’"))


def _is_number(last: str, word: str) -> bool:
    """Whether two starters belong together: "the two", "all the"."""
    return last.lower() in _STARTERS and last.lower() not in _SINGULAR and word != last.lower()


def _is_verb(phrase: list[str], word: str, following: str) -> bool:
    """Whether ``word`` after the words of ``phrase`` is a verb, which ends the phrase."""
    starters = [w for w in phrase if w in _STARTERS or w in _POSSESSIVE]
    content = len(phrase) - len(starters)
    ends = not following or not following[0].isalnum() or following in ENDERS or following in _STARTERS
    if word.endswith("ing") and word not in _ING_NOUNS:
        # "a running dog" describes, "a dog running" tells
        return content > 0 or not phrase or ends
    if not phrase:
        return word in _BASE_VERBS or word.endswith("ly") or (word.endswith("ed") and word != "red" and ends)
    if content == 0:
        return False
    if word.endswith("ly"):
        return True
    if word.endswith("ed") and word != "red":
        return ends or following.endswith("ed")
    plural = phrase[-1] in _PLURALS or (phrase[-1].endswith("s") and not phrase[-1].endswith("ss"))
    if word in _BASE_VERBS:
        return plural
    tells = word.endswith("s") and not word.endswith(("ss", "us")) and word not in _NOT_VERBS
    stem = word[:-2] if word.endswith("es") and word[:-2] in _BASE_VERBS else word[:-1]
    if tells and stem in _BASE_VERBS:
        return not plural
    return tells and phrase[0] in _SINGULAR and ends
