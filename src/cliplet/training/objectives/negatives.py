"""NegCLIP and TripletCLIP: false captions, and false photos, as negatives beside the batch's pairs."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cliplet.errors import InputError
from cliplet.regions.store import RegionSettings
from cliplet.training.losses.negatives import negclip, triplet, union
from cliplet.training.objectives.base import Columns, Drawn, Ints, Objective, Rows, Setup, Step, of, under
from cliplet.training.objectives.false_captions import (
    FalseCaption,
    FalseCaptionSettings,
    Source,
    counts_by_kind,
    false_captions,
    kept_false_captions,
    random_captions,
)
from cliplet.training.pairs import PairSet
from cliplet.training.processes import first_alone, say

SAMPLE = 1000
"""False captions that are looked at to say how many have a photo."""
_WORD_OF = {"recolour": "colour", "paste": "object", "count": "number"}
NONE = -1
"""A row of the batch without a false caption or photo."""


@dataclass(frozen=True)
class NegclipSettings(FalseCaptionSettings):
    """Settings of ``negclip``."""

    source: Source = "words"
    """``random`` puts a caption of another photo in the place of each false caption: the control that has as many
    negatives, but no hard ones."""


@dataclass(frozen=True)
class TripletSettings(FalseCaptionSettings):
    """Settings of ``triplet``."""

    photos: tuple[str, ...] = ("recolour", "paste", "count", "retrieve")
    """Kinds of false photos; ``mirror`` is for captions with left and right, and needs ``augment.flip = false``."""
    symmetric: bool = False
    """Captions must also reject the false photo of their false twin, and false captions the true photo."""
    only_photos: bool = False
    """False photos as negatives of the captions, and no false captions: what the photos alone give."""
    positives: bool = False
    """The control: false photos with their captions join as plain pairs, as many a batch, beside other photos than
    their own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.photos:
            raise InputError("photos is empty: give kinds of false photos, or use the objective negclip")
        if self.symmetric + self.only_photos + self.positives > 1:
            raise InputError("symmetric, only_photos and positives exclude each other: set one of them")


class FalseTexts:
    """False captions of the training captions, ready for batches.

    Args:
        setup: of the objective.
        false: the false captions.
    """

    def __init__(self, setup: Setup, false: Sequence[FalseCaption]) -> None:
        train = setup.train
        place: dict[str, int] = {}
        for text in (*train.captions, *(one.text for one in false)):
            place.setdefault(_plain(text), len(place))
        self.true_ids = np.array([place[_plain(text)] for text in train.captions], dtype=np.int64)
        self.false_ids = np.array([place[_plain(one.text)] for one in false], dtype=np.int64)
        texts = {text: row for row, text in enumerate(dict.fromkeys(one.text for one in false))}
        self.row = np.array([texts[one.text] for one in false], dtype=np.int64)
        self.read = setup.read(list(texts))
        if setup.learner.text_mode == "frozen":
            _ = self.read.base  # while the model has the base model's weights
        elif setup.learner.text_mode == "head":
            _ = self.read.states
        self.of: dict[int, list[int]] = defaultdict(list)
        """False captions of each caption."""
        for number, one in enumerate(false):
            self.of[one.caption].append(number)

    def columns(self, drawn: Drawn, false: Ints) -> Columns:
        """``false.…`` of the rows that have a false caption, ``has_text``, ``text_ids`` and ``false_ids`` ``[B]``.

        Args:
            drawn: the batch.
            false: number of the false caption in each row, -1 for none ``[B]``.
        """
        there = false >= 0
        ids = np.where(there, self.false_ids[false], -2 - np.arange(len(false)))
        found = under("false.", self.read.columns(self.row[false[there]])) if there.any() else {}
        return found | {
            "has_text": torch.from_numpy(there),
            "text_ids": torch.from_numpy(self.true_ids[drawn.captions]),
            "false_ids": torch.from_numpy(ids),
        }


def _plain(text: str) -> str:
    """What two equal captions have in common."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def _filled(
    has: Tensor, like: Tensor, encode: Callable[[Mapping[str, Tensor]], Tensor], columns: Columns
) -> Tensor:
    """Embeddings of the rows that have one ``[B, d]``, the others zero; every process has a gradient for them."""
    found = 0.0 * like
    return found if not columns else found.index_put((has.nonzero()[:, 0],), encode(columns).to(found.dtype))


def _drawn(choices: Sequence[Sequence[int]], rng: np.random.Generator) -> Ints:
    """One of each row's choices, -1 where there are none."""
    shares = rng.random(len(choices))
    return np.array(
        [own[int(share * len(own))] if own else NONE for own, share in zip(choices, shares, strict=True)],
        dtype=np.int64,
    )


def _elsewhere(free: Ints, photos: Ints, rng: np.random.Generator) -> Ints:
    """As many of the free false photos as there are in the batch, in its first rows ``[B]``."""
    count = min(int((photos >= 0).sum()), len(free))
    rows = np.full_like(photos, NONE)
    rows[:count] = rng.choice(free, count, replace=False)
    return rows


