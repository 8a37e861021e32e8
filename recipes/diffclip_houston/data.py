"""Samples of several modalities with labels, their parts and their tokens."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cliplet.classification.inputs import BandInputs, fit_inputs
from cliplet.classification.multimodal import Parts, draw_shots, split_parts
from cliplet.errors import InputError
from cliplet.models.multimodal_config import ModalityConfig, pixel_modality, window_modality
from cliplet.training.diffclip.folder import sample_tokens

from .recipe import ModalityInputs, Settings

DEV_DRAWS = 10_000
"""First seed of the draws that choose settings."""


@dataclass(frozen=True)
class Samples:
    """Samples with labels."""

    values: tuple[NDArray[np.float32], ...]
    """Of each modality, pixels ``[n, bands]`` or windows ``[n, side, side, bands]``."""
    labels: NDArray[np.int64]
    """Classes ``[n]``."""
    classes: tuple[str, ...]
    """Their names."""

    @property
    def flat(self) -> NDArray[np.float32]:
        """All values of a sample side by side ``[n, d]``."""
        return np.concatenate([x.reshape(len(x), -1) for x in self.values], axis=1)


def read_samples(settings: Settings) -> Samples:
    """Read the file of samples and the names of the classes.

    Raises:
        InputError: a file or an array is missing or does not fit the others.
    """
    path = Path(settings.samples)
    try:
        with np.load(path, allow_pickle=False) as found:
            values = tuple(found[m.name].astype(np.float32) for m in settings.modalities)
            labels = found["label"].astype(np.int64).ravel()
        names = tuple(json.loads(Path(settings.class_names).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError) as error:
        wanted = ", ".join(m.name for m in settings.modalities)
        raise InputError(
            f"{path} must be an .npz file with arrays {wanted} and label, and class_names a JSON list: {error}"
        ) from error
    if not values or any(len(x) != len(labels) for x in values):
        raise InputError(
            f"{path}: {len(labels)} labels for {[len(x) for x in values]} samples of the modalities"
        )
    if set(labels.tolist()) != set(range(len(names))):
        raise InputError(
            f"{path}: labels {labels.min()} to {labels.max()} do not fit {len(names)} class names"
        )
    return Samples(values, labels, names)


@dataclass(frozen=True)
class Pixels:
    """Everything the arms see."""

    samples: Samples
    """As read."""
    parts: Parts
    """Rows of train, dev and test."""
    modalities: tuple[ModalityConfig, ...]
    """For the model."""
    inputs: tuple[BandInputs, ...]
    """Fitted on train."""
    tokens: tuple[Tensor, ...]
    """Of all samples, each modality ``[n, T, V]``."""
    standard: NDArray[np.float32]
    """Standardised values of all samples ``[n, d]``, for the classifiers of scikit-learn."""

    @property
    def flat(self) -> NDArray[np.float32]:
        """The networks' inputs of all samples ``[n, d]``."""
        return torch.cat([x.flatten(1) for x in self.tokens], dim=1).numpy()

    def rows(self, rows: NDArray[np.int64]) -> list[Tensor]:
        """Tokens of some samples."""
        return [x[torch.from_numpy(rows)] for x in self.tokens]

    def shots(self, settings: Settings, shots: int, draw: int) -> NDArray[np.int64]:
        """Rows of a draw's labelled samples."""
        first = DEV_DRAWS if settings.report_on == "dev" else 0
        return draw_shots(self.samples.labels, self.parts.train, shots, first + draw)


def prepare(settings: Settings, samples: Samples) -> Pixels:
    """Split the samples and fit the inputs on train, without its labels."""
    parts = split_parts(samples.flat, samples.labels, settings.shares, settings.seed, settings.blocks)
    inputs = tuple(
        fit_inputs(x[parts.train], m.components, m.whitening, m.scale)
        for m, x in zip(settings.modalities, samples.values, strict=True)
    )
    modalities = tuple(modality_of(m, x) for m, x in zip(settings.modalities, samples.values, strict=True))
    tokens = sample_tokens(modalities, inputs, samples.values)
    plain = [fit_inputs(x[parts.train])(x).reshape(len(x), -1) for x in samples.values]
    return Pixels(samples, parts, modalities, inputs, tuple(tokens), np.concatenate(plain, axis=1))


def modality_of(given: ModalityInputs, values: NDArray[np.float32]) -> ModalityConfig:
    """Tokens of a modality.

    Raises:
        InputError: groups or patches do not fit its samples.
    """
    if values.ndim == 2:
        return pixel_modality(given.name, values.shape[1], given.groups)
    if values.ndim == 4 and values.shape[1] == values.shape[2]:
        return window_modality(given.name, values.shape[3], values.shape[1], given.patch)
    raise InputError(f"{given.name}: {list(values.shape)} is neither [n, bands] nor [n, side, side, bands]")
