"""Quartets: two pictures and two texts, text i for picture i; does each text find its own picture of the two?

The score counts a quartet only if *both* texts do. Pictures that look alike to a model differ for it mostly in how near
they are to any text at all; a model whose scores are mostly this preference gets far less than the 25 % of chance,
without seeing less. So beside every score stands the corrected one, in which each picture's mean cosine to a bank of
neutral texts is taken from its cosines: a method that only removes the preference gains nothing there. The bank should
be texts of the kind that is scored, such as captions of other photos for photos with captions: texts of another kind
(:data:`NEUTRAL`) put a preference in that was not there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.encoders.base import Embeddings
from cliplet.errors import InputError
from cliplet.evaluation.hard_negatives import Kind, mentioned
from cliplet.evaluation.pairs import Quartet
from cliplet.statistics.kendall import Floats

NEUTRAL = tuple(
    f"{what} of {thing}"
    for what in ("a photo", "a picture", "an image", "a view")
    for thing in ("something", "a thing", "a scene", "a place", "objects", "the world")
)
"""Texts that say nothing of what a picture shows, for a bank where no texts of the kind that is scored are at hand."""
BOTH_RIGHT, CORRECTED = "both right", "both right, bias-corrected"


def both_right(images: NDArray[Any], texts: NDArray[Any], bank: NDArray[Any] | None = None) -> Floats:
    """Whether both texts of each quartet find their own picture: 1 or 0 ``[n]``; a tie is not found.

    Args:
        images: ``[n, 2, d]``, unit norm.
        texts: ``[n, 2, d]``, unit norm.
        bank: embeddings of texts about no picture in particular ``[m, d]``, best those of other photos; each picture's
            mean cosine to them is taken from its cosines.
    """
    scores = np.einsum("ntd,nid->nti", texts, images, dtype=np.float64)  # [n, text, picture]
    if bank is not None:
        neutral = np.asarray(bank, dtype=np.float64).mean(
            axis=0
        )  # [d]: the mean cosine is the cosine to the mean
        scores = scores - (np.asarray(images, dtype=np.float64) @ neutral)[:, None, :]
    found: Floats = ((scores[:, 0, 0] > scores[:, 0, 1]) & (scores[:, 1, 1] > scores[:, 1, 0])).astype(
        np.float64
    )
    return found


def quartet_inputs(quartets: Sequence[Quartet]) -> tuple[list[str], list[str]]:
    """The distinct picture names and the distinct texts of some quartets, to embed each once."""
    names = dict.fromkeys(name for quartet in quartets for name in quartet.images)
    texts = dict.fromkeys(text for quartet in quartets for text in quartet.captions)
    return list(names), list(texts)


def quartet_columns(
    name: str,
    quartets: Sequence[Quartet],
    images: Mapping[str, Embeddings],
    texts: Mapping[str, Embeddings],
    bank: Embeddings,
) -> dict[str, NDArray[Any]]:
    """Per-quartet values of a model, as :mod:`~cliplet.evaluation.comparison` compares them.

    Args:
        name: of the set.
        quartets: those to score.
        images: embedding of each picture by its name ``[d]``, unit norm; a quartet without one is left out.
        texts: embedding of each text ``[d]``, unit norm.
        bank: as :func:`both_right` takes it ``[m, d]``.

    Returns:
        ``NAME|CATEGORY|both right`` and ``NAME|CATEGORY|both right, bias-corrected`` of each category and of ``all``,
        and ``NAME|CATEGORY|photo``, a number of the first picture, which is resampled.

    Raises:
        InputError: no quartet is left.
    """
    there = [q for q in quartets if all(n in images for n in q.images)]
    if not there:
        raise InputError(f"{name}: no quartet is left to score")
    seen = np.stack([[images[n] for n in q.images] for q in there])
    said = np.stack([[texts[t] for t in q.captions] for q in there])
    values = {BOTH_RIGHT: both_right(seen, said), CORRECTED: both_right(seen, said, bank)}
    number = {n: i for i, n in enumerate(dict.fromkeys(q.images[0] for q in there))}
    photo = np.array([number[q.images[0]] for q in there], dtype=np.int64)
    categories = np.array([q.category for q in there])
    found: dict[str, NDArray[Any]] = {}
    for category in ["all", *sorted(set(categories.tolist()) - {""})]:
        chosen = np.ones(len(there), dtype=bool) if category == "all" else categories == category
        for metric, wins in values.items():
            found[f"{name}|{category}|{metric}"] = wins[chosen].astype(np.float32)
        found[f"{name}|{category}|photo"] = photo[chosen]
    return found


def natural_quartets(
    names: Sequence[str],
    captions: Sequence[str],
    photo_of: NDArray[np.int64],
    images: Embeddings,
    kinds: Sequence[Kind] = ("colour", "number"),
    near: float = 0.005,
    most: int = 300,
    uses: int = 3,
    seed: int = 0,
) -> list[Quartet]:
    """Pairs of photos that a model finds alike and whose captions name other colours or numbers.

    Photo i's captions name a colour (a number) that none of photo j's does, and the other way round; at least two of
    them, where there are several, so that it is plain to see. One caption that names it stands for each photo. The
    kinds' words are those of :mod:`~cliplet.evaluation.hard_negatives`.

    Args:
        names: of the photos.
        captions: of all photos.
        photo_of: photo of each caption ``[captions]``.
        images: the photos' embeddings ``[photos, d]``, unit norm, of the one model that all are compared on: mostly the
            model before tuning, for which the quartets are then hard by choice.
        kinds: which words differ.
        near: share of the pairs of photos, those of largest cosine.
        most: quartets of each kind.
        uses: quartets of a kind that a photo may be in.
        seed: of the choice.
    """
    if not 0 < near <= 1:
        raise InputError(f"near={near} must be a share in 0..1 of the pairs of photos")
    own: list[list[str]] = [[] for _ in names]
    for caption, photo in zip(captions, photo_of.tolist(), strict=True):
        if photo >= 0:
            own[photo].append(caption)
    first, second = np.triu_indices(len(names), 1)
    cosines = (images @ images.T)[first, second]
    count = max(1, round(near * len(cosines))) if len(cosines) else 0
    nearest = np.sort(np.argsort(-cosines, kind="stable")[:count])
    rng, found = np.random.default_rng(seed), []
    for kind in kinds:
        said = [mentioned(some, kind) for some in own]
        plain = [_plain(some, kind) for some in own]
        used, kept = np.zeros(len(names), dtype=np.int64), 0
        for at in rng.permutation(nearest):
            i, j = int(first[at]), int(second[at])
            if kept == most or max(used[i], used[j]) >= uses:
                continue
            texts = [_naming(own[a], kind, plain[a] - said[b], rng) for a, b in ((i, j), (j, i))]
            if texts[0] is None or texts[1] is None:
                continue
            found.append(Quartet((names[i], names[j]), (texts[0], texts[1]), kind))
            used[[i, j]] += 1
            kept += 1
    return found


def _plain(captions: Sequence[str], kind: Kind) -> set[int]:
    """The things of a kind that at least two captions mention, or the only one."""
    counts: dict[int, int] = {}
    for caption in captions:
        for thing in mentioned([caption], kind):
            counts[thing] = counts.get(thing, 0) + 1
    return {thing for thing, count in counts.items() if count >= min(2, len(captions))}


def _naming(captions: Sequence[str], kind: Kind, things: set[int], rng: np.random.Generator) -> str | None:
    """One of the captions that name one of the things; None without any."""
    fitting = [caption for caption in captions if mentioned([caption], kind) & things]
    return fitting[int(rng.integers(len(fitting)))] if fitting else None
