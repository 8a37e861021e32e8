"""What the packaged model's training reads: captions with their targets, feature maps of augmented photos, batches."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cliplet.data.images import load_rgb, resize_rgb
from cliplet.encoders.base import unit_norm
from cliplet.encoders.torch import pad_tokens
from cliplet.evaluation.hard_negatives import KINDS, swap_word
from cliplet.training.data import PairSet, photo_source
from cliplet.training.logs import Progress

Floats = NDArray[np.float32]
SIZE = 224
LONGEST = 26
"""Captions are cut to this many tokens in training; a longer one is rare."""


def decoded(photos: Sequence[Any]) -> NDArray[np.uint8]:
    """Photos squashed to the tower's input: uint8 ``[n, 224, 224, 3]``."""
    return np.stack(
        [np.asarray(resize_rgb(load_rgb(photo_source(p)), SIZE, "squash", "bicubic")) for p in photos]
    )


def normalised(pixels: NDArray[np.uint8]) -> Tensor:
    """uint8 ``[n, h, w, 3]`` -> what EfficientNet-Lite expects, ``[n, 3, h, w]`` in -1..1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().sub(127.5).div(127.5)


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """A crop of 60 to 100 % of each photo, half of them mirrored, with other brightness, contrast and saturation.

    ``[n, 3, h, w]`` in -1..1, as in and out; a few become grey.
    """

    def random(low: float, high: float) -> Tensor:
        return torch.empty(len(x)).uniform_(low, high, generator=generator)

    share, ratio = random(0.6, 1.0), random(-0.22, 0.22).exp()
    width, height = (share * ratio).sqrt().clamp_max(1), (share / ratio).sqrt().clamp_max(1)
    place = torch.zeros(len(x), 2, 3)
    place[:, 0, 0] = width * torch.where(random(0, 1) < 0.5, -1.0, 1.0)
    place[:, 1, 1] = height
    place[:, 0, 2], place[:, 1, 2] = random(-1, 1) * (1 - width), random(-1, 1) * (1 - height)
    grid = F.affine_grid(place, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    brightness, contrast, saturation, grey = (
        v[:, None, None, None]
        for v in (random(0.75, 1.25), random(0.75, 1.25), random(0.6, 1.4), random(0, 1) < 0.05)
    )
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (x - mean) * contrast + (mean + 1) * brightness - 1
    colourless = x.mean(dim=1, keepdim=True)
    x = (x - colourless) * torch.where(grey, torch.zeros_like(saturation), saturation) + colourless
    return x.clamp(-1, 1)


@torch.inference_mode()
def kept_outputs(
    module: nn.Module, photos: Sequence[Any], file: Path, view: int = 0, seed: int = 0, batch: int = 32
) -> NDArray[np.float16]:
    """The outputs of ``module`` for all photos, computed once and kept in ``file`` as fp16.

    View 0 is the photo itself, others are :func:`augmented`.
    """
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(1000 * seed + view)
        bar = Progress(file.stem, len(photos))
        part, out = file.with_suffix(".part"), None
        for start in range(0, len(photos), batch):
            x = normalised(decoded(photos[start : start + batch]))
            x = augmented(x, generator) if view else x
            y = module(x.contiguous(memory_format=torch.channels_last)).numpy()
            if out is None:
                shape = (len(photos), *y.shape[1:])
                out = np.lib.format.open_memmap(part, "w+", np.float16, shape)
            out[start : start + len(y)] = y
            bar.update(min(start + batch, len(photos)))
        assert out is not None
        out.flush()
        os.replace(part, file)
    return np.asarray(np.load(file, mmap_mode="r"))


@dataclass
class Captions:
    """Captions with the photo of each (numbered from 0), their tokens and their targets."""

    texts: list[str]
    """``[n]``."""
    photo: NDArray[np.int64]
    """``[n]``."""
    tokens: list[list[int]]
    """``[n]`` lists of ids."""
    target: Floats
    """``[n, d]``, unit norm."""

    def of_photos(self) -> list[NDArray[np.int64]]:
        """Rows of each photo."""
        order = np.argsort(self.photo, kind="stable")
        return np.split(order, np.searchsorted(self.photo[order], np.arange(1, int(self.photo.max()) + 1)))

    def photo_targets(self) -> Floats:
        """Mean target of each photo's captions ``[photos, d]``, not normalised."""
        return np.stack([self.target[rows].mean(axis=0) for rows in self.of_photos()])