def _refuse_none(name: str, found: Sequence[Any], captions: int, what: str) -> None:
    if not found:
        raise InputError(f"objectives.{name}: none of the {captions} training captions {what}")


def _by_kind(counts: Mapping[str, int]) -> str:
    return f"{sum(counts.values())} ({', '.join(f'{kind} {n}' for kind, n in counts.items())})"


def _say(name: str, *facts: str) -> None:
    say(f"{name}: {'; '.join(facts)}")


def _offered(settings: FalseCaptionSettings, train: PairSet) -> tuple[list[FalseCaption], Rows]:
    """False captions without the slow check, and how many there are by kind."""
    found = false_captions(
        train, settings.kinds, settings.words, words_seed=settings.words_seed, fluent=False
    )
    counts, captions = counts_by_kind(found), len({one.caption for one in found})
    less = " at most, less those that sound odd" if settings.fluent or settings.balanced else ""
    kinds = ", ".join(f"{kind} {counts[kind]:,}" for kind in settings.kinds)
    return found, [
        ("captions with a word to swap", f"{captions:,} of {len(train.captions):,}"),
        (f"false captions by kind (words = {settings.words})", kinds + less),
    ]


class Negclip(Objective):
    """The contrastive loss with a false caption beside each caption, see :func:`~cliplet.training.losses.negclip`."""

    help = "NegCLIP: captions with one wrong word as further negatives of their photos."
    settings_type = NegclipSettings
    contrastive = True

    def __init__(self, setup: Setup, settings: NegclipSettings) -> None:
        super().__init__(setup, settings)
        with first_alone():
            false = kept_false_captions(setup.train, settings, setup.seed, setup.folder)
        what = f"has a word to swap of the kinds {', '.join(settings.kinds)}; leave the objective out"
        _refuse_none("negclip", false, len(setup.train.captions), what)
        if settings.source == "random":
            false = random_captions(setup.train, false, setup.seed)
            _refuse_none("negclip", false, len(setup.train.captions), "can have another photo's beside it")
        _say("negclip", f"{_by_kind(counts_by_kind(false))} false captions")
        self.false = FalseTexts(setup, false)

    @classmethod
    def offers(
        cls, settings: NegclipSettings, train: PairSet, bare: PairSet, regions: RegionSettings
    ) -> Rows:
        """False captions by kind."""
        return _offered(settings, train)[1]

    def batch(self, drawn: Drawn) -> Columns:
        """One false caption of each caption that has any."""
        return self.false.columns(
            drawn, _drawn([self.false.of.get(int(c), []) for c in drawn.captions], drawn.rng)
        )

    def forward(self, step: Step) -> dict[str, Tensor]:
        """``loss``, and the ``share`` of rows with a false caption."""
        c = step.columns
        false = _filled(c["has_text"], step.text, step.texts, of("false.", c))
        loss = negclip(step.image, step.text, false, step.scale, c["has_text"], c["text_ids"], c["false_ids"])
        return {"loss": loss, "share": c["has_text"].float().mean()}


