"""How varied and how specific a captioner's captions are, measured on a scored captions file."""

from collections.abc import Mapping
from pathlib import Path

from cliplet.data.captions import read_captions
from cliplet.data.text import caption_problem
from cliplet.encoders.batching import encode_images_safely, encode_texts_counted
from cliplet.metrics.diversity import diversity, mutual_bleu, self_retrieval
from cliplet.metrics.tokenizer.ptb import tokenize_many
from cliplet.scoring.file import ScoreTable
from cliplet.scoring.scorer import Scorer


def caption_diversity(
    table: ScoreTable, scorer: Scorer | None, training: str | Path | None = None
) -> Mapping[str, float | int]:
    """Length, vocabulary, distinct-n, repetition, novelty, mutual BLEU and self-retrieval of a file's captions.

    Args:
        table: the scored file.
        scorer: its encoder finds each caption's photo among all (with a cache nothing is encoded twice); None leaves
            self-retrieval out.
        training: the captions that the captioner learned from, for the share of novel captions.

    Returns:
        Each measure by name; one that does not apply (mutual BLEU of one caption an image, novelty without training
        captions) is left out.

    Raises:
        InputError: no caption could be scored, or the training file cannot be read.
    """
    rows = [
        i
        for i, row in enumerate(table.rows)
        if (row["reason"] if table.with_model else caption_problem(row["caption"])) is None
    ]
    words = tokenize_many([table.rows[i]["caption"] for i in rows])
    known = None
    if training is not None:
        entries = read_captions(training, plain_lines=True)
        known = tokenize_many([entry.caption for entry in entries if entry.problem is None])
    score = diversity(words, known)
    found: dict[str, float | int] = {
        "mean length": score.mean_length,
        "vocabulary": score.vocabulary,
        "distinct-1": score.distinct_1,
        "distinct-2": score.distinct_2,
        "repeated words": score.repeated[0],
        "repeated 4-grams": score.repeated[3],
    }
    if score.novel is not None:
        found["novel captions"] = score.novel
    by_image: dict[str, list[int]] = {}
    for place, i in enumerate(rows):
        by_image.setdefault(table.image_of(i), []).append(place)
    if any(len(places) > 1 for places in by_image.values()):
        found["mutual BLEU-4"] = mutual_bleu([[words[p] for p in places] for places in by_image.values()])[3]
    if scorer is None:
        return found
    return found | {"self-retrieval R@1": _self_retrieval(table, scorer, rows, by_image)}


def _self_retrieval(
    table: ScoreTable, scorer: Scorer, rows: list[int], by_image: dict[str, list[int]]
) -> float:
    photos = [table.photos[rows[places[0]]] for places in by_image.values()]
    images, _ = encode_images_safely(scorer.encoder, [photo for photo in photos if photo is not None])
    prefix = scorer.encoder.card.text.prompt_prefix if scorer.preset.with_prefix else ""
    order = [place for places in by_image.values() for place in places]
    texts, _ = encode_texts_counted(scorer.encoder, [prefix + table.rows[rows[p]]["caption"] for p in order])
    owner = [number for number, places in enumerate(by_image.values()) for _ in places]
    return self_retrieval(images, texts, owner)
