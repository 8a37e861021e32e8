"""BLEU, ROUGE-L and CIDEr-D against pycocoevalcap, corpus and per caption, to 1e-9."""

import json
import random

import numpy as np
import pytest

from cliplet.metrics.bleu import bleu
from cliplet.metrics.cider import cider
from cliplet.metrics.ngrams import Caption
from cliplet.metrics.registry import word_scores
from cliplet.metrics.rouge import rouge_l
from cliplet.metrics.tokenizer.ptb import tokenize_many
from tests.shared_data import shared_data

pytest.importorskip("pycocoevalcap")

Corpus = tuple[list[list[str]], list[list[list[str]]]]


def reference_scores(candidates: list[Caption], references: list[list[Caption]]) -> dict[str, tuple]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    gts = {i: [" ".join(caption) for caption in captions] for i, captions in enumerate(references)}
    res = {i: [" ".join(caption)] for i, caption in enumerate(candidates)}
    return {
        "bleu": Bleu(4).compute_score(gts, res, verbose=0),
        "rouge_l": Rouge().compute_score(gts, res),
        "cider_d": Cider().compute_score(gts, res),
    }


def assert_same(candidates: list[Caption], references: list[list[Caption]]) -> None:
    together = word_scores(candidates, references, ["bleu", "rouge", "cider"])
    columns = {"bleu": [f"BLEU-{n}" for n in (1, 2, 3, 4)], "rouge_l": ["ROUGE-L"], "cider_d": ["CIDEr-D"]}
    alone = {
        "bleu": bleu(candidates, references),
        "rouge_l": rouge_l(candidates, references),
        "cider_d": cider(candidates, references),
    }
    for name, (corpus, per_caption) in reference_scores(candidates, references).items():
        statistics = [together.statistics[column].corpus() for column in columns[name]]
        captions = [together.per_caption[column] for column in columns[name]]
        shared = (statistics, captions) if name == "bleu" else (statistics[0], captions[0])
        for our_corpus, our_captions in (shared, (alone[name].corpus, alone[name].per_caption)):
            np.testing.assert_allclose(our_corpus, corpus, rtol=0, atol=1e-9, err_msg=name)
            np.testing.assert_allclose(our_captions, per_caption, rtol=0, atol=1e-9, err_msg=name)


@pytest.fixture(scope="module")
def coco() -> dict[int, list[list[str]]]:
    """The tokenised references of 600 COCO images."""
    rows = json.loads(shared_data("coco-captions-val2017/captions_val2017.json").read_text())["annotations"]
    captions: dict[int, list[str]] = {}
    for row in rows:
        captions.setdefault(row["image_id"], []).append(row["caption"])
    chosen = sorted(captions)[:600]
    words = iter(tokenize_many([caption for image in chosen for caption in captions[image]]))
    return {image: [next(words) for _ in captions[image]] for image in chosen}


def test_a_results_file(coco: dict[int, list[list[str]]]) -> None:
    path = shared_data("coco-captions-val2017/captions_val2017_fakecap_results.json")
    results = {row["image_id"]: row["caption"] for row in json.loads(path.read_text())}
    images = [image for image in coco if image in results]
    assert_same(tokenize_many([results[image] for image in images]), [coco[image] for image in images])


def test_people_against_each_other(coco: dict[int, list[list[str]]]) -> None:
    assert_same([captions[0] for captions in coco.values()], [captions[1:] for captions in coco.values()])


def test_flickr8k_captions_against_each_other() -> None:
    lines = shared_data("flickr8k/Flickr8k.token.txt").read_text("utf-8").splitlines()[:2000]
    words = tokenize_many([line.partition("\t")[2] for line in lines])
    by_image: dict[str, list[list[str]]] = {}
    for line, caption in zip(lines, words, strict=True):
        by_image.setdefault(line.partition("#")[0], []).append(caption)
    images = [captions for captions in by_image.values() if len(captions) > 1]
    assert_same([captions[-1] for captions in images], [captions[:-1] for captions in images])


def damaged(rng: random.Random, caption: list[str]) -> list[str]:
    kind = rng.random()
    if kind < 0.1:
        return []
    if kind < 0.2:
        return caption[:1]
    if kind < 0.3:
        return caption + caption
    if kind < 0.4:
        return caption[:3] * 4
    words = list(caption)
    for _ in range(rng.randint(1, 4)):
        place = rng.randint(0, len(words))
        words[place : place + rng.randint(0, 1)] = [rng.choice([*caption, "xyzzy", "1\u00a01/2"])]
    return words


def test_damaged_empty_and_short_captions(coco: dict[int, list[list[str]]]) -> None:
    rng = random.Random(0)
    candidates = [damaged(rng, captions[0]) for captions in coco.values()]
    references = [
        [damaged(rng, caption) for caption in captions[1 : rng.randint(2, 5)]] for captions in coco.values()
    ]
    assert_same(candidates, references)


WORDS = ["a", "dog"]


@pytest.mark.parametrize(
    "corpus",
    [
        ([WORDS], [[WORDS]]),
        ([[]], [[WORDS]]),
        ([WORDS, []], [[WORDS, []], [[], ["cat"]]]),
        ([["dog"], ["dog", "dog"]], [[["dog", "a"]], [["a"], ["dog", "cat", "dog"]]]),
        ([["1\u00a01/2", "x"], ["x"]], [[["1", "1/2", "x"]], [["x", "1\u00a01/2"]]]),
    ],
    ids=["one image", "empty candidate", "empty reference", "one word", "token with a space"],
)
def test_tiny_corpora(corpus: Corpus) -> None:
    assert_same(*corpus)
