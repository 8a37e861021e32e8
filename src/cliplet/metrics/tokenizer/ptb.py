"""The Penn Treebank tokeniser of the captioning metrics, without Java.

BLEU, ROUGE-L, METEOR and CIDEr of captions are defined on the words that Stanford's PTBTokenizer (CoreNLP 3.4.1,
options ``-preserveLines -lowerCase``) makes of them, minus a list of punctuation tokens. This module yields the
same words, or all tokens for evaluations that keep punctuation. Its grammar (`grammar`) runs as a longest-match
automaton; most captions never reach it, because the tokens of a stretch between two spaces are remembered once it is
known that its neighbours cannot change them.

Reference implementation: pycocoevalcap 1.2, ``pycocoevalcap.tokenizer.ptbtokenizer.PTBTokenizer``.
Known deviations: characters that the jar takes for a line end (carriage return, vertical tab, form feed, U+2028,
U+2029) shift all later captions there; here they separate words like a space.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, partial
from itertools import chain

from cliplet.errors import InputError
from cliplet.metrics.tokenizer.actions import ACTIONS
from cliplet.metrics.tokenizer.automaton import Alphabet, Scanner
from cliplet.metrics.tokenizer.grammar import ABBREVIATED, rules
from cliplet.metrics.tokenizer.names import TOKENIZERS

# What pycocoevalcap removes. Brackets stay, as ``-lrb-``: it looks for ``-LRB-`` after lower-casing.
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)

Tokens = tuple[str, ...]

_REMEMBERED_CHUNKS = 1 << 17  # entries in a memo before it starts afresh
_REMEMBERED_LENGTH = 32  # longer chunks are rare and not worth the memory
_TOGETHER = 1 << 12  # captions whose plain lines are found in one go
_CONTEXT = 256  # characters of the following captions that a caption's end is first read with
_FARTHEST = 1 << 20  # characters after which an unclosed tag is given up


def check_tokenizer(name: str) -> str:
    """The name of a tokeniser, if it is one; raises InputError if not."""
    if name not in TOKENIZERS:
        raise InputError(f"unknown tokenizer {name!r}: choose {' or '.join(TOKENIZERS)}")
    return name


def tokenize(caption: str, tokenizer: str = "ptb") -> list[str]:
    """The lower-case words of one caption on its own, as PTBTokenizer gives them, without punctuation.

    Tokens never hold an ASCII space; phone numbers and mixed fractions hold a no-break space (``1\\xa01/2``).
    Any text is accepted; one without words gives an empty list. With ``ptb-punctuation`` punctuation stays, each mark
    as a token. Raises `InputError` if the caption is not a string or the tokeniser unknown.
    """
    return tokenize_many([caption], joined=False, tokenizer=tokenizer)[0]


def tokenize_many(captions: Iterable[str], *, joined: bool = True, tokenizer: str = "ptb") -> list[list[str]]:
    """The words of many captions, in order: ``result[i]`` are those of the i-th.

    pycocoevalcap tokenises a list of captions as the lines of one file, where the beginning of one caption can
    decide how the one before it ends: "vitamin C." gives ``c.``, but ``c`` when the next line begins with "A ".
    With ``joined`` (the default) the result is the same as there. With ``joined=False`` every caption is read on
    its own, as by `tokenize`, whatever stands beside it. ``tokenizer`` as there.
    """
    lines, tables = lines_of(captions), tables_of(tokenizer)
    result = list(chain.from_iterable(map(tables.plain, _batches(lines))))
    odd = [i for i, words in enumerate(result) if words is None]
    for i, words in read_odd(lines, odd, tables, joined).items():
        result[i] = words
    return result  # type: ignore[return-value]


def read_odd(
    lines: Sequence[str], odd: Iterable[int], tables: "_Tables", joined: bool
) -> dict[int, list[str]]:
    """The words of lines that are not plain, and of those into which a tag of such a line runs on."""
    found: dict[int, list[str]] = {}
    last = len(lines) - 1
    for at in odd:
        if not joined or at == last:
            found.setdefault(at, _alone(lines[at], tables))
        elif at not in found:
            tokens = tables.by_words(lines[at], alone=False)
            found.update(
                enumerate(_with_following(lines, at, tables) if tokens is None else [tokens], start=at)
            )
    return found


def _batches(lines: Sequence[str]) -> Iterator[Sequence[str]]:
    return (lines[first : first + _TOGETHER] for first in range(0, len(lines), _TOGETHER))


def lines_of(captions: Iterable[str]) -> list[str]:
    """The captions, each without line ends inside."""
    lines = list(captions)
    return [_one_line(line) if type(line) is not str or "\n" in line else line for line in lines]


def _alone(line: str, tables: "_Tables") -> list[str]:
    """Tokens of a line with nothing after it."""
    tokens = tables.by_words(line, alone=True)
    if tokens is not None:
        return tokens
    text = _utf16(line)
    return list(tables.words_of(tables.lexer.tokens(text, len(text))[0]))


def _with_following(lines: Sequence[str], index: int, tables: "_Tables") -> list[list[str]]:
    """Tokens of a line of a file; also of the lines after it into which an unclosed tag of it runs on."""
    result: list[list[str]] = []
    begun: list[str] = []  # what earlier lines put into this one
    rest = _utf16(lines[index])
    while True:
        tokens, text, end = _read_on(rest, lines, index, tables.lexer)
        if end <= len(rest) or not tokens or "\n" not in tokens[-1]:
            return [*result, list(tables.words_of(begun + tokens))]
        pieces = tokens.pop().split("\n")
        result.append(list(tables.words_of([*begun, *tokens, pieces[0]])))
        result.extend(list(tables.words_of([piece])) for piece in pieces[1:-1])
        index += len(pieces) - 1
        begun = pieces[-1:]
        rest = _utf16(lines[index])[end - text.rindex("\n", 0, end) - 1 :]


def _read_on(rest: str, lines: Sequence[str], index: int, lexer: "_Lexer") -> tuple[list[str], str, int]:
    """Tokens that begin in ``rest``, the end of a line, read with as much of the following lines as it takes.

    Also the text that was read and where the last token ends in it.
    """
    length = _CONTEXT
    while True:
        text, next_line = rest, index + 1
        while next_line < len(lines) and len(text) - len(rest) < length:
            text += "\n" + _utf16(lines[next_line])
            next_line += 1
        tokens, looked, end = lexer.tokens(text, len(rest))
        if looked <= len(text) or next_line == len(lines) or length >= _FARTHEST:
            return tokens, text, end
        length *= 8  # an unclosed tag can look far ahead


def _one_line(caption: str) -> str:
    if not isinstance(caption, str):
        raise InputError(f"a caption must be a string, not {type(caption).__name__}: {caption!r:.80}")
    return caption.replace("\n", " ") if "\n" in caption else caption


def _words_of(tokens: list[str], dropped: frozenset[str] = PUNCTUATION) -> Tokens:
    """Join and split again as pycocoevalcap does, then drop punctuation."""
    line = " ".join(tokens).rstrip()
    return tuple(word for word in line.split(" ") if word not in dropped) if line else ()


class _Lexer:
    """Applies the grammar to text: longest match, then the rule's action."""

    def __init__(self) -> None:
        grammar = rules()
        self.actions = [rule.action for rule in grammar]
        self.alphabet = Alphabet([rule.whole for rule in grammar])
        self.scanner = Scanner([rule.whole for rule in grammar], self.alphabet)
        self.split = [
            (Scanner([rule.pattern], self.alphabet), Scanner([rule.then], self.alphabet))
            if rule.then
            else None
            for rule in grammar
        ]
        self._ascii = bytes(self.alphabet.table[:256])

    def symbols(self, text: str) -> bytes:
        """The grammar's symbol of every character (UTF-16 code unit) of ``text``."""
        if text.isascii():
            return text.encode("ascii").translate(self._ascii)
        table = self.alphabet.table
        return bytes([table[ord(unit)] for unit in text])

    def line(self, line: str) -> Tokens:
        """Words of a line with nothing after it."""
        text = _utf16(line)
        return _words_of(self.tokens(text, len(text))[0])

    def tokens(self, text: str, stop: int) -> tuple[list[str], int, int]:
        """Lower-case tokens that begin before ``stop``; how far any scan looked; where the last one ended."""
        symbols = self.symbols(text)
        match, actions = self.scanner.match, self.actions
        tokens: list[str] = []
        position = furthest = 0
        while position < stop:
            rule, end, looked = match(symbols, position)
            if looked > furthest:
                furthest = looked
            if self.split[rule] is not None:
                end = self._end_of_token(symbols, rule, position, end)
            token = text[position:end]
            action = actions[rule]
            if action == "word":
                if "\u00ad" in token:
                    token = token.replace("\u00ad", "") or "-"
            elif action != "keep":
                token, back = ACTIONS[action](token)
                end -= back
            if token:
                tokens.append(_lower(token))
            position = end
        return tokens, furthest, position

    def _end_of_token(self, symbols: bytes, rule: int, start: int, stop: int) -> int:
        """Where the token ends if its rule also matched what must follow: as late as possible."""
        scanners = self.split[rule]
        assert scanners is not None
        token, then = scanners
        for end in reversed(token.accepted_ends(symbols, start, stop)):
            if stop in then.accepted_ends(symbols, end, stop)[-1:]:
                return end
        raise AssertionError("a rule matched as a whole but not in its parts")


