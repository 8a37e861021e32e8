"""Regions of photos against the phrases that name them, and against phrases with one word changed (FG-CLIP)."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from cliplet.errors import InputError
from cliplet.evaluation.hard_negatives import KINDS, Kind, Words
from cliplet.evaluation.pairs import words_of
from cliplet.evaluation.phrases import edited_phrases, fair_edits
from cliplet.regions.phrases import NamedBox, plain, random_box
from cliplet.regions.store import RegionSettings
from cliplet.training import losses
from cliplet.training.dclip.inputs import Ints
from cliplet.training.objectives.base import Columns, Drawn, Objective, Rows, Setup, Step, of, under
from cliplet.training.objectives.phrases import find_phrases, placed, sample_phrases
from cliplet.training.pairs import PairSet
from cliplet.training.processes import say


@dataclass(frozen=True)
class RegionsConfig:
    """Boxes with phrases; the weights are FG-CLIP's."""

    boxes: int = 64
    """Boxes a step in each process, at most."""
    a_photo: int = 4
    """Boxes a photo, at most."""
    which: Literal["detected", "random"] = "detected"
    """``random``: boxes of the same sizes anywhere on the photo (a control)."""
    phrases: Literal["matched", "shuffled"] = "matched"
    """``shuffled``: another noun phrase of the same caption (a control)."""
    equal: Literal["positives", "negatives"] = "positives"
    """What equal phrases of a batch ("a man" twice) are for each other; negatives as released (a control)."""
    region_weight: float = 0.1
    """Of regions against phrases."""
    hard: int = 4
    """Edited phrases a box, at most; 0 to 10."""
    hard_weight: float = 0.5
    """Of the true phrase against edited ones."""
    kinds: tuple[Kind, ...] = KINDS
    """Words that are edited."""
    balanced: bool = False
    """Leave out so many edited phrases that those left are as often of commoner words as the true ones: else much of
    what is learnt is which words people write, whatever the box shows."""
    words: Words = "train"
    """Word pairs that are put in: those of the training half, all, or those of the test."""
    words_seed: int = 0
    """Of that split."""
    on: Literal["box", "photo"] = "box"
    """``photo``: edited phrases are put to the photo as a whole (a control)."""
    temperature: float = 0.05
    """Of both terms at the start; both are learnt, and at least 0.01."""
    least: int = 50
    """Pairs of box and phrase without which training does not begin."""

    def __post_init__(self) -> None:
        if not 0 <= self.hard <= 10:
            raise InputError(f"objectives.regions.hard={self.hard} must be in 0..10")
        if min(self.boxes, self.a_photo, self.least) < 1 or not self.temperature > 0:
            raise InputError("objectives.regions: boxes, a_photo, least and temperature must be above 0")
        if min(self.region_weight, self.hard_weight) < 0 or not (
            self.region_weight or (self.hard and self.hard_weight)
        ):
            raise InputError(
                "objectives.regions: give region_weight, or hard and hard_weight, a value above 0"
            )


