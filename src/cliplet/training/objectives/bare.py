"""Objectives that learn from photos without captions: S-CLIP, and pseudo-captions."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cliplet.errors import InputError
from cliplet.regions.store import RegionSettings
from cliplet.training import losses
from cliplet.training.losses.semi import Method, Weights
from cliplet.training.objectives.base import Columns, Drawn, Objective, Rows, Setup, Step, of, under
from cliplet.training.objectives.keywords import keywords_of, named
from cliplet.training.objectives.pseudo import SoftCaptions, soft_captions
from cliplet.training.pairs import PairSet

Ints = np.ndarray[Any, np.dtype[np.int64]]


class BarePhotos:
    """The photos without captions, and their share of a batch.

    Args:
        setup: of the objective.
        name: the objective's, for messages.
        most: photos a batch; 0 for as many as there are pairs.

    Raises:
        InputError: there are none.
    """

    def __init__(self, setup: Setup, name: str, most: int) -> None:
        if not setup.bare.photos:
            raise InputError(
                f"objective {name} learns from photos without captions, and the recipe has none: name some in "
                f"[bare], or lower captioned= so that some training photos count as bare"
            )
        self.augment, self.most = setup.augment, most
        self.photos = setup.look(setup.bare.photos, setup.augment)

    def draw(self, drawn: Drawn) -> tuple[Ints, Columns]:
        """Some photos in random order, views drawn as those of training photos: rows, and columns under ``bare_``."""
        rng, count = drawn.rng, len(self.photos.photos)
        wanted = self.most or len(drawn.photos)
        rows = rng.choice(count, wanted, replace=wanted > count)
        columns = self.photos.batch(rows, rng.integers(self.augment.views, size=wanted))
        mirrored = torch.from_numpy(rng.random(wanted) < (0.5 if self.augment.flip else 0.0))
        if self.augment.views > 1 and "maps" in columns and columns["maps"].ndim == 4:
            maps = columns["maps"]
            columns["maps"] = torch.where(mirrored[:, None, None, None], maps.flip(3), maps)
        return rows, under("bare_", columns)


def _bare_row(bare: PairSet) -> tuple[str, str]:
    return ("photos without captions", f"{len(bare.photos):,}")


@dataclass(frozen=True)
class SclipSettings:
    """S-CLIP."""

    photos: int = 0
    """Photos without captions a batch; 0 for as many as there are pairs."""
    negatives: bool = True
    """They are further negatives of the captions. With both weights below at 0 they are nothing else: a control."""
    caption_labels: float = 1.0
    """Weight of the loss that gives them the captions of the batch's photos that look like them."""
    method: Method = "transport"
    """How they are likened: optimal transport, the nearest photo, a softmax, or the transport's rows shuffled, which is
    a control."""
    iterations: int = 10
    """Of the transport."""
    keyword_labels: float = 1.0
    """Weight of the loss that gives them a keyword of the caption of the most alike photo."""
    keywords: str | tuple[str, ...] = "found"
    """``found`` in the training captions, a file with one a line, or a list."""
    most: int = 100
    """Keywords to find at most."""
    template: str = "{}"
    """The text of a keyword, ``{}`` for it."""
    keyword_weights: Weights = "softmax"
    """How several keywords of a caption share a photo; ``released`` is the authors' code, with negative shares."""

    def __post_init__(self) -> None:
        if "{}" not in self.template:
            raise InputError(f"template={self.template!r} of sclip must have {{}} for the keyword")
        several = isinstance(self.keywords, list | tuple) and all(isinstance(k, str) for k in self.keywords)
        if not isinstance(self.keywords, str) and not several:
            raise InputError(
                f"keywords={self.keywords!r} of sclip must be 'found', a file with one a line, or a list of texts"
            )
        for name in ("photos", "caption_labels", "keyword_labels"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}={getattr(self, name)} of sclip must be at least 0")
        for name in ("iterations", "most"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} of sclip must be at least 1")


