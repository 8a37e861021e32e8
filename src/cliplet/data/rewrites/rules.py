"""Rules that say a caption in other words; each gives all its ways, or none.

A rule sees the caption's body without the full stop and gives bodies. Its first letter is set by the caller.
"""

import re
from collections.abc import Callable, Iterator

from cliplet.data.rewrites import words
from cliplet.data.rewrites.grammar import (
    WORD,
    finite,
    indefinite,
    is_plural,
    lowered,
    starts_common,
    subject_of,
    verb_after,
    with_articles,
)
from cliplet.data.spans import Span, noun_phrases

_KEEP_A = words.word_set("few lot couple little bit number pair dozen variety half while")
_KEEP_THE = words.word_set(
    """
    other others same end top side middle center centre front back left right edge bottom first second third
    last one ones only two three four both most rest
    """
)
_BAD_BEFORE = words.word_set(
    """
    is are was were be being been and or but out up off down over look looks looking looked stare stares staring
    gaze gazes gazing point points pointing into onto to from with of a an the full as like not that which who
    there back
    """
)
_LOOKS = re.compile(
    r"\b(?:look|watch|star|gaz|gaze|point|photograph|observ|view|fac|see|overlook)(?:s|es|ed|ing|e)?\b"
    r"|\b(?:picture|photo|photograph|view|painting) of\b"
)
_JOINED = re.compile(
    r",|;|\b(?:and|or|but|while|as|that|which|who|whose|where|when|because|his|her|their|its)\b"
)
_NEGATIVE = words.word_set("no not without nobody nothing none never")
_POSSESSIVE = re.compile(
    r"\b(?:his|her|their|its|him|them|it|himself|herself|themselves|each other)\b", re.IGNORECASE
)


def articles(body: str) -> Iterator[str]:
    """All articles dropped, as in headlines; the first "a" made "the"."""

    def drop(match: re.Match[str]) -> str:
        kept = _KEEP_A if match.group(1)[0] in "aA" else _KEEP_THE
        return match.group() if match.group(3).lower() in kept else match.group(3)

    dropped = re.sub(r"\b([Aa]n?|[Tt]he)(\s+)([A-Za-z][\w'’-]*)", drop, body)
    if dropped != body:
        yield dropped
    first = re.match(r"([Aa]n?)(\s+)([A-Za-z][\w'’-]*)", body)
    if first and first.group(3).lower() not in _KEEP_A:
        yield "the" + body[first.end(1) :]


def synonyms(body: str) -> Iterator[str]:
    """One word for another that says the same: "man" and "guy", "next to" and "beside"."""
    heads = set()
    for span in noun_phrases(body):
        *_, last = WORD.finditer(span.text)
        heads.add((span.start + last.start(), span.start + last.end()))
    for match in WORD.finditer(body):
        place = (match.start(), match.end())
        for other in words.NOUNS.get(match.group().lower(), ()) if place in heads else ():
            if not _compound(body, match):
                yield with_articles(body[: place[0]] + other + body[place[1] :])
    for phrase, others in words.PHRASES.items():
        for match in re.finditer(rf"(?<![\w'’-]){re.escape(phrase)}(?![\w'’-])", body, re.IGNORECASE):
            for other in others:
                if _fits(phrase, body[match.end() :].split()):
                    yield with_articles(body[: match.start()] + other + body[match.end() :])


def _compound(body: str, match: re.Match[str]) -> bool:
    """Whether a noun is part of a longer name: "bungee man 's", "sail plane", "dirt bike"."""
    before = WORD.findall(body[: match.start()])
    after = body[match.end() :].lstrip()
    if after.startswith(("'", "’", "-")):
        return True
    return bool(before) and before[-1].lower() in (
        "sea", "mountain", "dirt", "motor", "model", "toy", "race", "paper", "space", "police", "old", "bumper", "cable"
    ) and match.group().lower() not in ("man", "men", "woman", "women", "child", "children")  # fmt: skip


def _fits(phrase: str, after: list[str]) -> bool:
    """Whether a listed phrase has its listed meaning before these words."""
    if phrase in ("throwing", "throws", "tossing", "tosses"):
        return bool(after) and after[0] in ("a", "an", "the", "his", "her", "their")
    if phrase in ("next to", "beside", "amongst", "among", "towards", "toward", "on top of", "atop"):
        return bool(after)  # else nothing stands beside it
    return phrase not in ("outside", "inside") or not after  # else they are prepositions