class Regions(Objective):
    """Regions and phrases: see :func:`~cliplet.training.losses.region_phrases` and ``hard_phrases``.

    ``L = region_weight * L_region + hard_weight * L_hard``. Boxes come from the recipe's ``regions``, phrases from the
    captions (:mod:`cliplet.regions.phrases`), a box's vector from the image tower's map
    (:meth:`~cliplet.training.dclip.trainable.TrainableClip.region_features`). Photos are read whole, mirrored now and
    then where the views are.

    Raises:
        InputError: the image tower has no maps, the proposer no classes, or there are fewer pairs than ``least``.
    """

    help = (
        "Regions against the phrases that name them and edited ones (FG-CLIP); needs a detector in [regions]."
    )
    settings_type: ClassVar[type] = RegionsConfig

    def __init__(self, setup: Setup, settings: RegionsConfig) -> None:
        super().__init__(setup, settings)
        self.setup = setup
        _try_regions(setup)
        found = find_phrases(setup.train, setup.regions, setup.folder)
        named = _controlled(found.named, settings, setup.seed)
        spec = setup.learner.clip.encoder.card.image
        boxes, seen = placed(named, setup.train.photos, spec)
        named = [one for one, shown in zip(named, seen, strict=True) if shown]
        if len(named) < settings.least:
            raise InputError(
                f"objectives.regions: {found.told()}; {len(named):,} pairs of box and phrase can be used and "
                f"{settings.least:,} are asked for. Name a detector that knows what your photos show "
                "(regions.proposer, regions.score), lower objectives.regions.least, or leave the objective out"
            )
        self._boxes = boxes[seen]
        self._index(named, _edited(named, setup, settings))
        say(f"regions: {found.told()}; {len(named):,} pairs used, {int(self._there.sum()):,} edited phrases")
        start = float(np.log(1 / settings.temperature))
        self.region_scale, self.hard_scale = (
            nn.Parameter(torch.tensor(start)),
            nn.Parameter(torch.tensor(start)),
        )

    def _index(self, named: list[tuple[int, NamedBox]], edited: list[list[str]]) -> None:
        """Texts by number, and of each pair its photo, its phrase's number and those of its edited phrases."""
        number: dict[str, int] = {}
        for (_, one), texts in zip(named, edited, strict=True):
            for text in (one.phrase, *texts):
                number.setdefault(text, len(number))
        self.texts = self.setup.read(list(number))
        meaning: dict[str, int] = {}
        self._phrase = np.array([number[one.phrase] for _, one in named], dtype=np.int64)
        self._same = np.array(
            [meaning.setdefault(plain(one.phrase), len(meaning)) for _, one in named], dtype=np.int64
        )
        self._false = np.zeros((len(named), self.settings.hard), dtype=np.int64)
        self._there = np.zeros((len(named), self.settings.hard), dtype=bool)
        for row, texts in enumerate(edited):
            self._false[row, : len(texts)] = [number[t] for t in texts]
            self._there[row, : len(texts)] = True
        # of each photo its boxes, of each box its pairs
        self._pairs_of: dict[int, dict[tuple[float, ...], list[int]]] = {}
        for row, (photo, one) in enumerate(named):
            self._pairs_of.setdefault(photo, {}).setdefault(one.box, []).append(row)

    @classmethod
    def offers(cls, settings: RegionsConfig, train: PairSet, bare: PairSet, regions: RegionSettings) -> Rows:
        """What a sample of the training photos offers."""
        try:
            found = sample_phrases(train, regions)
        except InputError as error:
            return [("regions", f"nothing: {error}")]
        captioned = sum(len(own) > 0 for own in train.captions_of())
        expected = round(len(found.named) * captioned / max(1, found.photos))
        return [("regions", f"a sample: {found.told()}; about {expected:,} pairs of box and phrase in all")]

    def batch(self, drawn: Drawn) -> Columns:
        """Some boxes of the batch's photos, a phrase for each."""
        rng, settings, rows = drawn.rng, self.settings, []
        for photo in drawn.photos.tolist():
            boxes = list(self._pairs_of.get(photo, {}).values())
            some = rng.permutation(len(boxes))[: settings.a_photo]
            rows += [(photo, int(rng.choice(boxes[i]))) for i in some]
        if len(rows) > settings.boxes:
            rows = [rows[i] for i in np.sort(rng.permutation(len(rows))[: settings.boxes])]
        photos, owner = np.unique([p for p, _ in rows] or drawn.photos[:1], return_inverse=True)
        pairs = np.array([row for _, row in rows], dtype=np.int64)
        columns, boxes = self._photos(photos, owner[: len(pairs)], self._boxes[pairs], rng)
        texts, place = np.unique(
            np.concatenate([self._phrase[pairs], self._false[pairs].ravel(), [0]]), return_inverse=True
        )
        here = self._there[pairs]
        phrase, false = place[: len(pairs)], place[len(pairs) : -1].reshape(here.shape)
        return {
            **under("photos_", columns),
            **under("texts_", self.texts.columns(texts)),
            "owner": torch.from_numpy(owner[: len(pairs)].astype(np.int64)),
            "boxes": torch.from_numpy(boxes),
            "same": torch.from_numpy(self._same[pairs] if settings.equal == "positives" else pairs),
            "candidates": torch.from_numpy(np.concatenate([phrase[:, None], false], axis=1)),
            "there": torch.from_numpy(np.concatenate([np.ones((len(pairs), 1), dtype=bool), here], axis=1)),
        }

    def _photos(self, photos: Ints, owner: Ints, boxes: Any, rng: np.random.Generator) -> tuple[Columns, Any]:
        """The whole photos, some mirrored with their boxes."""
        columns = self.setup.photos.batch(photos, np.zeros_like(photos))
        augment = self.setup.augment
        if not augment.flip or augment.views == 1:
            return columns, boxes
        mirrored = rng.random(len(photos)) < 0.5
        turned = {
            name: torch.where(torch.from_numpy(mirrored)[:, None, None, None], one.flip(3), one)
            for name, one in columns.items()
        }
        other = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1)
        return turned, np.where(mirrored[owner][:, None], other, boxes).astype(np.float32)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The weighted sum, both terms, the number of boxes, and how often the true phrase was nearest."""
        c, settings = step.columns, self.settings
        photos, texts = of("photos_", c), step.texts(of("texts_", c))
        owner, there = c["owner"], c["there"]
        regions = self.setup.learner.encode_regions(photos, owner, c["boxes"], quick=True)
        candidates = texts[c["candidates"]]  # [N, 1 + hard, d]
        region = losses.region_phrases(regions, candidates[:, 0], c["same"], _scale(self.region_scale))
        loss = settings.region_weight * region
        found = {"region": region, "boxes": there[:, 0].sum().float()}
        if settings.hard and settings.hard_weight:
            looked = regions if settings.on == "box" else step.images(photos)[owner]
            hard = losses.hard_phrases(looked, candidates, there, _scale(self.hard_scale))
            loss = loss + settings.hard_weight * hard
            found |= {"hard": hard, "right": _right(looked, candidates, there)}
        return {"loss": loss, **found}


def _scale(value: Tensor) -> Tensor:
    """A learnt logit scale, at most 100 as CLIP's."""
    return value.exp().clamp(max=100.0)


