"""What the PTB tokeniser makes of a matched stretch of text: (token, how many characters are given back)."""

import re
from collections.abc import Callable

_CLOSING = {"'": "'", '"': "''", "&apos;": "'", "&quot;": "''"}
_OPENING = {"'": "`", '"': "``", "&apos;": "`", "&quot;": "``"}
_CURLY = {
    **dict.fromkeys("\u0091\u2018\u201b\u2039", "`"),
    **dict.fromkeys("\u0092\u2019\u203a", "'"),
    **dict.fromkeys("\u0093\u201c\u00ab", "``"),
    **dict.fromkeys("\u0094\u201d\u00bb", "''"),
}
_CURLY_TABLE = str.maketrans(_CURLY)
_FRACTIONS = {"\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3"}
_CURRENCIES = {"\u00a2": "cents", "\u00a3": "#", **dict.fromkeys("\u0080\u00a4\u20a0\u20ac", "$")}
_STRAIGHT = re.compile("&apos;|&quot;|['\"]")
_AMP = re.compile("&amp;", re.IGNORECASE | re.ASCII)

Action = Callable[[str], tuple[str, int]]


def _quote(token: str) -> tuple[str, int]:
    return _STRAIGHT.sub(lambda m: _CLOSING[m[0]], token).translate(_CURLY_TABLE), 0


def _open_quote(token: str) -> tuple[str, int]:
    return _STRAIGHT.sub(lambda m: _OPENING[m[0]], token).translate(_CURLY_TABLE), 0


def _brackets(token: str) -> str:
    return token.replace("(", "-lrb-").replace(")", "-rrb-")


def _acronym(token: str) -> tuple[str, int]:
    """Before a sentence start: a lone letter loses its period; a longer acronym keeps it and it comes again."""
    return (token[:-1] if len(token) == 2 else token), 1


def _always(token: str) -> Action:
    return lambda _: (token, 0)


ACTIONS: dict[str, Action] = {
    "skip": _always(""),
    "newline": _always(""),
    "split3": lambda token: (token[:-3], 3),
    "split2": lambda token: (token[:-2], 2),
    "spaces": lambda token: (token.replace(" ", "\u00a0"), 0),
    "dash": _always("--"),
    "ampersand": lambda token: (_AMP.sub("&", token), 0),
    "quote": _quote,
    "open_quote": _open_quote,
    "fraction": lambda token: (_FRACTIONS.get(token, token), 0),
    "currency": lambda token: (_CURRENCIES.get(token, token), 0),
    "acronym": _acronym,
    "sentence_end": lambda token: (token, 1),
    "phone": lambda token: (_brackets(token.replace(" ", "\u00a0")), 0),
    "parentheses": lambda token: (_brackets(token), 0),
    "less": _always("<"),
    "greater": _always(">"),
    "{": _always("-lcb-"),
    "}": _always("-rcb-"),
    "[": _always("-lsb-"),
    "]": _always("-rsb-"),
    "(": _always("-lrb-"),
    ")": _always("-rrb-"),
    "hyphens": lambda token: ("--" if len(token) in (3, 4) else token, 0),
    "ellipsis": _always("..."),
}
