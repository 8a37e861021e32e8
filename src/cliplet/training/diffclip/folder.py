"""A tuned classifier with its inputs and class names, in memory and as a folder."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from cliplet.classification.inputs import BandInputs
from cliplet.errors import InputError, ModelError
from cliplet.files import whole
from cliplet.models.config import from_dict, to_dict
from cliplet.models.multimodal import MultimodalClassifier
from cliplet.models.multimodal_config import ModalityConfig, MultimodalConfig
from cliplet.models.tensors import write_tensors
from cliplet.models.tokens import tokens_of
from cliplet.training.diffclip.tune import probabilities

CARD, WEIGHTS = "card.json", "model.safetensors"
KIND = "few-shot multimodal classifier"


@dataclass(frozen=True)
class FewShotMultimodal:
    """A classifier of samples with several modalities, such as hyperspectral and LiDAR pixels or windows.

    As a folder it is ``card.json`` and ``model.safetensors``.
    """

    model: MultimodalClassifier
    """The tuned model, in evaluation mode."""
    inputs: tuple[BandInputs, ...]
    """Of each modality."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the probabilities."""
    training: dict[str, Any] = field(default_factory=dict)
    """How it was made, for the card."""

    def tokens(self, samples: Sequence[ArrayLike]) -> list[Tensor]:
        """Raw samples of each modality -> tokens."""
        return sample_tokens(self.model.config.modalities, self.inputs, samples)

    def probabilities(self, samples: Sequence[ArrayLike]) -> NDArray[np.float32]:
        """Raw samples of each modality, pixels ``[n, bands]`` or windows ``[n, side, side, bands]`` -> ``[n, C]``.

        Raises:
            InputError: the samples are of another shape, or of different numbers.
        """
        return probabilities(self.model, self.tokens(samples)).numpy()

    def predict(self, samples: Sequence[ArrayLike]) -> list[str]:
        """The most probable class of each sample."""
        return [self.classes[i] for i in self.probabilities(samples).argmax(axis=1)]

    def save(self, folder: str | Path) -> None:
        """Write the folder, whole or not at all; one that is there is replaced.

        Raises:
            InputError: it cannot be written.
        """
        card = {
            "kind": KIND, "model": to_dict(self.model.config), "classes": list(self.classes), "training": self.training,
        }  # fmt: skip
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for i, inputs in enumerate(self.inputs):
            tensors[f"inputs.{i}.mean"] = torch.from_numpy(inputs.mean)
            tensors[f"inputs.{i}.matrix"] = torch.from_numpy(inputs.matrix)
        Path(folder).parent.mkdir(parents=True, exist_ok=True)
        with whole(folder) as part:
            part.mkdir()
            write_tensors(tensors, part / WEIGHTS)
            (part / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def load_multimodal(folder: str | Path) -> FewShotMultimodal:
    """Read what :meth:`FewShotMultimodal.save` wrote.

    Raises:
        ModelError: it is no such folder, or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        if card.get("kind") != KIND:
            raise ModelError(f"{folder} holds a {card.get('kind', 'model of another kind')!r}, not a {KIND}")
        config = from_dict(MultimodalConfig, card["model"])
        tensors = load_file(folder / WEIGHTS)
        weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        model = MultimodalClassifier(config, weights["classes"])
        model.load_state_dict(weights)
        inputs = tuple(
            BandInputs(tensors[f"inputs.{i}.mean"].numpy(), tensors[f"inputs.{i}.matrix"].numpy())
            for i in range(len(config.modalities))
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, InputError) as error:
        raise ModelError(f"{folder} is no folder of a {KIND}, or a damaged one: {error}") from error
    return FewShotMultimodal(model.eval(), inputs, tuple(card["classes"]), card.get("training", {}))


def sample_tokens(
    modalities: Sequence[ModalityConfig], inputs: Sequence[BandInputs], samples: Sequence[ArrayLike]
) -> list[Tensor]:
    """Raw samples of each modality -> tokens of each ``[n, T_m, V_m]``.

    Raises:
        InputError: the modalities differ in number of samples, or a shape is another.
    """
    sizes = [len(np.asarray(x)) for x in samples]
    if len(sizes) != len(modalities) or len(set(sizes)) != 1:
        names = ", ".join(m.name for m in modalities)
        raise InputError(f"samples of {names} are wanted, equally many of each; there are {sizes}")
    return [
        tokens_of(modality, torch.from_numpy(np.ascontiguousarray(fit(x))))
        for modality, fit, x in zip(modalities, inputs, samples, strict=True)
    ]
