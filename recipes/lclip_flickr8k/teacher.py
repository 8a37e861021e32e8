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
from cliplet.models.pretrained import efficientnet_lite, imagenet_names, sentence_model
from cliplet.training.computed import computed
from cliplet.training.pairs import PairSet, fingerprint
from cliplet.training.teacher_space import (
    CaptionSpace,
    Floats,
    sentence_space_inputs,
    standardise,
    unseen_predictions,
)
from cliplet.training.text_distillation import Captions

from .data import SIZE, captions_of, detector_features, outputs
from .recipe import Settings

PROMPT = "a photo of a {}."
"""What a class's name becomes."""
WIDTH = 1280
"""Features of each EfficientNet-Lite."""
TEXTS = 4096
"""Texts between two savings."""


@dataclass
class Targets:
    """What the teacher says."""

    space: CaptionSpace
    """Of captions."""
    every: Captions
    """All captions that the text tower learns."""
    train: Captions
    """Those of the training photos."""
    dev: Captions
    """Those of the dev photos."""
    photos: Floats
    """Of the training photos ``[photos, dim]``, unit norm."""
    names: Callable[[], Floats]
    """Of the ImageNet classes' names ``[1000, space]``, unit norm."""


class Teacher:
    """Computes the targets; what takes long is kept in the run's folder."""

    def __init__(self, settings: Settings, out: Path) -> None:
        self.settings, self.out = settings, out

    def targets(self, train: PairSet, dev: PairSet, more: Sequence[str], tokenizer: Any) -> Targets:
        """The targets of training and dev pairs, and of captions without photos."""
        texts = [*train.captions, *dev.captions, *more]
        sentences = self.sentences(texts)
        a, b = len(train.captions), len(train.captions) + len(dev.captions)
        space = CaptionSpace.fit(sentences[:a], train.photo_of, self.settings.space)
        own = captions_of(train, tokenizer, space(sentences[:a]), train.photo_of)
        known = captions_of(dev, tokenizer, space(sentences[a:b]), dev.photo_of)
        others = PairSet(captions=list(more))
        alone = captions_of(others, tokenizer, space(sentences[b:]), np.arange(len(more)))
        every = Captions(
            own.texts + alone.texts,
            np.concatenate([own.photo, len(train.photos) + alone.photo]),
            own.tokens + alone.tokens,
            np.concatenate([own.target, alone.target]),
        )
        return Targets(space, every, own, known, self._photos(train, own), lambda: space(self._class_names()))

    def sentences(self, texts: Sequence[str]) -> Floats:
        """Embeddings by all sentence encoders, end to end."""

        @cache
        def models() -> list[Any]:
            return [sentence_model(name) for name in self.settings.sentence_models]

        file = self.out / f"sentences-{fingerprint([*self.settings.sentence_models, *texts])}.npy"
        kept = computed(
            file, len(texts), lambda a, b: sentence_space_inputs(texts[a:b], models()), TEXTS, np.float16,
            "sentence encoders",
        )  # fmt: skip
        return kept.astype(np.float32)

    def _class_names(self) -> Floats:
        return self.sentences([PROMPT.format(name) for name in imagenet_names()])

    def _photos(self, pairs: PairSet, captions: Captions) -> Floats:
        """The mean of a photo's captions, mixed with what the ensemble predicts of it unseen."""
        s = self.settings
        means = captions.photo_targets(s.dim)
        features = [standardise(self.pooled(variant, pairs))[0] for variant in s.ensemble]
        if s.detector:
            file = self.out / f"detector-{fingerprint(pairs.photos)}.npy"
            seen = detector_features(Path(s.detector), s.detector_layers, pairs.photos, file)
            features.append(standardise(seen.astype(np.float32))[0])
        inputs = np.concatenate(features, axis=1)
        guess = unseen_predictions(inputs, means, 3e3 * inputs.shape[1] / WIDTH)
        return unit_norm((1 - s.ensemble_share) * unit_norm(means) + s.ensemble_share * guess)

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


def read_texts(files: Sequence[str]) -> list[str]:
    """The captions of some files."""
    entries = (entry.caption for file in files for entry in read_captions(file))
    return [caption.strip() for caption in entries if isinstance(caption, str) and caption.strip()]