class Triplet(Objective):
    """NegCLIP in both directions with false photos, see :func:`~cliplet.training.losses.triplet`.

    False photos come from :mod:`cliplet.training.objectives.false_photos`; ``regions.proposer`` should be a detector.
    """

    help = "TripletCLIP: photos that show what a false caption says, beside the false captions."
    settings_type = TripletSettings
    contrastive = True

    def __init__(self, setup: Setup, settings: TripletSettings) -> None:
        super().__init__(setup, settings)
        from cliplet.training.objectives.false_photos import find_false_photos, photo_boxes, side_captions

        train = setup.train
        with first_alone():
            false = kept_false_captions(train, settings, setup.seed, setup.folder)
        if "mirror" in settings.photos:
            false = [*false, *side_captions(train)]
        _refuse_none("triplet", false, len(train.captions), "has a word to swap; leave the objective out")
        boxes = photo_boxes(train, setup.regions, setup.folder)
        reasons: Counter[str] = Counter()
        photos = find_false_photos(
            train, false, boxes, setup.folder, setup.seed, settings.photos, reasons=reasons
        )
        why = "; ".join(f"{n} {reason}" for reason, n in reasons.most_common(3))
        _refuse_none(
            "triplet", photos, len(train.captions),
            f"has a false photo ({why}): name a detector as regions.proposer, or use the objective negclip",
        )  # fmt: skip
        photo_kinds = _by_kind(Counter(photo.kind for photo in photos))
        left_out = f"{sum(reasons.values())} without" + (f": {why}" if why else "")
        _say(
            "triplet",
            f"{_by_kind(counts_by_kind(false))} false captions",
            f"false photos: {photo_kinds}; {left_out}",
        )
        self.false = FalseTexts(setup, false)
        self.setup, self.found, self.made_by = setup, photos, Counter(photo.kind for photo in photos)
        drawn = [photo.photo for photo in photos if photo.kind != "retrieve"]
        self.views = setup.augment.views
        self.look = setup.look(drawn, setup.augment) if drawn else None
        place = iter(range(len(drawn)))
        # a place among the drawn photos, or minus one less the row of a training photo
        self.place = np.array([-1 - p.source if p.kind == "retrieve" else next(place) for p in photos])
        self.source = np.array([p.source if p.kind == "retrieve" else NONE for p in photos])
        self.caption_of = np.array([p.row for p in photos])
        self.photo_of = train.photo_of[[false[p.row].caption for p in photos]]
        self.photos_of: dict[int, list[int]] = defaultdict(list)
        """False photos of each caption."""
        for number, photo in enumerate(photos):
            self.photos_of[false[photo.row].caption].append(number)

    @classmethod
    def offers(
        cls, settings: TripletSettings, train: PairSet, bare: PairSet, regions: RegionSettings
    ) -> Rows:
        """False captions by kind, and what false photos need."""
        from cliplet.training.objectives.false_photos import Boxes, find_false_photos, side_captions

        false, rows = _offered(settings, train)
        counts, none = counts_by_kind(false), Boxes.none(len(train.photos))
        for kind in settings.photos:
            if kind == "retrieve":
                every = max(1, len(false) // SAMPLE)
                found = find_false_photos(train, false[::every], none, Path(), kinds=[kind])
                number = f"about {len(found) * every:,}" if every > 1 else f"{len(found):,}"
            elif kind == "mirror":
                number = f"{len(side_captions(train)):,}"
            elif regions.proposer.partition(":")[0] == "grid":
                number = f"0: regions.proposer = {regions.proposer} names nothing; name a detector"
            else:
                number = f"at most {counts[_WORD_OF.get(kind, '')]:,}, by the boxes that are found"
            rows.append((f"false photos, {kind}", number))
        return rows

    def batch(self, drawn: Drawn) -> Columns:
        """A false photo with its caption where a caption has one; else a false caption where it has one."""
        captions = [int(c) for c in drawn.captions]
        # a photo of the batch is no false one: it has its own caption there
        free = ~np.isin(self.source, drawn.every)
        photos = _drawn([[p for p in self.photos_of.get(c, []) if free[p]] for c in captions], drawn.rng)
        false = _drawn([self.false.of.get(c, []) for c in captions], drawn.rng)
        if self.settings.positives:
            free &= ~np.isin(self.photo_of, drawn.every)
            photos = _elsewhere(np.flatnonzero(free), photos, drawn.rng)
            false = np.full_like(photos, NONE)
        there = photos >= 0
        false[there] = self.caption_of[photos[there]]
        columns = self.false.columns(drawn, false) | {"has_image": torch.from_numpy(there)}
        return columns | self._pixels(photos[there], drawn)

    def _pixels(self, photos: Ints, drawn: Drawn) -> Columns:
        """``photos.drawn.…`` and ``photos.taken.…``: those that were made, and training photos; ``photos.made``."""
        if not len(photos):
            return {}
        place, views = self.place[photos], drawn.rng.integers(self.views, size=len(photos))
        made = place >= 0
        columns: Columns = {"photos.made": torch.from_numpy(made)}
        if made.any() and self.look is not None:
            columns |= under("photos.drawn.", self.look.batch(place[made], views[made]))
        if not made.all():
            columns |= under("photos.taken.", self.setup.photos.batch(-1 - place[~made], views[~made]))
        return columns

    def forward(self, step: Step) -> dict[str, Tensor]:
        """``loss``, and the ``share`` of rows with a false photo."""
        c = step.columns
        images = _filled(c["has_image"], step.image, self._images(step), of("photos.", c))
        texts = _filled(
            c["has_text"], step.text, step.texts, {} if self.settings.only_photos else of("false.", c)
        )
        ids = (c["text_ids"], c["false_ids"])
        if self.settings.positives:
            loss = union(step.image, step.text, images, texts, step.scale, c["has_image"], *ids)
        elif self.settings.only_photos:
            loss = negclip(step.text, step.image, images, step.scale, c["has_image"], *ids)
        else:
            loss = triplet(
                step.image, step.text, images, texts, step.scale, self.settings.symmetric, c["has_image"],
                c["has_text"], *ids,
            )  # fmt: skip
        return {"loss": loss, "share": c["has_image"].float().mean()}

    def _images(self, step: Step) -> Callable[[Mapping[str, Tensor]], Tensor]:
        """The false photos of a batch, those that were made and training photos in their places ``[n, d]``."""

        def encode(columns: Mapping[str, Tensor]) -> Tensor:
            made = columns["made"]
            found = step.image.new_zeros(len(made), step.image.shape[1])
            for name, rows in (("drawn.", made), ("taken.", ~made)):
                inputs = of(name, columns)
                if inputs:
                    found = found.index_put((rows.nonzero()[:, 0],), step.images(inputs).to(found.dtype))
            return found

        return encode
