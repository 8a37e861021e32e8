import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cliplet.errors import InputError
from cliplet.metrics import cider as cider_module
from cliplet.metrics import ngrams
from cliplet.metrics import registry as scores_module
from cliplet.metrics.bleu import bleu, bleu_of_sums
from cliplet.metrics.cider import DocumentFrequencies, cider, small_corpus_caveat
from cliplet.metrics.ngrams import NgramIndex, count_ngrams
from cliplet.metrics.registry import word_scores
from cliplet.metrics.rouge import rouge_l

CAPTION = st.lists(st.sampled_from(["a", "b", "c", "dog", "runs"]), max_size=9)
CORPUS = st.lists(st.tuples(CAPTION, st.lists(CAPTION, min_size=1, max_size=4)), min_size=1, max_size=6)

CANDIDATES = [["a", "dog", "runs"], ["a", "cat", "sits", "on", "a", "mat"], ["two", "men"], []]
REFERENCES = [
    [["a", "dog", "runs", "fast"], ["the", "dog"]],
    [["a", "cat", "on", "a", "mat"], ["a", "mat", "and", "a", "cat", "a"]],
    [["two", "men", "talk"]],
    [["a", "bird"], []],
]


def grams(caption: list[str], n: int) -> Counter:
    return Counter(tuple(caption[i : i + n]) for i in range(len(caption) - n + 1))


def plain_cider(candidates: list, references: list) -> list[float]:
    """The formula of the paper (section 4), straight: mean cosine of tf-idf vectors, n = 1..4, times 10."""
    images = len(references)

    def weights(caption: list[str], n: int) -> dict[tuple, float]:
        return {
            gram: count
            * math.log(images / max(1, sum(any(gram in grams(r, n) for r in refs) for refs in references)))
            for gram, count in grams(caption, n).items()
        }

    def cosine(a: dict, b: dict) -> float:
        norms = math.hypot(*a.values()) * math.hypot(*b.values())
        return sum(value * b.get(gram, 0) for gram, value in a.items()) / norms if norms else 0.0

    return [
        10 * sum(cosine(weights(c, n), weights(r, n)) for n, r in product(range(1, 5), refs)) / 4 / len(refs)
        for c, refs in zip(candidates, references, strict=True)
    ]


def lcs(a: list[str], b: list[str]) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        above = row
        row = [0]
        for j, y in enumerate(b):
            row.append(above[j] + 1 if x == y else max(above[j + 1], row[j]))
    return row[-1]


@settings(max_examples=80, deadline=None)
@given(CORPUS)
def test_plain_cider_is_the_papers_formula(corpus: list) -> None:
    candidates, references = [c for c, _ in corpus], [r for _, r in corpus]
    ours = cider(candidates, references, variant="cider").per_caption
    np.testing.assert_allclose(ours, plain_cider(candidates, references), rtol=0, atol=1e-9)


@settings(max_examples=80, deadline=None)
@given(CAPTION, st.lists(CAPTION, min_size=1, max_size=4))
def test_rouge_l_is_the_longest_common_subsequence(candidate: list[str], references: list[list[str]]) -> None:
    candidate, references = candidate or [""], [r or [""] for r in references]
    precision = max(lcs(candidate, r) / len(candidate) for r in references)
    recall = max(lcs(candidate, r) / len(r) for r in references)
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision) if precision else 0
    assert rouge_l([candidate], [references]).corpus == pytest.approx(expected, abs=1e-12)


def test_bleu_by_hand() -> None:
    score = bleu([["the"] * 7], [[["the", "cat", "is", "on", "the", "mat"]]])
    assert score.corpus[0] == pytest.approx(2 / 7)  # Papineni et al., section 2.1: clipped counts
    short = bleu([["a", "dog"]], [[["a", "dog", "runs", "here"]]])
    assert short.corpus[1] == pytest.approx(math.exp(1 - 4 / 2))  # perfect, but brief
    ties = bleu([["a"] * 5], [[["a"] * 4, ["a"] * 6]])
    assert ties.corpus[0] == pytest.approx(
        4 / 5 * 5 / 4 * 1
    )  # clipped by six, and four is the length to reach


def test_bleu_of_a_part_comes_from_its_sums() -> None:
    score = bleu(CANDIDATES, REFERENCES)
    addends = score.statistics.addends()
    np.testing.assert_allclose(bleu_of_sums(addends.sum(axis=0)), score.corpus)
    part = bleu(CANDIDATES[:2], REFERENCES[:2])
    np.testing.assert_allclose(bleu_of_sums(addends[:2].sum(axis=0)), part.corpus)
    np.testing.assert_allclose(bleu_of_sums(addends), score.per_caption.T)


