"""Image-text retrieval: how often the right caption, or the right photo, comes first.

Definitions, for one query with its set of positives (an image's captions; a caption's image):

- ``R@K``: 1 if at least one positive is among the first K items, else 0 (as CLIP-like papers and CLIP_benchmark do).
- ``recall_all@K``: share of the query's positives among the first K (trec_eval's recall; another number when an
  image has several captions).
- ``precision@K``: positives among the first K, divided by K (trec_eval's P).
- ``NDCG@K``: normalised discounted cumulative gain of the first K with binary relevance: the sum of 1/log2(rank + 1)
  over the positives there, divided by what it is when they come first (Jarvelin and Kekalainen 2002; trec_eval's
  ndcg_cut). 1 where all positives that fit stand first.
- ``median rank``, ``MRR``: rank of the best positive, and the mean of 1/rank.
- ``mAP``: mean over all positives of (positives up to here) / rank. ``mAP@R``: only the first R ranks count, R being
  the number of positives (Musgrave et al. 2020, arXiv 2003.08505).

All are means over queries that have a positive; a tie with a wrong item counts against the model unless asked
otherwise. Memory is the embeddings plus one block of scores, whatever the size of the set.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cliplet.errors import InputError
from cliplet.evaluation.ranking import (
    BLOCK_BYTES,
    Positives,
    RankingMetrics,
    Ties,
    positive_ranks,
    ranking_metrics,
    unit_rows,
)
from cliplet.statistics.kendall import Ints
from cliplet.statistics.resampling import Interval, bootstrap_means

DIRECTIONS = ("image-to-text", "text-to-image")


@dataclass(frozen=True)
class RetrievalProtocol:
    """Every choice of the retrieval evaluation."""

    ks: tuple[int, ...] = (1, 5, 10)
    """Cut-offs of R@K."""
    ties: Ties = "pessimistic"
    """Whether a wrong item with an equal score ranks before the right one (pessimistic) or after (optimistic)."""
    folds: int = 1
    """Split the images, in file order, into this many equal parts and average over them (5 for COCO's 5 x 1k)."""
    resamples: int = 1000
    """Bootstrap resamples (by image) for the intervals; 0 for none."""
    seed: int = 0
    """Seed of the bootstrap."""
    block_bytes: int = BLOCK_BYTES
    """Memory for scores held at once."""


@dataclass(frozen=True)
class Direction:
    """Result of one direction."""

    name: str
    """``image-to-text`` or ``text-to-image``."""
    values: dict[str, Interval]
    """Metric name to value (shares in [0, 1]; ``median rank`` in ranks)."""
    recall_curve: list[tuple[int, float]]
    """(K, R@K) for K growing to the number of items, for plots."""
    folds: list[RankingMetrics] = field(repr=False)
    """Per-query values of each fold."""


def _pairs(caption_image: ArrayLike, n_texts: int) -> tuple[Ints, Ints]:
    """(image numbers, text numbers) of the matching pairs, from a [texts] column or a [pairs, 2] table."""
    table = np.asarray(caption_image, dtype=np.int64)
    if table.ndim == 1 and len(table) == n_texts:
        return table, np.arange(n_texts)
    if table.ndim == 2 and table.shape[1] == 2:
        return table[:, 0], table[:, 1]
    raise InputError(
        f"caption_image must give one image number for each of the {n_texts} captions, or a table of "
        f"(image, caption) pairs; got shape {table.shape}"
    )


def plain_words(caption: str) -> str:
    """What equal captions have in common: the words in small letters, no full stops or spaces around them."""
    return " ".join(caption.lower().split()).strip(" .")


def equal_caption_pairs(captions: Sequence[str], caption_image: ArrayLike) -> Ints:
    """Which captions belong to which images where captions of equal words do not tell their images apart.

    In some collections (aerial photos, products) many photos have the same caption. A caption then belongs to every
    image that has it, as ``caption_image`` of :func:`evaluate_retrieval` takes it.

    Args:
        captions: ``[m]``. Capitals, and full stops and spaces around them, do not matter.
        caption_image: image of each ``[m]``.

    Returns:
        ``[pairs, 2]``, each pair (image, caption) once, by caption.
    """
    images = np.asarray(caption_image, dtype=np.int64)
    words = np.unique([plain_words(c) for c in captions], return_inverse=True)[1].reshape(-1)
    having = np.unique(np.stack([words, images], axis=1), axis=0)  # (words, image), by words
    first, last = (np.searchsorted(having[:, 0], words, side) for side in ("left", "right"))
    caption = np.repeat(np.arange(len(words)), last - first)
    place = np.arange(len(caption)) - np.repeat(np.cumsum(last - first) - last, last - first)
    return np.stack([having[place, 1], caption], axis=1)


def _check_pairs(pair_images: Ints, pair_texts: Ints, n_images: int, n_texts: int) -> None:
    for what, numbers, size in (("image", pair_images, n_images), ("caption", pair_texts, n_texts)):
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= size):
            raise InputError(
                f"a pair names {what} {numbers.max()}, but there are only {size} (numbered from 0)"
            )


