"""All that the student of a DCLIP run learns from, put together from what is kept."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cliplet.encoders.base import unit_norm
from cliplet.errors import InputError
from cliplet.evaluation.zeroshot import read_class_names
from cliplet.models.late import POOLED
from cliplet.training.config import AugmentConfig
from cliplet.training.dclip.config import DclipConfig
from cliplet.training.dclip.features import Features, Halves, kept_rows, view_images
from cliplet.training.dclip.setup import readable
from cliplet.training.dclip.starts import start_name
from cliplet.training.dclip.student import Anchors, StudentData, encode_maps, text_mode
from cliplet.training.dclip.tunable import Tunable
from cliplet.training.pairs import PairSet, fingerprint, read_pairs
from cliplet.training.views import photo_source

Floats = NDArray[np.float32]


class StudentInputs:
    """Gathers a student's inputs; the model must have the base model's weights meanwhile.

    Args:
        base: the base model.
        learning: names of the parameters that learn.
        features: of the training pairs.
    """

    def __init__(self, base: Tunable, learning: Sequence[str], features: Features) -> None:
        self.base, self.learning, self.features = base, learning, features
        self.train = features.pairs
        self.mode = text_mode(base, learning)

    def data(self, config: DclipConfig, target: Floats | None) -> StudentData:
        """What one student learns from; ``target`` is what the teacher sets, ``[captions, d]``."""
        views = self.features.views(config.augment, 0, self.learning)
        states = self.features.text_states() if self.mode == "head" else None
        w = config.student.weights
        base_image = classes = anchors = None
        if w.anchor or w.prompts or w.naming:
            base_image = self._base_images(config, views)
            anchors = self.anchors(config)
        if w.prompts or w.naming:
            classes = self._prompt_features(config).texts()
        texts = self.features.texts()
        return StudentData(self.train, views, base_image, texts, states, target, classes, anchors)

    def anchors(self, config: DclipConfig) -> Anchors | None:
        """The further photos for the anchors, with the base model's embeddings."""
        blocks: list[Any] = []
        pairs, first, label = PairSet(), self.base.early(self.learning)[1], np.zeros(0, dtype=np.int64)
        if config.student.anchors.photos or config.student.anchors.captions:
            pairs = readable(read_pairs(config.student.anchors))
            features = Features(self.base, pairs, self.features.folder)
            views = features.views(AugmentConfig(1), 0, self.learning)
            if views is None:
                images = [photo_source(p) for p in pairs.photos]
                embedded = self.base.encoder.encode_images(images)
                return Anchors(pairs, None, embedded, np.full(len(images), -1, dtype=np.int64))
            blocks.append(np.asarray(views[0]))
            label = np.full(len(pairs.photos), -1, dtype=np.int64)
        if config.student.prototypes:
            from cliplet.training.dclip.lite_base import PROTOTYPES

            file = Path(start_name(config)) / PROTOTYPES
            if not file.exists() or (blocks and first != POOLED):
                raise InputError(
                    "student.prototypes needs base = 'lite0-minilm' (to lite2), and no student.anchors where more of "
                    "the image tower than image.head.* learns"
                )
            blocks.append(np.load(file))
            label = np.concatenate([label, np.arange(len(blocks[-1]))])
        if not blocks:
            return None
        maps = np.concatenate(blocks)
        return Anchors(pairs, maps, encode_maps(self.base, maps, first), label)

    def _base_images(self, config: DclipConfig, views: list[Halves] | None) -> list[Floats]:
        """The base model's embedding of every view."""
        first = self.base.early(self.learning)[1]

        def compute(start: int, stop: int, view: int) -> Any:
            if views is not None:
                return encode_maps(self.base, views[view][start:stop], first, quick=True)
            images = view_images(self.train, config.augment, 0, range(start, stop), view)
            return self.base.encoder.encode_images(images)

        crops = fingerprint([dataclasses.replace(config.augment, views=0), views is None])
        key = f"images-{self.features.key}-{self.features.photos_key}-{crops}"
        found = []
        for view in range(config.augment.views):
            file = self.features.folder / f"{key}-{view}.npy"
            count = len(self.train.photos)
            rows = kept_rows(file, count, partial(compute, view=view), 64, f"base model, view {view + 1}")
            found.append(unit_norm(rows))
        return found

    def _prompt_features(self, config: DclipConfig) -> Features:
        """The sentences that name the classes of ``prompts``."""
        if config.student.prompt_names:
            names = read_class_names(Path(config.student.prompt_names))
        else:
            from cliplet.models.pretrained import imagenet_names

            names = imagenet_names()
        texts = [config.zeroshot.templates[0].replace("{}", n) for n in names]
        return Features(self.base, PairSet(captions=texts), self.features.folder)

    def prompts(self, config: DclipConfig) -> dict[str, Tensor] | None:
        """The classes as the student reads them: tokens, states where its text projection learns, or embeddings."""
        if not (config.student.weights.prompts or config.student.weights.naming):
            return None
        if config.student.weights.naming and self.mode == "all":
            raise InputError(
                "student.weights.naming needs all classes in every batch: of the text tower, let only text.head.* learn"
            )
        features = self._prompt_features(config)
        if self.mode == "all":
            return self.base.tokens(features.pairs.captions)
        if self.mode == "head":
            return {"text_states": torch.from_numpy(features.text_states().astype(np.float32))}
        return {"base_text": torch.from_numpy(features.texts())}
