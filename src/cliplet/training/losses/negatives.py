"""Contrastive losses with false captions, and false photos, beside the batch's pairs.

All compare within the batch of all processes. A row without a false caption or photo is masked: it is nobody's
candidate and asks nothing. Texts that are equal are no negatives of each other where the caller numbers them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cliplet.training.losses.gather import gather
from cliplet.training.losses.regulator import cosines


@dataclass(frozen=True)
class _Side:
    """Photos or texts of the whole batch."""

    rows: Tensor
    """``[N, d]``."""
    ids: Tensor
    """Number of the text that belongs with each ``[N]``."""
    there: Tensor
    """Which rows are there ``[N]``."""

    def joined(self, other: "_Side") -> "_Side":
        """The rows of both."""
        return _Side(*(torch.cat([getattr(s, n) for s in (self, other)]) for n in ("rows", "ids", "there")))


def _side(rows: Tensor, ids: Tensor | None, there: Tensor | None, first: int) -> _Side:
    """Gathered; without ``ids`` all texts differ and are numbered from ``first`` downwards."""
    rows = gather(rows)
    count = torch.arange(len(rows), device=rows.device)
    return _Side(
        rows,
        first - count if ids is None else gather(ids),
        torch.ones_like(count, dtype=torch.bool) if there is None else gather(there.long()).bool(),
    )


def _ask(asked: _Side, candidates: Sequence[_Side], scale: Tensor | float) -> Tensor:
    """Cross-entropy of each row that is there to the row of its number among the first candidates ``[N]``, else 0."""
    logits = torch.cat([scale * cosines(asked.rows, c.rows) for c in candidates], dim=1)
    allowed = torch.cat([c.there & (asked.ids[:, None] != c.ids) for c in candidates], dim=1)
    own = torch.arange(len(logits), device=logits.device)
    allowed[own, own] = True
    found = F.cross_entropy(logits.masked_fill(~allowed, -torch.inf), own, reduction="none")
    return torch.where(asked.there, found, 0.0)


def _negclip(
    image: _Side, text: _Side, false: _Side, others: Sequence[_Side], scale: Tensor | float
) -> Tensor:
    """NegCLIP of rows that may be missing; ``others`` are further candidates for the texts."""
    forth, back = _ask(image, [text, false], scale), _ask(text, [image, *others], scale)
    return (forth + back).mean() / 2


def negclip(
    image: Tensor,
    text: Tensor,
    false_text: Tensor,
    scale: Tensor | float,
    has_text: Tensor | None = None,
    text_ids: Tensor | None = None,
    false_ids: Tensor | None = None,
) -> Tensor:
    """Contrastive cross-entropy in which photos must also tell their captions from false ones.

    Formula: ``L = 1/2 [CE(scale * [X Y^T | X Y'^T], i) + CE(scale * Y X^T, i)]`` with X, Y, Y' the unit embeddings of
    photos, captions and false captions: the photos choose among twice as many captions, the captions as in CLIP.

    ========== ========= ==============================================================
    input      shape     what
    ========== ========= ==============================================================
    image      ``[B, d]`` row i belongs with text i, any length
    text       ``[B, d]``
    false_text ``[B, d]`` a false caption of photo i; of rows without one anything
    scale      scalar    logit scale, 1 / temperature
    has_text   ``[B]``   which rows have a false caption; all when left out
    text_ids   ``[B]``   whole numbers, equal for equal texts: no negatives of each other
    false_ids  ``[B]``   the same of the false captions, in one numbering
    ========== ========= ==============================================================

    Relation: without false captions :func:`~cliplet.training.losses.contrastive`. With photos and texts exchanged it
    has false photos as negatives of the captions. :func:`triplet` adds what false photos ask.

    Source: NegCLIP (arXiv 2210.01936), which also fills the batch with near photos; this form as in TripletCLIP (arXiv
    2411.02545).

    Example:
        >>> x, other = torch.eye(4)[:2], torch.eye(4)[2:]
        >>> round(negclip(x, x, other, 1.0).item(), 4)  # log(e + 3) - 1 and log(1 + e) - 1, halved
        0.5285
    """
    x, y = _side(image, text_ids, None, -1), _side(text, text_ids, None, -1)
    false = _side(false_text, false_ids, has_text, -1 - len(x.rows))
    return _negclip(x, y, false, [], scale)


def triplet(
    image: Tensor,
    text: Tensor,
    false_image: Tensor,
    false_text: Tensor,
    scale: Tensor | float,
    symmetric: bool = False,
    has_image: Tensor | None = None,
    has_text: Tensor | None = None,
    text_ids: Tensor | None = None,
    false_ids: Tensor | None = None,
) -> Tensor:
    """NegCLIP of the pairs, and of the false photos with their false captions.

    Formula: ``L = NegCLIP(X, Y, Y') + NegCLIP(X', Y', Y)`` with X', Y' the false photos and captions. As published, no
    caption must reject the false photo of its twin; ``symmetric`` lets it:
    ``CE(scale * [Y X^T | Y X'^T], i)`` and ``CE(scale * [Y' X'^T | Y' X^T], i)`` replace the texts' halves.

    =========== ========= ==============================================================
    input       shape     what
    =========== ========= ==============================================================
    image       ``[B, d]`` row i belongs with text i, any length
    text        ``[B, d]``
    false_image ``[B, d]`` a photo that shows what false caption i says; else anything
    false_text  ``[B, d]``
    scale       scalar    logit scale, 1 / temperature
    has_image   ``[B]``   which rows have a false photo, and its caption; all when left out
    has_text    ``[B]``   which rows have a false caption; all when left out
    text_ids    ``[B]``   whole numbers, equal for equal texts: no negatives of each other
    false_ids   ``[B]``   the same of the false captions, in one numbering
    =========== ========= ==============================================================

    The second NegCLIP is divided by B too, so that a false pair weighs what a true one does and rows without a false
    photo add nothing to it; published batches have one in every row.

    Relation: :func:`negclip` where no row has a false photo. :func:`union` is its control.

    Source: TripletCLIP (arXiv 2411.02545) and its released ``loss.py``.

    Example:
        >>> x, other = torch.eye(4)[:2], torch.eye(4)[2:]
        >>> round(triplet(x, x, other, other, 1.0).item(), 4)  # log(e + 3) - 1 and log(1 + e) - 1, twice halved
        1.0569
        >>> round(triplet(x, x, other, other, 1.0, symmetric=True).item(), 4)  # log(e + 3) - 1, twice
        1.4873
    """
    x, y = _side(image, text_ids, None, -1), _side(text, text_ids, None, -1)
    first = -1 - len(x.rows)
    if has_text is not None and has_image is not None:
        has_text = has_text | has_image
    false_x, false_y = (
        _side(false_image, false_ids, has_image, first),
        _side(false_text, false_ids, has_text, first),
    )
    asked = _Side(false_y.rows, false_y.ids, false_x.there)
    return _negclip(x, y, false_y, [false_x] if symmetric else [], scale) + (
        (
            _ask(false_x, [false_y, y], scale) + _ask(asked, [false_x, *([x] if symmetric else [])], scale)
        ).mean()
        / 2
    )


def union(
    image: Tensor,
    text: Tensor,
    more_image: Tensor,
    more_text: Tensor,
    scale: Tensor | float,
    has_more: Tensor | None = None,
    text_ids: Tensor | None = None,
    more_ids: Tensor | None = None,
) -> Tensor:
    """Contrastive cross-entropy over the batch's pairs and further ones together, all alike.

    Formula: ``L = 1/2 [CE(scale * [X; M] [Y; N]^T, i) + CE(scale * [Y; N] [X; M]^T, i)]``, mean over the pairs that are
    there, with M, N the further photos and their texts.

    ========== ========= ==============================================================
    input      shape     what
    ========== ========= ==============================================================
    image      ``[B, d]`` row i belongs with text i, any length
    text       ``[B, d]``
    more_image ``[B, d]`` further pairs; of rows without one anything
    more_text  ``[B, d]``
    scale      scalar    logit scale, 1 / temperature
    has_more   ``[B]``   which rows have a further pair; all when left out
    text_ids   ``[B]``   whole numbers, equal for equal texts: no negatives of each other
    more_ids   ``[B]``   the same of the further texts, in one numbering
    ========== ========= ==============================================================

    Relation: what :func:`triplet` must beat: the same false pairs, as pairs like all others. Where they stand in the
    batches of their twins, they are the twins' negatives here too; draw them beside other photos.

    Source: the control that TripletCLIP (arXiv 2411.02545) leaves out.

    Example:
        >>> x = torch.eye(4)
        >>> round(union(x[:2], x[:2], x[2:], x[2:], 1.0).item(), 4)  # log(e + 3) - 1
        0.7437
    """
    x, y = _side(image, text_ids, None, -1), _side(text, text_ids, None, -1)
    first = -1 - len(x.rows)
    x = x.joined(_side(more_image, more_ids, has_more, first))
    y = y.joined(_side(more_text, more_ids, has_more, first))
    return (_ask(x, [y], scale) + _ask(y, [x], scale)).sum() / (2 * x.there.sum())