def _fold_of_images(n_images: int, folds: int) -> Ints:
    if folds < 1 or n_images // folds < 1:
        raise InputError(f"cannot split {n_images} images into {folds} folds")
    fold = np.arange(n_images) // (n_images // folds)
    return np.where(fold < folds, fold, -1)  # a remainder that fills no fold is left out


def _recall_curve(folds: Sequence[RankingMetrics], n_items: int) -> list[tuple[int, float]]:
    ks = np.unique(np.round(np.geomspace(1, max(n_items, 1), 40)).astype(int))
    return [(int(k), float(np.mean([(f.best_rank <= k).mean() for f in folds]))) for k in ks]


def _summary(
    name: str, folds: list[RankingMetrics], groups: list[Ints], n_items: int, protocol: RetrievalProtocol
) -> Direction:
    columns = [f.columns() for f in folds]
    names = list(columns[0])
    # Folds have equally many images, so the mean of folds is resampled as one table weighted by fold.
    table = np.concatenate(
        [
            np.stack([c[n] / len(f.queries) for n in names], axis=1)
            for c, f in zip(columns, folds, strict=True)
        ]
    )
    table *= len(table) / len(folds)
    intervals = bootstrap_means(
        table, np.concatenate(groups), resamples=protocol.resamples, seed=protocol.seed
    )
    values = dict(zip(names, intervals, strict=True))
    median = float(np.mean([np.median(f.best_rank) for f in folds]))
    values["median rank"] = Interval(median, float("nan"), float("nan"), len(table))
    return Direction(name, values, _recall_curve(folds, n_items), folds)


def evaluate_retrieval(
    images: ArrayLike, texts: ArrayLike, caption_image: ArrayLike, protocol: RetrievalProtocol | None = None
) -> tuple[Direction, Direction]:
    """Image-to-text and text-to-image retrieval from embeddings.

    ``images`` [n, d] and ``texts`` [m, d] (normalised here if they are not), ``caption_image`` [m]: the number of the
    image that each caption describes, or a [pairs, 2] table of (image, caption) when a caption has several.
    """
    protocol = protocol or RetrievalProtocol()
    x, y = unit_rows(images, "images"), unit_rows(texts, "texts")
    if x.shape[1] != y.shape[1]:
        raise InputError(f"image embeddings have {x.shape[1]} dimensions and text embeddings {y.shape[1]}")
    pair_images, pair_texts = _pairs(caption_image, len(y))
    _check_pairs(pair_images, pair_texts, len(x), len(y))
    fold_of = _fold_of_images(len(x), protocol.folds)
    found: dict[str, tuple[list[RankingMetrics], list[Ints]]] = {d: ([], []) for d in DIRECTIONS}
    items = dict.fromkeys(DIRECTIONS, 0)
    for fold in range(protocol.folds):
        if protocol.folds == 1:
            image_ids, text_ids, in_fold = np.arange(len(x)), np.arange(len(y)), slice(None)
            xs, ys = x, y
        else:
            image_ids = np.flatnonzero(fold_of == fold)
            in_fold = fold_of[pair_images] == fold
            text_ids = np.unique(pair_texts[in_fold])
            xs, ys = x[image_ids], y[text_ids]
        i = np.searchsorted(image_ids, pair_images[in_fold])
        t = np.searchsorted(text_ids, pair_texts[in_fold])
        for name, queries, targets, q, p in ((DIRECTIONS[0], xs, ys, i, t), (DIRECTIONS[1], ys, xs, t, i)):
            positives = Positives.from_pairs(q, p, len(queries))
            ranks = positive_ranks(queries, targets, positives, protocol.ties, protocol.block_bytes)
            metrics = ranking_metrics(ranks, positives, protocol.ks)
            own_image = (
                metrics.queries
                if name == DIRECTIONS[0]
                else positives.items[positives.starts[metrics.queries]]
            )
            found[name][0].append(metrics)
            found[name][1].append(image_ids[own_image])
            items[name] = len(targets)
    first, second = (_summary(d, *found[d], items[d], protocol) for d in DIRECTIONS)
    return first, second


def recall_at_k(
    images: ArrayLike, texts: ArrayLike, caption_image: ArrayLike, ks: tuple[int, ...] = (1, 5, 10)
) -> dict[str, float]:
    """R@K of both directions in one dictionary, ``{"image-to-text R@1": ...}``, in [0, 1]; for use while training."""
    results = evaluate_retrieval(images, texts, caption_image, RetrievalProtocol(ks=ks, resamples=0))
    return {f"{d.name} R@{k}": d.values[f"R@{k}"].value for d in results for k in ks}


def load_embeddings(path: str, key: str | None = None) -> NDArray:
    """Embeddings from ``.npy`` (memory-mapped) or one array of an ``.npz`` (``key``, or its only array)."""
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as .npy or .npz ({error})") from None
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        names = list(loaded.files)
        if key is None and len(names) == 1:
            key = names[0]
        if key not in names:
            raise InputError(f"{path}: holds {', '.join(names)}; say which array to use (wanted {key!r})")
        return loaded[key]
