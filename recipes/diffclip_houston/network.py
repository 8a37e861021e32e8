"""The arms that are networks: pretrained once a draw, tuned on the draw's shots."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cliplet.classification.multimodal import class_sentences, class_vectors
from cliplet.models.multimodal import MultimodalClassifier
from cliplet.training.diffclip.pretrain import pretrain
from cliplet.training.diffclip.tune import tune
from cliplet.training.fit import make_accelerator

from .arms import ARMS, Arm
from .baselines import PlainNetwork
from .data import Pixels
from .recipe import Settings

Ints = NDArray[np.int64]
SENTENCES = "sentences.npy"


class Networks:
    """Makes tuned networks of all arms.

    Args:
        settings: of the recipe.
        pixels: the data.
        out: the run's folder: ``sentences.npy`` and ``pretraining``.
    """

    def __init__(self, settings: Settings, pixels: Pixels, out: Path) -> None:
        self.settings, self.pixels, self.out = settings, pixels, out
        self.sentences = self._sentences()
        self.config = dataclasses.replace(
            settings.model, modalities=pixels.modalities, embedding_dim=self.sentences.shape[2]
        )
        self._accelerator: Any = None

    def unlabelled_rows(self, arm: Arm) -> Ints:
        """Rows whose inputs an arm may see without labels: train, and for one arm test too."""
        parts = self.pixels.parts
        return np.concatenate([parts.train, parts.test]) if arm.test_inputs else parts.train

    def tuned(self, name: str, shots: int, draw: int) -> nn.Module:
        """The network of an arm after tuning on a draw's shots."""
        arm, seed = ARMS[name], 1000 * draw + shots
        rows = self.pixels.shots(self.settings, shots, draw)
        start = self._encoder(arm, draw) if arm.family == "diffclip" and arm.pretrained else None
        torch.manual_seed(seed)  # whatever was drawn before: all arms of a draw start alike
        model = self._model(arm, draw)
        if start is not None:
            model.encoder.load_state_dict(start)  # type: ignore[union-attr, operator]
        config = self.settings.plain_tune if arm.family == "plain" else self.settings.tune
        labels = torch.from_numpy(self.pixels.samples.labels[rows])
        unlabelled = self.pixels.rows(self.unlabelled_rows(arm)) if arm.unlabelled else None
        return tune(model, self.pixels.rows(rows), labels, config, seed, unlabelled)

    def _model(self, arm: Arm, draw: int) -> nn.Module:
        if arm.family == "plain":
            values = sum(m.tokens * m.values for m in self.pixels.modalities)
            return PlainNetwork(values, self.settings.plain_hidden, len(self.pixels.samples.classes))
        vectors = torch.from_numpy(class_vectors(arm.vectors, self.sentences, draw))
        return MultimodalClassifier(dataclasses.replace(self.config, embedding_dim=vectors.shape[1]), vectors)

    def _encoder(self, arm: Arm, draw: int) -> dict[str, Tensor]:
        """The encoder pretrained for a draw, computed once."""
        self._accelerator = self._accelerator or make_accelerator(cpu=True)
        folder = self.out / "pretraining" / f"{'test-inputs-' * arm.test_inputs}{draw}"
        tokens = self.pixels.rows(self.unlabelled_rows(arm))
        return pretrain(self._accelerator, folder, self.config, tokens, self.settings.pretrain, draw)

    def _sentences(self) -> NDArray[np.float32]:
        """Embeddings ``[C, templates, d]`` of the class sentences, computed once."""
        path = self.out / SENTENCES
        if not path.exists():
            np.save(path, embed_sentences(self.settings, self.pixels.samples.classes))
        return np.asarray(np.load(path))


def embed_sentences(settings: Settings, classes: tuple[str, ...]) -> NDArray[np.float32]:
    """Embeddings ``[C, templates, d]`` of the class sentences by the frozen sentence encoder."""
    from cliplet.models.pretrained import sentence_embeddings, sentence_model

    texts = class_sentences(classes, settings.templates)
    flat = [text for group in texts for text in group]
    found = sentence_embeddings(sentence_model(settings.sentences), flat, quick=False)
    return found.reshape(len(classes), len(settings.templates), -1)
