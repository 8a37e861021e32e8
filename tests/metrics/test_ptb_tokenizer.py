import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliplet.errors import InputError
from cliplet.metrics.tokenizer import ptb as ptb_tokenizer
from cliplet.metrics.tokenizer.automaton import DEAD, UNKNOWN
from cliplet.metrics.tokenizer.grammar import ABBREVIATED
from cliplet.metrics.tokenizer.ptb import tokenize, tokenize_many
from tests.metrics.hard_captions import GENERATORS, HARD, random_captions

CAPTIONS = [caption for pairs in HARD.values() for caption, _ in pairs]
TEXTS = st.one_of(
    st.text(),
    st.text(alphabet="aAbtnsd.,'\"-!? ()<>@#$%&;:/=_1205\u00bd\u2019\u00a0\n"),
    st.lists(st.sampled_from([caption for caption in CAPTIONS if caption])).map(" ".join),
)


def test_hard_captions_give_the_tokens_of_the_jar() -> None:
    found = dict(zip(CAPTIONS, tokenize_many(CAPTIONS), strict=True))
    wrong = {
        caption: (found[caption], tokens)
        for pairs in HARD.values()
        for caption, tokens in pairs
        if " ".join(found[caption]) != tokens
    }
    assert not wrong


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A dog's owner can't come.", ["a", "dog", "'s", "owner", "ca", "n't", "come"]),
        ("(two) dogs, one cat; no birds!", ["-lrb-", "two", "-rrb-", "dogs", "one", "cat", "no", "birds"]),
        ("1 1/2 cups", ["1\u00a01/2", "cups"]),
        ("A dog\nruns", ["a", "dog", "runs"]),
        ("", []),
        ("...", []),
    ],
)
def test_words_of_a_caption(caption: str, words: list[str]) -> None:
    assert tokenize(caption) == words


def test_the_next_caption_decides_how_one_ends_only_when_joined() -> None:
    captions = ["a plate of vitamin C.", "A dog runs", "a plate of vitamin C.", "dogs run"]
    assert [words[-1] for words in tokenize_many(captions)] == ["c", "runs", "c.", "run"]
    assert [words[-1] for words in tokenize_many(captions, joined=False)] == ["c.", "runs", "c.", "run"]


def test_an_unclosed_tag_runs_on_as_in_the_jar_only_when_joined() -> None:
    captions = ['see <a b="x y', "A dog", "runs'", 'here"> and there', "a cat."]
    joined = [
        ["see", '<a\u00a0b="x\u00a0y'],
        ["a\u00a0dog"],
        ["runs'"],
        ['here">', "and", "there"],
        ["a", "cat"],
    ]
    assert tokenize_many(captions) == joined
    assert tokenize_many(captions, joined=False)[1:3] == [["a", "dog"], ["runs"]]
    endless = ['<a b="', *["a dog"] * 500]
    assert tokenize_many(endless)[1:] == [["a", "dog"]] * 500


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_any_text_gives_lower_case_words_without_spaces(caption: str) -> None:
    words = tokenize(caption)
    assert all(" " not in word and word not in ptb_tokenizer.PUNCTUATION for word in words)
    assert not any("A" <= c <= "Z" for word in words for c in word)
    assert tokenize_many([caption]) == [words]


GRAMMAR = ptb_tokenizer._Tables()
EVERYTHING = ptb_tokenizer._Tables(frozenset())


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A dog, a cat.", ["a", "dog", ",", "a", "cat", "."]),
        ('He said: "no--never..."', ["he", "said", ":", "``", "no", "--", "never", "...", "''"]),
        ("a man (left) - Mr. Smith's", ["a", "man", "-lrb-", "left", "-rrb-", "-", "mr.", "smith", "'s"]),
        ("...", ["..."]),
        ("", []),
    ],
)
def test_punctuation_is_kept_where_asked_for(caption: str, words: list[str]) -> None:
    assert tokenize(caption, "ptb-punctuation") == words
    assert tokenize_many([caption], tokenizer="ptb-punctuation") == [words]
    with pytest.raises(InputError, match="choose ptb or ptb-punctuation"):
        tokenize(caption, "penn")


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_without_its_punctuation_a_caption_has_the_usual_words(caption: str) -> None:
    kept = tokenize(caption, "ptb-punctuation")
    assert [word for word in kept if word not in ptb_tokenizer.PUNCTUATION] == tokenize(caption)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_shortcuts_change_nothing(caption: str) -> None:
    assert tokenize(caption) == list(GRAMMAR.lexer.line(caption.replace("\n", " ")))
    text = ptb_tokenizer._utf16(caption.replace("\n", " "))
    kept = EVERYTHING.words_of(EVERYTHING.lexer.tokens(text, len(text))[0])
    assert tokenize(caption, "ptb-punctuation") == list(kept)