def _utf16(text: str) -> str:
    """The text with characters beyond the Basic Multilingual Plane as two surrogates, as Java has them."""
    if text.isascii() or max(text) <= "\uffff":
        return text
    units = text.encode("utf-16-le", "surrogatepass")
    return "".join(chr(units[i] | units[i + 1] << 8) for i in range(0, len(units), 2))


def _lower(token: str) -> str:
    if not token.isascii() and any("\ud800" <= c <= "\udfff" for c in token):
        token = token.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return token.lower()


def _lower_ascii(text: str) -> str:
    """The text with small letters for A to Z, and nothing else changed."""
    if text.isascii():
        return text.lower()
    return text.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


# Plain words that the grammar splits; every other run of two or more ASCII letters is one word.
SPLIT_WORDS = frozenset(["cannot", "gonna", "gotta", "lemme", "gimme", "wanna"])

# Words that a full stop may belong to.
BEFORE_STOP = ABBREVIATED.union("abcdefghijklmnopqrstuvwxyz")

# A line of words of letters and perhaps a full stop; or another line.
_PLAIN = re.compile(r"([a-z ]*)\.? ?\n|.*\n").findall
# A comma that is a token of its own whatever else the line holds.
_COMMA = re.compile(r",(?<=[a-z]{2},)(?=[ \n])").sub


