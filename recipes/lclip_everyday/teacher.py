"""The packaged model's teacher: a space of captions from sentence encoders, and where a photo lies in it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cliplet.data.captions import read_captions
from cliplet.encoders.base import unit_norm
from cliplet.models.pretrained import efficientnet_lite, sentence_model
from cliplet.training.computed import computed
from cliplet.training.pairs import PairSet, fingerprint
from cliplet.training.teacher_space import (
    CaptionSpace,
    Floats,
    ridge,
    sentence_space_inputs,
    standardise,
    unseen_predictions,
)
from cliplet.training.text_distillation import Captions

from .bare import BarePhotos, pseudo_captions
from .data import SIZE, captions_of, detector_features, outputs
from .recipe import Settings
from .words import class_texts

WIDTH = 1280
"""Features of each EfficientNet-Lite."""
TEXTS = 4096
"""Texts between two savings."""
PENALTY = 3e3
"""Of the ridge regressions from photos to the space, for 1,280 features."""


@dataclass
class Targets:
    """What the teacher says."""

    space: CaptionSpace
    """Of captions."""
    every: Captions
    """All texts that the text tower learns."""
    train: Captions
    """Those of the training photos: people's, and the bare photos' pseudo-captions."""
    dev: Captions
    """Those of the dev photos."""
    photos: Floats
    """Of the training photos ``[photos, dim]``, unit norm: those with captions, then the bare ones."""
    classes: Callable[[], Floats]
    """Of the ImageNet classes' names ``[1000, space]``, unit norm."""
    meant: Callable[[Sequence[str]], Floats]
    """Of any texts ``[n, space]``, unit norm."""


