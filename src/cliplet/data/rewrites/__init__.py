"""The same said in other words, by rules that keep the meaning: no model, no download.

A caption that is seen in several wordings teaches a text tower what wording does not matter (LaCLIP, arXiv 2305.20088,
which asks a language model instead). "A man is riding a horse on the beach ." becomes "A horse is being ridden by a man
on the beach .", "On the beach, a man is riding a horse ." and so on. A rule that does not know a caption's words or
build leaves it alone. English only.
"""

import re
import zlib
from collections.abc import Sequence

import numpy as np

from cliplet.data.rewrites.rules import RULES
from cliplet.errors import InputError

__all__ = ["FAITHFUL", "RULES", "eda", "rewrite", "rewrites_by_rule"]

FAITHFUL = tuple(name for name in RULES if name != "shorter")
"""The rules that leave nothing out."""

_STOP = re.compile(r"\s*[.!]?\s*$")


def rewrites_by_rule(caption: str, rules: Sequence[str] = tuple(RULES)) -> dict[str, list[str]]:
    """Everything that each rule makes of a caption.

    Args:
        caption: one English sentence or noun phrase.
        rules: of :data:`RULES`.

    Returns:
        Rule to its rewrites, none equal to the caption or to another of that rule; rules that give nothing are left
        out. The capital at the start and the full stop are as in the caption.

    Raises:
        InputError: an unknown rule.
    """
    unknown = [name for name in rules if name not in RULES]
    if unknown:
        raise InputError(f"unknown rewriting rule {unknown[0]!r}; there are {', '.join(RULES)}")
    text = " ".join(caption.split())
    end = _STOP.search(text)
    body, stop = (text[: end.start()], text[end.start() :]) if end else (text, "")
    if not body or re.search(r"[.!?;:\"()]", body):
        return {}  # several sentences, or more than a rule reads
    capital = not body[0].islower()
    found: dict[str, list[str]] = {}
    for name in rules:
        made = (_first_letter(_spaced(new, stop), capital) + stop for new in RULES[name](body))
        own = [new for new in dict.fromkeys(made) if new.lower() != text.lower()]
        if own:
            found[name] = own
    return found


def _spaced(text: str, stop: str) -> str:
    """Single spaces, and a comma set off where the caption's full stop is."""
    text = " ".join(text.split())
    return re.sub(r"(?<=\w),", " ,", text) if stop.startswith(" ") else text


def _first_letter(text: str, capital: bool) -> str:
    if not capital and text.startswith(("There ", "Here ")):
        return text[0].lower() + text[1:]
    return (text[:1].upper() if capital else text[:1]) + text[1:]


def rewrite(caption: str, seed: int = 0, most: int = 0, rules: Sequence[str] = FAITHFUL) -> list[str]:
    """A caption in other words, by rules that keep its meaning.

    Args:
        caption: one English sentence or noun phrase.
        seed: of the order. The result depends on it and on the caption alone.
        most: at most so many rewrites, the rules taking turns; 0 gives all.
        rules: of :data:`RULES`; those of :data:`FAITHFUL` when left out.

    Returns:
        Distinct rewrites; none where no rule knows the caption.

    Raises:
        InputError: an unknown rule.

    Example:
        >>> sorted(rewrite("A man is riding a horse", rules=["voice", "synonyms"]))
        ['A guy is riding a horse', 'A horse is being ridden by a man']
    """
    found = rewrites_by_rule(caption, rules)
    rng = np.random.default_rng([seed, _number(caption)])
    turns = [[found[name][i] for i in rng.permutation(len(found[name]))] for name in found]
    turns = [turns[i] for i in rng.permutation(len(turns))]
    longest = max(map(len, turns), default=0)
    order = dict.fromkeys(own[i] for i in range(longest) for own in turns if i < len(own))
    return list(order)[: most or None]


def eda(caption: str, seed: int = 0, most: int = 4, share: float = 0.1) -> list[str]:
    """A caption with words left out or swapped at random: the control that shows what rules are worth.

    By turns, some words go and some two words change places, for every tenth word once and at least once.

    Args:
        caption: the caption.
        seed: of the choice. The result depends on it and on the caption alone.
        most: how many to make; fewer where they turn out equal.
        share: of the words.

    Source: the deletion and the swap of EDA (Wei and Zou 2019, arXiv 1901.11196).

    Example:
        >>> [len(new.split()) for new in eda("a dog runs on grass", most=2)]
        [4, 5]
    """
    own = caption.split()
    places = [i for i, word in enumerate(own) if any(map(str.isalnum, word))]
    rng = np.random.default_rng([seed, 1, _number(caption)])
    if len(places) < 3:
        return []
    found, times = [], max(1, round(share * len(places)))
    for number in range(most):
        new = list(own)
        if number % 2:
            for _ in range(times):
                i, j = rng.choice(places, 2, replace=False)
                new[i], new[j] = new[j], new[i]
        else:
            gone = set(rng.choice(places, times, replace=False).tolist())
            new = [word for i, word in enumerate(own) if i not in gone]
        found.append(" ".join(new))
    return [new for new in dict.fromkeys(found) if new != " ".join(own)]


def _number(caption: str) -> int:
    return zlib.crc32(caption.encode("utf-8", "surrogatepass"))