class Sclip(Objective):
    """S-CLIP: photos without captions learn from the captioned photos of their batch.

    ``L = L_con + a L_cap + b L_key``: :func:`~cliplet.training.losses.bare_contrastive`,
    :func:`~cliplet.training.losses.caption_labels` and :func:`~cliplet.training.losses.keyword_labels`. The logit scale
    is 1 / ``student.temperature``. A step takes the same number of pairs with and without bare photos, so arms of the
    same epochs have the same steps.
    """

    help = (
        "S-CLIP: photos without captions learn from the captions and keywords of those that look like them."
    )
    settings_type = SclipSettings
    contrastive = True
    settings: SclipSettings

    def __init__(self, setup: Setup, settings: SclipSettings) -> None:
        super().__init__(setup, settings)
        self.bare = BarePhotos(setup, "sclip", settings.photos)
        captions = setup.train.captions
        self.group = np.unique([c.casefold().strip() for c in captions], return_inverse=True)[1].reshape(-1)
        self.keywords, self.names = None, np.zeros((len(captions), 0), dtype=bool)
        if settings.keyword_labels:
            found = keywords_of(settings.keywords, captions, setup.train.photo_of, settings.most)
            self.names = named(captions, found)
            if not self.names.any():
                raise InputError(
                    f"no training caption names a keyword of sclip ({', '.join(found[:5])} ...): give others, or "
                    f"objectives.sclip.keyword_labels=0"
                )
            self.keywords = setup.read([settings.template.replace("{}", k) for k in found])
            self.keywords.columns(
                np.arange(1)
            )  # what is kept of them is computed with the base model's weights

    @classmethod
    def offers(cls, settings: SclipSettings, train: PairSet, bare: PairSet, regions: RegionSettings) -> Rows:
        """Bare photos, keywords, and how many captions name one."""
        rows = [_bare_row(bare)]
        if settings.keyword_labels:
            found = keywords_of(settings.keywords, train.captions, train.photo_of, settings.most)
            share = named(train.captions, found).any(axis=1).mean() if train.captions else 0.0
            some = ", ".join(found[:10]) + (", ..." if len(found) > 10 else "")
            rows += [("keywords", f"{len(found)}: {some}"), ("captions that name one", f"{share:.0%}")]
        return rows

    def batch(self, drawn: Drawn) -> Columns:
        """Bare photos; of the pairs, which texts are equal and which keywords they name; the keywords."""
        _, columns = self.bare.draw(drawn)
        columns["group"] = torch.from_numpy(self.group[drawn.captions])
        if self.keywords is not None:
            columns["candidates"] = torch.from_numpy(self.names[drawn.captions])
            columns |= under("keyword_", self.keywords.columns(np.arange(len(self.keywords.captions))))
        return columns

    def forward(self, step: Step) -> dict[str, Tensor]:
        """``loss``, and its parts ``pairs``, ``captions`` and ``keywords``."""
        s, columns = self.settings, step.columns
        bare = step.images(of("bare_", columns))
        group = columns["group"]
        terms = {
            "pairs": losses.bare_contrastive(
                step.image, step.text, bare if s.negatives else bare[:0], step.scale, group
            )
        }
        loss = terms["pairs"]
        if s.caption_labels:
            terms["captions"] = losses.caption_labels(
                bare, step.image, step.text, step.scale, s.method, group, s.iterations
            )
            loss = loss + s.caption_labels * terms["captions"]
        if s.keyword_labels:
            keywords = step.texts(of("keyword_", columns))
            terms["keywords"] = losses.keyword_labels(
                bare, step.image, keywords, columns["candidates"], step.scale, s.keyword_weights, s.method,
                s.iterations,
            )  # fmt: skip
            loss = loss + s.keyword_labels * terms["keywords"]
        return {"loss": loss, **{k: v.detach() for k, v in terms.items()}}


@dataclass(frozen=True)
class PseudoSettings(SoftCaptions):
    """Pseudo-captions."""

    photos: int = 0
    """Photos without captions a batch; 0 for as many as there are pairs."""
    loss: Literal["cosine", "contrastive", "soft"] = "contrastive"
    """How a photo learns its pseudo-caption: the cosine, the contrastive loss among the bare photos of the batch, or
    the latter with the pseudo-captions' own likeness as labels."""
    shuffled: bool = False
    """Give each photo the pseudo-caption of another, as a control."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.photos < 0:
            raise InputError(f"photos={self.photos} of pseudo must be at least 0")


class Pseudo(Objective):
    """Photos without captions learn a text embedding that is made for them once, from all captioned photos.

    The pseudo-captions are of the base model's text tower and stay as they are; they fit best where no more of it than
    the last projection learns.
    """

    help = (
        "Pseudo-captions: photos without captions learn a text embedding that the captioned photos give them."
    )
    settings_type = PseudoSettings
    settings: PseudoSettings

    def __init__(self, setup: Setup, settings: PseudoSettings) -> None:
        super().__init__(setup, settings)
        self.bare = BarePhotos(setup, "pseudo", settings.photos)
        self.target = soft_captions(setup, self.bare.photos, settings)
        if settings.shuffled:
            self.target = self.target[np.random.default_rng([setup.seed, 11]).permutation(len(self.target))]

    @classmethod
    def offers(cls, settings: PseudoSettings, train: PairSet, bare: PairSet, regions: RegionSettings) -> Rows:
        """Bare photos, and what their pseudo-captions are made of."""
        captioned = sum(len(rows) > 0 for rows in train.captions_of())
        return [
            _bare_row(bare),
            (
                "pseudo-captions",
                f"{' and '.join(settings.sources)}, from {captioned:,} captioned photos"
                + "".join(f", seen by {name} too" for name in settings.features),
            ),
        ]

    def batch(self, drawn: Drawn) -> Columns:
        """Bare photos and their targets."""
        rows, columns = self.bare.draw(drawn)
        return {**columns, "target": torch.from_numpy(self.target[rows]), "rows": torch.from_numpy(rows)}

    def forward(self, step: Step) -> dict[str, Tensor]:
        """``loss``, and the mean ``cosine`` of photos and their pseudo-captions."""
        bare, target = step.images(of("bare_", step.columns)), step.columns["target"]
        if self.settings.loss == "cosine":
            loss = losses.cosine(bare, target)
        elif self.settings.loss == "contrastive":
            # a photo that was drawn twice, in another process perhaps, is no negative of itself
            loss = losses.multi_text(bare, target[:, None], step.scale, step.columns["rows"][:, None])
        else:
            loss = losses.affinity_mimicking(bare, target, target, target, step.scale)
        return {"loss": loss, "cosine": (bare * target).sum(dim=1).mean().detach()}