def padded(sequences: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """``input_ids`` and ``attention_mask``."""
    ids, mask = pad_tokens(sequences)
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


def with_words_dropped(tokens: Sequence[int], rng: np.random.Generator, share: float = 0.06) -> list[int]:
    """Half of the time the caption as it is, else without a few of its words; never longer than LONGEST."""
    if rng.random() < 0.5:
        return list(tokens[:LONGEST])
    inner = [t for t in tokens[1 : LONGEST - 1] if rng.random() > share]
    return [tokens[0], *inner, tokens[-1]]


class TextBatches:
    """Stage 1: two captions of each of ``photos`` photos a batch."""

    def __init__(self, captions: Captions, photos: int, seed: int) -> None:
        self.captions, self.size, self.seed = captions, photos, seed
        self.rows = captions.of_photos()
        means = captions.photo_targets()
        self.photo_target = unit_norm(means)
        self.target = unit_norm(captions.target + means[captions.photo])
        self.batches = len(self.rows) // photos

    def load(self, epoch: int, first: int) -> Iterator[dict[str, Tensor]]:
        """The batches of an epoch from number ``first`` on."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))
        for batch in range(first, self.batches):
            rng = np.random.default_rng([self.seed, epoch, batch])
            photos = order[batch * self.size : (batch + 1) * self.size]
            pairs = np.array([rng.choice(self.rows[p], 2, replace=len(self.rows[p]) < 2) for p in photos])
            chosen = pairs.T.reshape(-1)  # [2 B]
            yield {
                **padded([with_words_dropped(self.captions.tokens[i], rng) for i in chosen]),
                "target": torch.from_numpy(self.target[chosen]),
                "photo": torch.from_numpy(self.photo_target[photos]),
            }


class PairBatches:
    """Stages 2 and 3: a random kept view of each photo, mirrored half of the time, with one of its captions.

    Args:
        maps: kept views, each ``[photos, C, h, w]``.
        captions: those of the photos.
        photo_target: ``[photos, d]``, unit norm.
        size: photos a batch.
        seed: of everything.
        tokenizer: given in stage 3, where the text tower reads true and false captions.
    """

    def __init__(
        self,
        maps: Sequence[NDArray[np.float16]],
        captions: Captions,
        photo_target: Floats,
        size: int,
        seed: int,
        tokenizer: Any = None,
    ) -> None:
        self.maps, self.captions, self.photo_target = maps, captions, photo_target
        self.size, self.seed, self.tokenizer = size, seed, tokenizer
        self.rows = captions.of_photos()
        self.batches = len(self.rows) // size

    def load(self, epoch: int, first: int) -> Iterator[dict[str, Tensor]]:
        """The batches of an epoch from number ``first`` on."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))
        for batch in range(first, self.batches):
            rng = np.random.default_rng([self.seed, epoch, batch])
            photos = np.sort(order[batch * self.size : (batch + 1) * self.size])
            chosen = np.array([rng.choice(self.rows[p]) for p in photos])
            views = rng.integers(len(self.maps), size=len(photos))
            maps = torch.from_numpy(np.stack([self.maps[v][p] for v, p in zip(views, photos, strict=True)]))
            mirrored = torch.from_numpy(rng.random(len(photos)) < 0.5)[:, None, None, None]
            result = {
                "maps": torch.where(mirrored, maps.flip(3), maps),
                "photo_target": torch.from_numpy(self.photo_target[photos]),
                "caption_target": torch.from_numpy(self.captions.target[chosen]),
            }
            if self.tokenizer is not None:
                result |= self._words(photos, chosen, rng)
            yield result

    def _words(
        self, photos: NDArray[np.int64], chosen: NDArray[np.int64], rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """True captions, and false ones for about half of the photos."""
        true = [with_words_dropped(self.captions.tokens[i], rng) for i in chosen]
        false, owner = [], []
        for place, (photo, caption) in enumerate(zip(photos, chosen, strict=True)):
            others = [self.captions.texts[i] for i in self.rows[photo] if i != caption]
            kind = KINDS[rng.integers(len(KINDS))]
            swapped = swap_word(self.captions.texts[caption], kind, rng, others)
            if swapped:
                false.append(self.tokenizer.encode(swapped[0]).ids[:LONGEST])
                owner.append(place)
        return {**padded(true + false), "owner": torch.tensor(owner, dtype=torch.long)}


def captions_of(pairs: PairSet, tokenizer: Any, target: Floats, photo: NDArray[np.int64]) -> Captions:
    """Captions of a set with their tokens."""
    return Captions(pairs.captions, photo, [e.ids for e in tokenizer.encode_batch(pairs.captions)], target)
