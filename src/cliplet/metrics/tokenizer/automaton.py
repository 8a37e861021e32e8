"""A small longest-match scanner generator: patterns built from Python functions, run as a lazy DFA.

Python's ``re`` takes the first alternative that fits; a lexer takes the longest match, and among equally long
ones the earliest rule. So patterns are built here with `literal`, `one_of`, `seq`, `alt`, ... and compiled to a
non-deterministic automaton whose deterministic states are made when a text first needs them, and then kept.
Their number depends on the patterns alone, never on how much text is read.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from threading import Lock

MAX_UNIT = 0xFFFF  # texts are sequences of UTF-16 code units

Ranges = tuple[tuple[int, int], ...]  # sorted, disjoint, inclusive


def normalise(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Sort ranges of code units and merge those that touch."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def complement(ranges: Ranges) -> Ranges:
    """All code units that are not in ``ranges``."""
    result, next_low = [], 0
    for low, high in ranges:
        if low > next_low:
            result.append((next_low, low - 1))
        next_low = high + 1
    if next_low <= MAX_UNIT:
        result.append((next_low, MAX_UNIT))
    return tuple(result)


@dataclass(frozen=True)
class Pattern:
    """A node of a pattern: ``kind`` is chars, seq, alt, star or empty."""

    kind: str
    chars: Ranges = ()
    parts: tuple["Pattern", ...] = ()


EMPTY = Pattern("empty")


def _members(spec: str) -> Ranges:
    """Ranges of a class written as in a regular expression: ``A-Za-z.``; a hyphen counts only as the last."""
    ranges, i = [], 0
    while i < len(spec):
        if i + 2 < len(spec) and spec[i + 1] == "-":
            ranges.append((ord(spec[i]), ord(spec[i + 2])))
            i += 3
        else:
            ranges.append((ord(spec[i]), ord(spec[i])))
            i += 1
    return normalise(ranges)


def one_of(*specs: "str | Ranges") -> Pattern:
    """One character of a class, case-sensitively; specs are unions of ``A-Z.`` strings and ranges."""
    ranges: list[tuple[int, int]] = []
    for spec in specs:
        ranges.extend(_members(spec) if isinstance(spec, str) else spec)
    return Pattern("chars", chars=normalise(ranges))


def none_of(*specs: "str | Ranges") -> Pattern:
    """One character outside a class."""
    return Pattern("chars", chars=complement(one_of(*specs).chars))


# Case folding reaches these letters beyond ASCII: long s, Kelvin sign, dotted and dotless i.
_EXTRA_CASES = {"s": "\u017f", "k": "\u212a", "i": "\u0130\u0131"}


def literal(text: str) -> Pattern:
    """The characters of ``text``, in any case."""
    return seq(*(one_of(c.lower() + c.upper() + _EXTRA_CASES.get(c.lower(), "")) for c in text))


def seq(*parts: Pattern) -> Pattern:
    """One pattern after another."""
    return parts[0] if len(parts) == 1 else Pattern("seq", parts=parts)


def alt(*parts: Pattern) -> Pattern:
    """Any one of the patterns."""
    return Pattern("alt", parts=parts)


def words(text: str) -> Pattern:
    """Any one of the words of a space-separated list, in any case."""
    return _trie(sorted({word.lower() for word in text.split()}))


def _trie(endings: Sequence[str]) -> Pattern:
    """Any one of some sorted strings, their common beginnings shared (which keeps the automaton small)."""
    branches = [EMPTY] if "" in endings else []
    for first, group in groupby(filter(None, endings), key=lambda ending: ending[0]):
        branches.append(seq(literal(first), _trie([ending[1:] for ending in group])))
    return branches[0] if len(branches) == 1 else alt(*branches)


def star(part: Pattern) -> Pattern:
    """Any number of times, also none."""
    return Pattern("star", parts=(part,))


def plus(part: Pattern) -> Pattern:
    """Once or more."""
    return seq(part, star(part))


def opt(part: Pattern) -> Pattern:
    """Once or not at all."""
    return alt(part, EMPTY)


def times(part: Pattern, low: int, high: int) -> Pattern:
    """From ``low`` to ``high`` times."""
    return seq(*([part] * low), *([opt(part)] * (high - low)), EMPTY)


class _Nfa:
    """States with empty moves and moves on a class of characters (Thompson's construction)."""

    def __init__(self, alphabet: "Alphabet") -> None:
        self.alphabet = alphabet
        self.empty_moves: list[list[int]] = []
        self.moves: list[tuple[int, int] | None] = []  # (symbols, one bit each; next state)

    def state(self) -> int:
        self.empty_moves.append([])
        self.moves.append(None)
        return len(self.moves) - 1

    def add(self, pattern: Pattern, start: int) -> int:
        """Add ``pattern`` after state ``start``; returns the state in which it ends."""
        if pattern.kind == "chars":
            source, end = self.state(), self.state()
            self.empty_moves[start].append(source)
            self.moves[source] = (self.alphabet.bits_of(pattern.chars), end)
            return end
        if pattern.kind == "seq":
            for part in pattern.parts:
                start = self.add(part, start)
            return start
        if pattern.kind == "alt":
            end = self.state()
            for part in pattern.parts:
                self.empty_moves[self.add(part, start)].append(end)
            return end
        if pattern.kind == "star":
            loop = self.state()
            self.empty_moves[start].append(loop)
            self.empty_moves[self.add(pattern.parts[0], loop)].append(loop)
            return loop
        return start

    def closure(self, state: int) -> frozenset[int]:
        seen, todo = {state}, [state]
        while todo:
            for target in self.empty_moves[todo.pop()]:
                if target not in seen:
                    seen.add(target)
                    todo.append(target)
        return frozenset(seen)


class Alphabet:
    """The coarsest partition of the code units that every class of a set of patterns respects."""

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        # by identity first: hashing a class with hundreds of ranges again and again takes long
        self._class_of_id: dict[int, tuple[int, Ranges]] = {}
        classes: dict[Ranges, int] = {}
        todo = list(patterns)
        while todo:
            pattern = todo.pop()
            todo.extend(pattern.parts)
            if pattern.kind == "chars" and id(pattern.chars) not in self._class_of_id:
                index = classes.setdefault(pattern.chars, len(classes))
                self._class_of_id[id(pattern.chars)] = index, pattern.chars
        toggles: dict[int, int] = {0: 0}
        for ranges, index in classes.items():
            for low, high in ranges:
                toggles[low] = toggles.get(low, 0) ^ (1 << index)
                toggles[high + 1] = toggles.get(high + 1, 0) ^ (1 << index)
        starts = sorted(unit for unit in toggles if unit <= MAX_UNIT)
        symbols: dict[int, int] = {}
        members = 0
        symbol_of_start = []
        for unit in starts:
            members ^= toggles[unit]
            symbol_of_start.append(symbols.setdefault(members, len(symbols)))
        self.size = len(symbols)
        self._bits = [
            sum(1 << symbol for members, symbol in symbols.items() if members >> index & 1)
            for index in range(len(classes))
        ]
        self.table = [0] * (MAX_UNIT + 1)
        for k, low in enumerate(starts):
            high = starts[k + 1] if k + 1 < len(starts) else MAX_UNIT + 1
            self.table[low:high] = [symbol_of_start[k]] * (high - low)

    def bits_of(self, chars: Ranges) -> int:
        """The symbols of a class of the patterns, one bit each."""
        return self._bits[self._class_of_id[id(chars)][0]]


UNKNOWN, DEAD = -2, -1


class Scanner:
    """Finds the longest prefix that any of some rules matches; ties go to the earliest rule.

    Deterministic states are numbered from 0, the start; ``moves[state][symbol]`` is the next state, `DEAD`, or
    `UNKNOWN` until `step` has worked it out; ``accepts[state]`` is the rule that matches there, or -1.
    """

    def __init__(self, rules: Sequence[Pattern], alphabet: Alphabet) -> None:
        self.alphabet = alphabet
        nfa = _Nfa(alphabet)
        start = nfa.state()
        self._rule_of_end = {nfa.add(rule, start): index for index, rule in reversed(list(enumerate(rules)))}
        self._nfa = nfa
        self._closures: dict[int, tuple[frozenset[int], int]] = {}
        self._numbers: dict[frozenset[int], int] = {}
        self._going: list[
            list[tuple[int, int]]
        ] = []  # for each state: (symbols, NFA state that they lead to)
        self.moves: list[list[int]] = []
        self.accepts: list[int] = []
        self._lock = Lock()
        core, rule = self._close(start)
        self._number(core, rule)

    def _close(self, state: int) -> tuple[frozenset[int], int]:
        """The states with a move that ``state`` reaches for free, and the earliest rule that ends there."""
        cached = self._closures.get(state)
        if cached is None:
            closure = self._nfa.closure(state)
            ends = [self._rule_of_end[s] for s in closure if s in self._rule_of_end]
            core = frozenset(s for s in closure if self._nfa.moves[s] is not None)
            cached = self._closures[state] = (core, min(ends, default=-1))
        return cached

    def _number(self, core: frozenset[int], rule: int) -> int:
        key = core | {-2 - rule}  # the accepted rule is part of the identity; NFA states are >= 0
        number = self._numbers.get(key)
        if number is None:
            self.accepts.append(rule)
            moves = self._nfa.moves
            self._going.append([move for s in core if (move := moves[s]) is not None])
            self.moves.append([UNKNOWN] * self.alphabet.size)
            number = self._numbers[key] = len(self.moves) - 1
        return number

    def step(self, state: int, symbol: int) -> int:
        """Work out (once) where ``state`` goes on ``symbol``; safe to call from several threads."""
        with self._lock:
            return self._step(state, symbol)

    def _step(self, state: int, symbol: int) -> int:
        bit = 1 << symbol
        targets = {target for bits, target in self._going[state] if bits & bit}
        if not targets:
            result = DEAD
        else:
            core: set[int] = set()
            rule = -1
            for target in targets:
                more, ends = self._close(target)
                core |= more
                if ends >= 0 and (rule < 0 or ends < rule):
                    rule = ends
            result = self._number(frozenset(core), rule)
        self.moves[state][symbol] = result
        return result

    def match(self, symbols: Sequence[int], start: int) -> tuple[int, int, int]:
        """Longest match from ``start``: (rule, end, how far the scan looked), rule -1 if none."""
        moves, accepts = self.moves, self.accepts
        state, rule, end, position, length = 0, -1, start, start, len(symbols)
        while position < length:
            target = moves[state][symbols[position]]
            if target < 0 and (target == DEAD or (target := self.step(state, symbols[position])) == DEAD):
                return rule, end, position + 1
            state = target
            position += 1
            if accepts[state] >= 0:
                rule, end = accepts[state], position
        # the text ended: one more character was wanted if any pattern could go on
        return rule, end, position + bool(self._going[state])

    def accepted_ends(self, symbols: Sequence[int], start: int, stop: int) -> list[int]:
        """All ends in (start, stop] of prefixes that match, ascending."""
        ends, state = [], 0
        for position in range(start, stop):
            target = self.moves[state][symbols[position]]
            if target == UNKNOWN:
                target = self.step(state, symbols[position])
            if target == DEAD:
                break
            state = target
            if self.accepts[state] >= 0:
                ends.append(position + 1)
        return ends
