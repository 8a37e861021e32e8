"""A model of two towers, and how it is saved: ``model.safetensors`` and ``model.json``, never a pickle."""

import json
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from cliplet.errors import ModelError
from cliplet.models.config import PRESETS, DualConfig, from_dict, to_dict
from cliplet.models.tensors import write_tensors
from cliplet.models.text import build_text_tower
from cliplet.models.vision import build_image_tower

WEIGHTS = "model.safetensors"
CONFIG = "model.json"


class DualModel(nn.Module):
    """An image tower and a text tower that end in the same space.

    Both ``encode_*`` return unnormalised embeddings, which is what L1 and MSE losses compare; normalise them
    before taking a cosine.
    """

    def __init__(self, config: DualConfig) -> None:
        super().__init__()
        self.config = config
        self.image = build_image_tower(config.image)
        self.text = build_text_tower(config.text)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """``[B, 3, H, W]`` normalised floats -> ``[B, d]``."""
        return self.image(pixels)  # type: ignore[no-any-return]

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """``[B, T]`` int64 ids and mask -> ``[B, d]``."""
        return self.text(input_ids, attention_mask)  # type: ignore[no-any-return]

    def forward(
        self,
        pixels: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Encode what is given: ``(image [B, d] or None, text [B, d] or None)``."""
        image = None if pixels is None else self.encode_image(pixels)
        text = None
        if input_ids is not None and attention_mask is not None:
            text = self.encode_text(input_ids, attention_mask)
        return image, text

    @property
    def embedding_dim(self) -> int:
        """Dimensions of the shared space."""
        return self.config.image.embedding_dim


def preset(name: str) -> DualModel:
    """A model of a named size with random weights; ``lclip`` is the published one."""
    if name not in PRESETS:
        raise ModelError(f"there is no preset {name!r}; known: {', '.join(PRESETS)}")
    return DualModel(PRESETS[name])


def count_parameters(module: nn.Module) -> int:
    """Parameters, each stored tensor once."""
    return sum(p.numel() for p in module.parameters())


def save_weights(model: DualModel, folder: str | Path) -> None:
    """Write ``model.safetensors`` and ``model.json`` into ``folder``; each file appears whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / (WEIGHTS + ".part")
    write_tensors(model.state_dict(), part, {"format": "pt"})
    os.replace(part, folder / WEIGHTS)
    part = folder / (CONFIG + ".part")
    part.write_text(json.dumps(to_dict(model.config), indent=2) + "\n", encoding="utf-8")
    os.replace(part, folder / CONFIG)


def load_weights(folder: str | Path, device: str | torch.device = "cpu") -> DualModel:
    """The model that :func:`save_weights` wrote, in evaluation mode.

    Raises:
        ModelError: a file is missing, or the weights do not fit the configuration.
    """
    folder = Path(folder)
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise ModelError(f"{folder} has no {name}; give the folder of a trained cliplet model")
    config = from_dict(DualConfig, json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    model = DualModel(config)
    fill(model, folder / WEIGHTS)
    return model.to(device).eval()


def fill(module: nn.Module, file: Path) -> None:
    """Give a module the weights of a safetensors file.

    Raises:
        ModelError: the file is damaged, or holds the weights of another module.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        module.load_state_dict(load_file(file))
    except (RuntimeError, OSError, SafetensorError) as error:
        raise ModelError(
            f"{file} is damaged or does not fit its model: {' '.join(str(error).split())}"
        ) from error