class _Known(dict[str, str]):
    """One string for all that are equal: less memory, and quicker to count."""

    def __missing__(self, word: str) -> str:
        self[word] = word
        return word


class _Memo(dict[str, Tokens | None]):
    """Tokens of a chunk of text between spaces, or None where what comes after may change them.

    ``follower`` is what comes after the chunk for certain; ``at_end`` says that the text ends after it.
    """

    def __init__(
        self, lexer: _Lexer, follower: str, dropped: frozenset[str], *, at_end: bool = False
    ) -> None:
        self._lexer = lexer
        self._dropped = dropped
        self._follower = follower
        self._at_end = at_end
        self._marks = {","} if follower == " " and not at_end else {",", "."}  # marks that leave a word alone

    def __missing__(self, chunk: str) -> Tokens | None:
        word, mark = (chunk[:-1], chunk[-1]) if chunk[-1:] in self._marks else (chunk, "")
        if len(word) > 1 and word.isascii() and word.isalpha():
            word = word.lower()
            if word not in SPLIT_WORDS and not (mark == "." and word in ABBREVIATED):
                return self._keep(chunk, (word, mark) if mark and mark not in self._dropped else (word,))
        return self._keep(chunk, self._read(chunk, self._follower))

    def _keep(self, key: str, tokens: Tokens | None) -> Tokens | None:
        if len(key) <= _REMEMBERED_LENGTH:
            if len(self) >= _REMEMBERED_CHUNKS:
                self.clear()
            self[key] = tokens
        return tokens

    def _read(self, chunk: str, follower: str) -> Tokens | None:
        if chunk[:1].isspace():  # the space before the chunk and this one are one token
            return None
        text = _utf16(chunk)
        tokens, looked, end = self._lexer.tokens(text + follower, len(text))
        if end > len(text) or (looked > len(text) + len(follower) and not self._at_end):
            return None
        if any(token[-1:].isspace() or " " in token for token in tokens):
            return None
        return _words_of(tokens, self._dropped)