def numbers(body: str) -> Iterator[str]:
    """A number word as digits, or digits as a word, before things that are counted."""
    for span in noun_phrases(body):
        own = list(WORD.finditer(span.text))
        at = next((i for i, m in enumerate(own[:2]) if _number(m.group())), None)
        if at is None or at + 1 >= len(own) or (at == 1 and own[0].group().lower() != "the"):
            continue
        head = own[-1].group().lower()
        if not (head in words.PLURALS or (head.endswith("s") and not head.endswith("ss"))):
            continue
        match = own[at]
        if body[: span.start + match.start()].rstrip().lower().endswith(("number", "#", "numbers")):
            continue
        start, end = span.start + match.start(), span.start + match.end()
        yield body[:start] + _number(match.group()) + body[end:]


def _number(word: str) -> str:
    return words.NUMBERS.get(word.lower()) or words.WORDS_OF.get(word, "")


def there_is(body: str) -> Iterator[str]:
    """ "A dog is running" as "There is a dog running", and back; "This is a beach" as "A beach"."""
    opening = re.match(r"(There|Here|This|It|These) (is|are) ", body, re.IGNORECASE)
    if opening:
        yield from _unopened(body[opening.end() :], opening)
        return
    subject = subject_of(body)
    if subject is None or not indefinite(subject.text) or not starts_common(body):
        return
    rest = body[subject.end :]
    copula = re.match(r"\s+(is|are)\s+(?=[a-z]+ing\b)", rest)
    if copula:
        yield f"There {copula.group(1)} {lowered(subject.text)} {rest[copula.end() :]}"
        return
    doing, plural = verb_after(body, subject.end, "ing"), is_plural(subject.text)
    stands = re.match(r"\s+(?:with|on|in|at|near|next to|beside|under|behind|between|surrounded by)\s", rest)
    place = doing[1] if doing else subject.end
    if plural is not None and (doing or stands) and not finite(body[place:]):
        yield f"There {'are' if plural else 'is'} {lowered(body)}"


def _unopened(rest: str, opening: re.Match[str]) -> Iterator[str]:
    phrases, be = noun_phrases(rest), opening.group(2).lower()
    if not phrases or phrases[0].start != 0 or finite(rest[phrases[0].end :]):
        return
    verb = verb_after(rest, phrases[0].end, "ing")
    if opening.group(1).lower() == "there" and verb:
        yield f"{rest[: phrases[0].end]} {be}{rest[phrases[0].end :]}"
    yield rest
    if opening.group(1).lower() != "here":
        yield f"Here {be} {rest}"


def aspect(body: str) -> Iterator[str]:
    """ "A man is riding" as "A man rides" or "A man riding", and back."""
    subject = subject_of(body)
    if subject is None or subject.text.lower().endswith(("rock", "ice", "mountain")):  # "a man rock climbs"
        return
    copula = re.match(r"\s+(is|are)(?=\s+[a-z]+ing\b)", body[subject.end :])
    if copula:
        place = subject.end + copula.end()
        yield body[: subject.end] + body[place:]
        found = verb_after(body, place, "ing")
        if found and not _JOINED.search(body[found[1] :]):
            verb, end = found
            yield f"{body[: subject.end]} {verb.s if copula.group(1) == 'is' else verb.base}{body[end:]}"
        return
    plural = is_plural(subject.text)
    if plural is None:
        return
    for form in ("ing", "base" if plural else "s"):
        found = verb_after(body, subject.end, form)
        if found and not _JOINED.search(body[found[1] :]) and not finite(body[found[1] :]):
            verb, end = found
            yield f"{body[: subject.end]} {'are' if plural else 'is'} {verb.ing}{body[end:]}"


def voice(body: str) -> Iterator[str]:
    """ "X is VERBing Y" as "Y is being VERBed by X", and back; also "X VERBs Y"."""
    subject, phrases = subject_of(body), noun_phrases(body)
    if subject is None or _POSSESSIVE.search(body) or not starts_common(body) or len(phrases) < 2:
        return
    passive = re.match(r"\s+(?:is|are)\s+(being\s+)?([a-z]+)\s+by\s+", body[subject.end :])
    if passive and passive.group(2) in words.participles():
        yield from _to_active(body, subject, passive)
        return
    copula = re.match(r"\s+(?:is|are)(?=\s)", body[subject.end :])
    place = subject.end + (copula.end() if copula else 0)
    telling = "base" if is_plural(subject.text) else "s"
    found = verb_after(body, place, "ing") or (None if copula else verb_after(body, place, telling))
    thing = phrases[1]
    if found is None or not found[0].participle:
        return
    verb, end = found
    doing = body[:end].endswith(verb.ing)
    plural, tail = is_plural(thing.text), body[thing.end :]
    if plural is None or body[end : thing.start].strip() or not _plain_tail(tail):
        return
    be = " are" if plural else " is"
    be = (be if copula or not doing else "") + (" being" if doing else "")
    yield f"{thing.text}{be} {verb.participle} by {lowered(subject.text)}{tail}"