@pytest.mark.parametrize("kind", GENERATORS)
def test_shortcuts_change_nothing_between_other_captions(kind: str) -> None:
    captions = random_captions(kind, 400, CAPTIONS, seed=1)
    lines = [caption.replace("\n", " ") for caption in captions]
    for tokenizer, tables in (("ptb", GRAMMAR), ("ptb-punctuation", EVERYTHING)):
        expected: list[list[str]] = []
        while len(expected) < len(lines):
            expected.extend(ptb_tokenizer._with_following(lines, len(expected), tables))
        assert tokenize_many(captions, tokenizer=tokenizer) == expected


def go(state: int, symbol: int) -> int:
    scanner = GRAMMAR.lexer.scanner
    target = DEAD if state == DEAD else scanner.moves[state][symbol]
    return scanner.step(state, symbol) if target == UNKNOWN else target


def states_after_letters() -> set[tuple[int, str]]:
    """Every state of the grammar after two or more letters, with the letters while they can be a special word."""
    special = {word[:k] for word in ABBREVIATED | ptb_tokenizer.SPLIT_WORDS for k in range(len(word) + 1)}
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    symbols = GRAMMAR.lexer.symbols(letters)
    todo = {(go(0, symbol), letter.lower()) for letter, symbol in zip(letters, symbols, strict=True)}
    found: set[tuple[int, str]] = set()
    while todo:
        state, text = todo.pop()
        for letter, symbol in zip(letters, symbols, strict=True):
            longer = text + letter.lower()
            following = go(state, symbol), longer if longer in special else "~"
            if following not in found:
                found.add(following)
                todo.add(following)
    return found


def test_a_run_of_letters_is_one_word_before_a_blank_a_comma_or_a_last_period() -> None:
    """The shortcuts for plain words, shown on every state of the grammar that a run of letters can reach."""
    scanner, actions = GRAMMAR.lexer.scanner, GRAMMAR.lexer.actions
    space, newline, comma, period = GRAMMAR.lexer.symbols(" \n,.")
    # the mark itself: a comma ends before a blank; a period may begin ". . .", but not at the end of a line
    assert go(go(0, comma), space) == go(go(0, comma), newline) == go(go(0, period), newline) == DEAD
    assert scanner.accepts[go(go(0, period), space)] < 0
    assert go(go(go(0, period), space), newline) == DEAD
    split = set()
    for state, text in states_after_letters():
        action = actions[scanner.accepts[state]]
        if text in ptb_tokenizer.SPLIT_WORDS:
            split.add(action)
            continue
        assert action in {"keep", "word"}
        for blank in (space, newline):
            after = go(state, blank)  # nothing goes on beyond it, and a rule that takes it in keeps the token
            assert after == DEAD or (not scanner._going[after] and actions[scanner.accepts[after]] == "keep")
            for mark in (comma, period):
                after = go(state, mark)
                if mark == comma or text not in ABBREVIATED:
                    assert after == DEAD or (scanner.accepts[after] < 0 and go(after, blank) == DEAD)
    assert split == {"split2", "split3"}


@pytest.mark.parametrize("word", sorted(ABBREVIATED | ptb_tokenizer.SPLIT_WORDS))
def test_special_words_are_left_to_the_grammar(word: str) -> None:
    for spelt in (word, word.upper(), word.capitalize()):
        for text in (f"a {spelt}. ", f"a {spelt}.", f"the {spelt}, x", f"{spelt}. A", spelt, f"{spelt}. 5"):
            assert tokenize(text) == list(GRAMMAR.lexer.line(text))


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ptb_tokenizer, "_REMEMBERED_CHUNKS", 50)
    tables = ptb_tokenizer._Tables()
    for number in range(500):
        tables.by_words(f"w{number} x{number}. y{number}z. end", alone=False)
        tables.by_words("long" * 100 + f"{number}", alone=False)
    assert max(len(memo) for memo in vars(tables).values() if isinstance(memo, dict)) <= 50


def test_threads_share_one_tokeniser() -> None:
    captions = random_captions("hard pieces in a row", 300, CAPTIONS, seed=2)
    expected = tokenize_many(captions, joined=False)
    ptb_tokenizer._tables.cache_clear()
    orders = [random.Random(seed).sample(range(len(captions)), len(captions)) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda order: {i: tokenize(captions[i]) for i in order}, orders))
    assert all([result[i] for i in range(len(captions))] == expected for result in results)


@pytest.mark.parametrize("caption", [None, 3, b"bytes", ["a"]])
def test_what_is_no_string_is_named(caption: object) -> None:
    with pytest.raises(InputError, match="must be a string"):
        tokenize(caption)  # type: ignore[arg-type]
