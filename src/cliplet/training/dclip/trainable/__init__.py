"""A CLIP in training, opened by name: our own towers, open_clip's, Transformers'."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from cliplet.encoders.batching import BatchedEncoder
from cliplet.encoders.open_clip import OpenClipEncoder
from cliplet.encoders.registry import load
from cliplet.encoders.torch import TorchEncoder
from cliplet.encoders.transformers import TransformersEncoder
from cliplet.errors import ModelError
from cliplet.training.dclip.trainable.base import Floats, TrainableClip
from cliplet.training.dclip.trainable.open_clip import TrainableOpenClip
from cliplet.training.dclip.trainable.own import TrainableDual
from cliplet.training.dclip.trainable.transformers import TrainableTransformers

__all__ = [
    "PROTOTYPES", "TrainableClip", "TrainableDual", "TrainableOpenClip", "TrainableTransformers", "crop_embedder",
    "open_trainable",
]  # fmt: skip

PROTOTYPES = "prototypes.npy"
"""Beside a model folder's files: its :attr:`TrainableClip.prototypes`, where they are known."""


def open_trainable(name: str) -> TrainableClip:
    """A model to train by name: ``open_clip:ARCHITECTURE/TAG``, ``hf:OWNER/NAME``, or a folder with PyTorch weights.

    ``hf:`` stands for CLIP and SigLIP models of Transformers; folders are cliplet's or Transformers'.

    Raises:
        ModelError: no such model, or one that cannot be trained (an ONNX folder).
    """
    folder = Path(name)
    if (folder / "model.safetensors").is_file() and not (
        folder / "config.json"
    ).is_file():  # which Transformers has
        file = folder / PROTOTYPES
        known = np.load(file, allow_pickle=False) if file.is_file() else None
        return TrainableDual(TorchEncoder.from_folder(folder), known)
    encoder = load(name)
    if encoder.library == "cliplet":
        return TrainableDual(cast(TorchEncoder, encoder))
    if encoder.library == "open_clip":
        return TrainableOpenClip(
            cast(OpenClipEncoder, encoder), name.removeprefix("open_clip:").split("/")[0]
        )
    if encoder.library == "transformers":
        return TrainableTransformers(cast(TransformersEncoder, encoder))
    raise ModelError(
        f"{name} cannot be tuned: give open_clip:ARCHITECTURE/TAG, hf:OWNER/NAME, or a model folder with "
        "model.safetensors (cliplet distill writes one beside its ONNX folder)"
    )


def crop_embedder(
    clip: TrainableClip, encoder: BatchedEncoder, raw: bool
) -> Callable[[Sequence[Image.Image]], Floats]:
    """What embeds crops of photos: ``[n, d]``, unit norm.

    Args:
        clip: the frozen base model.
        encoder: what it does by itself, or :meth:`TrainableClip.frozen_encoder` of it.
        raw: without the tower's mean and deviation, as released; then ``encoder`` is not used.
    """
    mean, std = (torch.tensor(v)[:, None, None] for v in clip.mean_std)

    @torch.no_grad()
    def embed(crops: Sequence[Image.Image]) -> Floats:
        blocks = []
        for start in range(0, len(crops), 32):
            pixels = clip.pixels(crops[start : start + 32]) * std + mean  # in 0..1 again
            blocks.append(F.normalize(clip.encode_image(pixels.to(clip.device)).float(), dim=1).cpu().numpy())
        return np.concatenate(blocks)

    return embed if raw else encoder.encode_images