@torch.no_grad()
def _right(regions: Tensor, candidates: Tensor, there: Tensor) -> Tensor:
    """Share of boxes with an edited phrase whose true phrase is nearest."""
    cosine = torch.einsum("nd,nkd->nk", regions, candidates).masked_fill(~there, -torch.inf)
    used = there[:, 1:].any(dim=1)
    right = (cosine[:, :1] > cosine[:, 1:]).all(dim=1)
    return (right & used).sum() / used.sum().clamp(min=1)


def _try_regions(setup: Setup) -> None:
    """Say before anything is computed that an image tower gives no regions."""
    one = np.zeros(1, dtype=np.int64)
    device = setup.learner.clip.device
    columns = {k: v.to(device) for k, v in setup.photos.batch(one, one).items()}
    with torch.no_grad():
        setup.learner.encode_regions(
            columns,
            torch.zeros(1, dtype=torch.long, device=device),
            torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=device),
        )


def _controlled(
    named: list[tuple[int, NamedBox]], settings: RegionsConfig, seed: int
) -> list[tuple[int, NamedBox]]:
    """The pairs as the controls have them."""
    rng = np.random.default_rng([seed, 11])
    if settings.phrases == "shuffled":
        named = [(row, replace(one, phrase=str(rng.choice(one.others)))) for row, one in named if one.others]
    if settings.which == "random":
        moved: dict[tuple[int, tuple[float, ...]], Any] = {}
        for row, one in named:
            if (row, one.box) not in moved:
                moved[row, one.box] = random_box(one.box, rng)
        named = [(row, replace(one, box=moved[row, one.box])) for row, one in named]
    return named


def _edited(named: list[tuple[int, NamedBox]], setup: Setup, settings: RegionsConfig) -> list[list[str]]:
    """The edited phrases of each pair, the same for all seeds: what is kept of texts is shared."""
    captions_of = [[setup.train.captions[c] for c in rows] for rows in setup.train.captions_of()]
    frequencies: Mapping[str, int] = Counter(w for own in captions_of for text in own for w in words_of(text))
    found = [
        edited_phrases(
            one.phrase, captions_of[row], settings.hard, 0, settings.kinds, settings.words, settings.words_seed,
            frequencies,
        )
        for row, one in named
    ]  # fmt: skip
    if settings.balanced:
        edits = [
            (one.phrase, text, kind, str(row))
            for (row, one), own in zip(named, found, strict=True)
            for text, kind in own
        ]
        stays = iter(fair_edits(edits, frequencies).tolist())
        found = [[edit for edit in own if next(stays)] for own in found]
    return [[text for text, _ in own] for own in found]