def _to_active(body: str, thing: Span, passive: re.Match[str]) -> Iterator[str]:
    rest = body[thing.end + passive.end() :]
    agent = subject_of(rest)
    if agent is None or is_plural(agent.text) is None or not _plain_tail(rest[agent.end :]):
        return
    verb, plural = words.participles()[passive.group(2)], is_plural(agent.text)
    if passive.group(1):
        telling = f"{'are' if plural else 'is'} {verb.ing}"
    else:
        telling = verb.base if plural else verb.s
    yield f"{agent.text} {telling} {lowered(thing.text)}{rest[agent.end :]}"


def _plain_tail(tail: str) -> bool:
    """Whether what follows is nothing, or one phrase that says where."""
    return not tail.strip() or (
        _place_at_end("x" + tail) == 1
        and not _JOINED.search(tail)
        and not re.match(r"\s+(?:of|with)\b", tail)
    )


_PREPOSITION = re.compile(
    r"\s+(?:on|in|at|near|by|beside|next to|along|through|across|outside|inside|under|down|up|over|"
    r"into|around)\s+"
)


def _place_at_end(body: str) -> int | None:
    """Where the phrase begins that says where, at the end of a caption."""
    last = None
    for match in _PREPOSITION.finditer(body):
        phrases = noun_phrases(body[match.end() :])
        whole = (
            len(phrases) == 1 and phrases[0].start == 0 and match.end() + phrases[0].end == len(body.rstrip())
        )
        own = WORD.findall(phrases[0].text) if whole else []
        if own and own[-1].lower() in words.PLACES and own[0].lower() not in ("his", "her", "their", "its"):
            last = match.start()
    return last


def place_first(body: str) -> Iterator[str]:
    """The phrase at the end that says where, put first."""
    at, subject = _place_at_end(body), subject_of(body)
    if at is None or subject is None or not _stands_alone(body, at):
        return
    before, where = body[:at].rstrip(" ,"), body[at:].strip()
    telling = re.match(r"\s+(?:is|are)\s+[a-z]+ing\b", body[subject.end :])
    tells = telling or verb_after(body, subject.end, "s") or verb_after(body, subject.end, "base")
    still = not where.startswith(("into", "over", "up", "down", "around"))
    if (
        tells
        and still
        and starts_common(body)
        and not _JOINED.search(before)
        and not _LOOKS.search(before.lower())
    ):
        yield f"{where}, {lowered(before)}"


def shorter(body: str) -> Iterator[str]:
    """The phrase at the end that says where, left out: less, and still true. Six words at least remain."""
    at = _place_at_end(body)
    if at is not None and _stands_alone(body, at) and len(WORD.findall(body[:at])) >= 6:
        yield body[:at].rstrip(" ,")


def _stands_alone(body: str, at: int) -> bool:
    """Whether what stands before a place can do without it."""
    before, where = body[:at], body[at:]
    if re.search(r",|\bwith\b", before) and where.endswith(("background", "distance")):
        return False  # "with a mountain in the background": the place is the mountain's
    own = [w.lower() for w in WORD.findall(before)]
    if len(own) < 3 or own[-1] in _BAD_BEFORE or own[-1].endswith(("ed", "ly")):
        return False
    return _NEGATIVE.isdisjoint(own)  # no cars on the road are still cars


def with_on(body: str) -> Iterator[str]:
    """ "A table with a cake on it" as "a cake on a table", and back, for listed places; no other verb."""
    phrases = noun_phrases(body)
    if len(phrases) != 2 or phrases[0].start != 0 or not starts_common(body):
        return
    first, second = phrases
    between, after = body[first.end : second.start].strip(), body[second.end :].strip()
    heads = [WORD.findall(p.text)[-1].lower() for p in phrases]
    if heads[0] in words.verbs() or heads[1] in words.verbs():
        return  # more than a noun phrase
    if between in ("next to", "beside", "near", "close to") and not after and indefinite(second.text):
        yield f"{second.text} {between} {lowered(first.text)}"
    for preposition, known in (("on", words.SUPPORTS), ("in", words.CONTAINERS)):
        if between == "with" and heads[0] in known and after == f"{preposition} it":
            yield f"{second.text} {preposition} {lowered(first.text)}"
        if (
            between == preposition
            and not after
            and heads[1] in known
            and second.text.split()[0] in ("a", "an")
        ):
            yield f"{second.text} with {lowered(first.text)} {preposition} it"


RULES: dict[str, Callable[[str], Iterator[str]]] = {
    "articles": articles, "synonyms": synonyms, "numbers": numbers, "there_is": there_is, "aspect": aspect,
    "voice": voice, "place_first": place_first, "shorter": shorter, "with_on": with_on,
}  # fmt: skip
"""The rules by name."""