@pytest.mark.parametrize("variant", ["cider-d", "cider"])
def test_blocks_do_not_change_the_scores(monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    candidates, references = CANDIDATES * 5, REFERENCES * 5
    names = ["bleu", "rouge", "cider"]
    whole = word_scores(candidates, references, names), cider(candidates, references, variant=variant)
    for module in (ngrams, cider_module, scores_module):
        monkeypatch.setattr(module, "BLOCK_IMAGES", 3)
    parts = word_scores(candidates, references, names), cider(candidates, references, variant=variant)
    np.testing.assert_allclose(parts[1].per_caption, whole[1].per_caption, atol=1e-12)
    for name in whole[0].per_caption:
        np.testing.assert_allclose(parts[0].per_caption[name], whole[0].per_caption[name], atol=1e-12)
        a, b = parts[0].statistics[name].corpus(), whole[0].statistics[name].corpus()
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_cider_d_sees_what_plain_cider_does_not() -> None:
    references = [*REFERENCES, [["red", "bus", "stops"]]]
    stuffed = [["two", "men", "talk"] * 4, ["two", "men", "talk"]]
    d = [cider([[]] * 2 + [c] + [[]] * 2, references).per_caption[2] for c in stuffed]
    plain = [cider([[]] * 2 + [c] + [[]] * 2, references, variant="cider").per_caption[2] for c in stuffed]
    assert d[0] < 0.3 * d[1]
    assert d[1] == pytest.approx(7.5)  # n = 1..3 perfect, there is no 4-gram
    assert plain[0] > 0.3 * plain[1]


def test_document_frequencies_from_elsewhere(tmp_path) -> None:
    training = DocumentFrequencies.from_references(
        [*REFERENCES, [["a", "dog", "\u00e9t\u00e9"]]] * 3, source="train"
    )
    assert (training.documents, training.source) == (15, "train")
    path = tmp_path / "train.df"
    training.save(path)
    loaded = DocumentFrequencies.load(path)
    assert (loaded.documents, loaded.source) == (15, "train")
    given_ones = cider(CANDIDATES, REFERENCES, loaded)
    np.testing.assert_array_equal(given_ones.per_caption, cider(CANDIDATES, REFERENCES, training).per_caption)
    assert given_ones.corpus != cider(CANDIDATES, REFERENCES).corpus
    assert given_ones.documents == 15
    own = DocumentFrequencies.from_references(REFERENCES)
    np.testing.assert_allclose(
        cider(CANDIDATES, REFERENCES, own).per_caption, cider(CANDIDATES, REFERENCES).per_caption, atol=1e-12
    )
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04broken"])
def test_a_file_of_another_kind_is_named(tmp_path, content: bytes) -> None:
    path = tmp_path / "x.df"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.df is not a document-frequency file"):
        DocumentFrequencies.load(path)
    with pytest.raises(InputError, match="cannot read"):
        DocumentFrequencies.load(tmp_path / "missing.df")
    with pytest.raises(InputError, match="cannot write"):
        DocumentFrequencies.from_references(REFERENCES).save(tmp_path / "no" / "folder.df")


def test_small_corpora_carry_a_caveat() -> None:
    one = cider(CANDIDATES[:1], REFERENCES[:1])
    assert one.corpus == 0
    assert "every score, is 0" in (one.caveat or "")
    assert "only 4 images" in (cider(CANDIDATES, REFERENCES).caveat or "")
    assert small_corpus_caveat(5000) is None


@settings(max_examples=50, deadline=None)
@given(st.lists(CAPTION, max_size=6), st.lists(CAPTION, max_size=6))
def test_an_index_numbers_every_ngram_once_and_for_good(first: list, second: list) -> None:
    index, expected = NgramIndex(), [set() for _ in range(4)]
    kept: list[dict] = [{} for _ in range(4)]
    for captions in (first, second, first):
        counts = count_ngrams(captions)
        numbers = index.lookup(counts, add=True)
        by_row = [
            list(zip(o.caption.tolist(), o.gram.tolist(), o.count.tolist(), strict=True))
            for o in counts.orders
        ]
        for n in range(4):
            rows = {(c, g): k for c, found in enumerate(captions) for g, k in grams(found, n + 1).items()}
            assert len(by_row[n]) == len(rows)
            assert sum(k for _, _, k in by_row[n]) == sum(rows.values())
            expected[n] |= {gram for _, gram in rows}
            text = {0: [(w,) for w in counts.words]}
            for level in range(1, n + 1):
                order = counts.orders[level]
                pairs = zip(order.prefix, order.last, strict=True)
                text[level] = [(*text[level - 1][prefix], counts.words[last]) for prefix, last in pairs]
            for local, gram in enumerate(text[n]):
                assert kept[n].setdefault(gram, numbers[n][local]) == numbers[n][local]
    assert index.sizes() == tuple(map(len, expected))
    assert [sorted(k.values()) for k in kept] == [list(range(size)) for size in index.sizes()]


@pytest.mark.parametrize("metric", [bleu, rouge_l, cider, word_scores])
@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ([["a"]], [], "1 candidates but references for 0 images"),
        ([], [], "no captions"),
        ([["a"], ["b"]], [[["a"]], []], "image 1 has no reference"),
        (["a dog"], [[["a"]]], "tokenise"),
        ([["a"]], [["a dog"]], "tokenise"),
    ],
)
def test_what_cannot_be_scored_is_named(metric, candidates, references, message: str) -> None:
    with pytest.raises(InputError, match=message):
        metric(candidates, references)
    with pytest.raises(InputError, match="unknown variant"):
        cider(CANDIDATES, REFERENCES, variant="cider-x")  # type: ignore[arg-type]