class Teacher:
    """Computes the targets; what takes long is kept in the run's folder."""

    def __init__(self, settings: Settings, out: Path) -> None:
        self.settings, self.out = settings, out

    def targets(
        self,
        train: PairSet,
        dev: PairSet,
        more: PairSet,
        bare: BarePhotos,
        short: Sequence[str],
        tokenizer: Any,
    ) -> Targets:
        """The targets of training and dev pairs, of captions without photos, short texts and bare photos."""
        s = self.settings
        space, parts = self._space([train, dev, more])
        own = captions_of(train.captions, tokenizer, parts[0], train.photo_of)
        known = captions_of(dev.captions, tokenizer, parts[1], dev.photo_of)
        extra = list(dict.fromkeys([*bare.texts(), *short]))
        alone = space(self.sentences(extra)) if extra else np.zeros((0, s.space), dtype=np.float32)
        store = Captions(
            [*train.captions, *more.captions], np.zeros(0, dtype=np.int64), [], np.concatenate([parts[0], parts[2]])
        )  # fmt: skip
        means = unit_norm(own.photo_targets(s.dim))
        features = self.features(train, bare.pairs)
        guess = self._guesses(features, means, len(train.photos))
        pseudo, targets = pseudo_captions(
            bare, guess[len(train.photos) :], store, dict(zip(extra, alone, strict=True)), s.dim, s.retrieved
        )
        pseudo.tokens = [e.ids for e in tokenizer.encode_batch(pseudo.texts)]
        pseudo.photo = pseudo.photo + len(train.photos)
        means = np.concatenate([means, targets])
        if len(targets):  # once more, now that the bare photos have targets of their own
            weights = np.repeat([1.0, s.bare_weight], [len(train.photos), len(targets)]).astype(np.float32)
            guess = unseen_predictions(features, means, PENALTY * features.shape[1] / WIDTH, weights=weights)
        photos = unit_norm((1 - s.ensemble_share) * means + s.ensemble_share * guess)
        texts, rows = [*more.captions, *extra], np.concatenate([parts[2], alone])
        others = captions_of(texts, tokenizer, rows, len(photos) + np.arange(len(texts)))
        every, train_captions = joined_captions(own, others), joined_captions(own, pseudo)
        return Targets(space, every, train_captions, known, photos, lambda: self._classes(space),
                       lambda texts: unit_norm(space(self.sentences(texts))))  # fmt: skip

    def _space(self, sets: Sequence[PairSet]) -> tuple[CaptionSpace, list[Floats]]:
        """The space of the captions of photos, and the targets of each set's captions."""
        sentences = [self.sentences(pairs.captions) for pairs in sets]
        first, last = sets[0], sets[-1]
        groups = first.photo_of
        fitted = sentences[0]
        if len(last.captions):
            fitted = np.concatenate([fitted, sentences[-1]])
            groups = np.concatenate([groups, len(first.photos) + last.photo_of])
        space = CaptionSpace.fit(fitted, groups, self.settings.space)
        none = np.zeros((0, self.settings.space), dtype=np.float32)
        return space, [space(rows) if len(rows) else none for rows in sentences]

    def sentences(self, texts: Sequence[str]) -> Floats:
        """Embeddings by all sentence encoders, end to end."""
        if not texts:
            return np.zeros((0, 0), dtype=np.float32)

        @cache
        def models() -> list[Any]:
            return [sentence_model(name) for name in self.settings.sentence_models]

        file = self.out / f"sentences-{fingerprint([*self.settings.sentence_models, *texts])}.npy"
        kept = computed(
            file, len(texts), lambda a, b: sentence_space_inputs(texts[a:b], models()), TEXTS, np.float16,
            "sentence encoders",
        )  # fmt: skip
        return kept.astype(np.float32)

    def _classes(self, space: CaptionSpace) -> Floats:
        """Each class's name, with a share of its everyday name."""
        texts = class_texts()
        flat = list(dict.fromkeys(text for row in texts for text in row))
        at = dict(zip(flat, space(self.sentences(flat)), strict=True))
        name = np.stack([at[row[0]] + at[row[1]] for row in texts])
        everyday = np.stack([at[row[2]] for row in texts])
        share = self.settings.everyday_share
        return unit_norm((1 - share) * unit_norm(name) + share * everyday)

    def features(self, train: PairSet, bare: PairSet) -> Floats:
        """What the ensemble sees on the photos, standardised by the captioned ones ``[photos, features]``."""
        s, found = self.settings, []
        for name in (*s.ensemble, "detector") if s.detector else s.ensemble:
            rows = [self._seen(name, pairs) for pairs in (train, bare) if pairs.photos]
            _, mean, deviation = standardise(rows[0])
            found.append(np.concatenate([(r - mean) / deviation for r in rows]))
        return np.concatenate(found, axis=1)

    def found(self, sets: Sequence[PairSet]) -> Floats:
        """The detector's features of photos ``[photos, features]``."""
        return np.concatenate([self._seen("detector", pairs) for pairs in sets if pairs.photos])

    def look(self, sets: Sequence[PairSet], networks: Sequence[Any]) -> None:
        """Compute what some networks of the ensemble see on photos."""
        for name in networks:
            for pairs in sets:
                if pairs.photos:
                    self._seen(name, pairs)

    def _seen(self, name: Any, pairs: PairSet) -> Floats:
        if name != "detector":
            return self.pooled(name, pairs)
        file = self.out / f"detector-{fingerprint(pairs.photos)}.npy"
        s = self.settings
        kept: NDArray[np.float16] = detector_features(Path(s.detector), s.detector_layers, pairs.photos, file)
        return kept.astype(np.float32)

    def _guesses(self, features: Floats, means: Floats, count: int) -> Floats:
        """What the captioned photos' targets let expect of every photo; of themselves, unseen."""
        penalty = PENALTY * features.shape[1] / WIDTH
        own = unseen_predictions(features[:count], means, penalty)
        if len(features) == count:
            return own
        return np.concatenate([own, unit_norm(features[count:] @ ridge(features[:count], means, penalty))])

    def pooled(self, variant: int, pairs: PairSet) -> Floats:
        """ImageNet features of the photos at 224 pixels, enlarged to the network's own size, ``[photos, 1280]``."""
        body = efficientnet_lite(variant)
        body.classifier = nn.Identity()
        side = body.pretrained_cfg["input_size"][-1]
        whole = body if side == SIZE else nn.Sequential(nn.UpsamplingBilinear2d(side), body)
        kept: NDArray[np.float16] = outputs(
            whole, pairs.photos, self.out / f"lite{variant}-{fingerprint(pairs.photos)}.npy"
        )
        return kept.astype(np.float32)


def joined_captions(first: Captions, second: Captions) -> Captions:
    """Two sets end to end, whose photos are numbered together."""
    return Captions(
        first.texts + second.texts,
        np.concatenate([first.photo, second.photo]),
        first.tokens + second.tokens,
        np.concatenate([first.target, second.target]),
    )


def read_texts(files: Sequence[str]) -> PairSet:
    """The captions of some files, without their photos; ``photo_of`` still says which are one photo's."""
    found = PairSet()
    photos: dict[str | int, int] = {}
    numbers = []
    for file in files:
        for entry in read_captions(file):
            if isinstance(entry.caption, str) and entry.caption.strip():
                found.captions.append(entry.caption.strip())
                numbers.append(photos.setdefault(entry.image, len(photos)))
    found.photo_of = np.array(numbers, dtype=np.int64)
    return found