class _PairMemo(_Memo):
    """Tokens of a chunk that is followed by a space and a given character; the key is all of it."""

    def __missing__(self, key: str) -> Tokens | None:
        follower = _utf16(key[-2:])
        return self._keep(key, self._read(key[:-2], follower))


class _Tables:
    """The lexer and the memos that spare it most of its work; one set serves all callers and threads."""

    def __init__(self, dropped: frozenset[str] = PUNCTUATION) -> None:
        self.lexer = _lexer()
        self._dropped = dropped
        self.words_of = partial(_words_of, dropped=dropped)
        self._inner = _Memo(self.lexer, " ", dropped)
        self._pairs = _PairMemo(self.lexer, "", dropped)
        self._before_line = _Memo(self.lexer, "\n", dropped)
        self._before_blank_line = _Memo(self.lexer, " \n", dropped)
        self._alone = _Memo(self.lexer, "", dropped, at_end=True)
        self._before_blank = _Memo(self.lexer, " ", dropped, at_end=True)

    def plain(self, lines: Sequence[str]) -> list[list[str] | None]:
        """Tokens of each line of letters, spaces, common commas and perhaps a full stop; None for any other line."""
        text = _lower_ascii("\n".join([*lines, ""]))
        if "," in self._dropped:
            text = _COMMA("", text)
        known = _Known()
        one_for_all = known.__getitem__
        result = [
            [*map(one_for_all, words)] if words and words[-1] not in BEFORE_STOP else None
            for words in map(str.split, _PLAIN(text))
        ]
        if "." not in self._dropped:
            result = [
                [*words, "."] if words and "." in line else words
                for words, line in zip(result, lines, strict=True)
            ]
        if not SPLIT_WORDS.isdisjoint(known):
            return [words if words and SPLIT_WORDS.isdisjoint(words) else None for words in result]
        return result

    def by_words(self, line: str, alone: bool) -> list[str] | None:
        """Tokens of a line from the memos; None when only reading it whole (or what comes after it) can tell."""
        memo = self._alone if alone else self._before_line
        body = line
        if line[-1:] == " ":
            memo = self._before_blank if alone else self._before_blank_line
            body = line[:-1]
        head, _, last = body.rpartition(" ")
        if last and head.isascii() and head.replace(" ", "").isalpha():  # words of letters, then anything
            words = head.lower().split()
            final = memo[last]
            if final is not None and SPLIT_WORDS.isdisjoint(words):
                words.extend(final)
                return words
        return self._by_chunks(line, alone)

    def _by_chunks(self, line: str, alone: bool) -> list[str] | None:
        chunks = line.split(" ")
        last = chunks.pop()
        if not last and chunks:
            last = chunks.pop()
            final = (self._before_blank if alone else self._before_blank_line)[last]
        else:
            final = (self._alone if alone else self._before_line)[last]
        parts = [*map(self._inner.__getitem__, chunks), final]
        if None in parts:
            if final is None:
                return None
            chunks.append(last)
            for i, part in enumerate(parts):
                if part is None:
                    parts[i] = self._pairs[f"{chunks[i]} {chunks[i + 1][:1] or ' '}"]
            if None in parts:
                return None
        return list(chain.from_iterable(parts))  # type: ignore[arg-type]


@cache
def _lexer() -> _Lexer:
    return _Lexer()


@cache
def _tables(tokenizer: str = "ptb") -> _Tables:
    return _Tables(PUNCTUATION if tokenizer == "ptb" else frozenset())


def tables_of(tokenizer: str) -> _Tables:
    """The tables of a tokeniser; raises InputError if it is unknown."""
    return _tables(check_tokenizer(tokenizer))
