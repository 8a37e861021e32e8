"""Batches for captioner training: grids (or pixels) of photos, with their captions put end to end."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cliplet.captioner.decoding import Limits
from cliplet.errors import InputError
from cliplet.training.captioner.config import CaptionStage
from cliplet.training.captioner.vocabulary import plain
from cliplet.training.loop import StageData
from cliplet.training.pairs import PairSet, epoch_batches

Ints = NDArray[np.int64]
Read = Callable[[Ints, Ints], Tensor]
"""Photos and the view of each -> what the model takes for them: grids ``[n, N, C]`` or pixels ``[n, H, W, 3]``."""


@dataclass
class CaptionSplit:
    """Photos with their captions."""

    names: list[str]
    """Name of each photo."""
    photos: list[Any]
    """Where to read each photo."""
    captions: list[list[str]]
    """Plain captions of each photo."""

    @classmethod
    def of(cls, pairs: PairSet) -> "CaptionSplit":
        """From what the recipe's data names; raises InputError where there are photos without captions or reverse."""
        if not pairs.photos or not pairs.captions:
            raise InputError("a captioner needs photos and their captions; give both in train and dev")
        texts = plain(pairs.captions)
        grouped = [[texts[row] for row in rows if texts[row]] for rows in pairs.captions_of()]
        kept = [i for i, group in enumerate(grouped) if group]
        return cls(
            [pairs.names[i] for i in kept], [pairs.photos[i] for i in kept], [grouped[i] for i in kept]
        )

    def first(self, count: int) -> "CaptionSplit":
        """The first ``count`` photos; all for 0."""
        stop = count or len(self.names)
        return CaptionSplit(self.names[:stop], self.photos[:stop], self.captions[:stop])


def pack(photos: Sequence[Sequence[Sequence[int]]], limits: Limits) -> dict[str, Tensor]:
    """Captions of each photo end to end.

    Args:
        photos: for each photo its captions, each a list of tokens; longer ones than ``limits.max_tokens`` with the
            end are cut (and then have no end to learn).
        limits: special tokens.

    Returns:
        ``tokens``, ``targets`` and ``caption`` ``[n, S]``: the tokens so far from the start token on, the token that
        follows each, and the caption's number in its photo (-1 for padding).
    """
    rows: list[list[tuple[int, int, int]]] = []
    for captions in photos:
        row: list[tuple[int, int, int]] = []
        for number, tokens in enumerate(captions):
            following = [*tokens, limits.end_id][: limits.max_tokens]
            before = [limits.start_id, *following[:-1]]
            row += [(b, f, number) for b, f in zip(before, following, strict=True)]
        rows.append(row)
    packed = np.zeros((3, len(rows), max(map(len, rows))), dtype=np.int64)
    packed[2] = -1
    for i, row in enumerate(rows):
        packed[:, i, : len(row)] = np.array(row, dtype=np.int64).T
    return {name: torch.from_numpy(packed[k]) for k, name in enumerate(("tokens", "targets", "caption"))}


def padded(rows: Sequence[NDArray[np.float32]]) -> Tensor:
    """Weights of each photo's captions ``[n, captions]``, 0 where a photo has fewer."""
    found = np.zeros((len(rows), max(map(len, rows))), dtype=np.float32)
    for i, row in enumerate(rows):
        found[i, : len(row)] = row
    return torch.from_numpy(found)


class Reader:
    """Grids of photos kept on disk, one array a view; or pixels of one view, mirrored when asked for."""

    def __init__(self, views: Sequence[NDArray[Any]], mirrored: bool = False) -> None:
        self.arrays = list(views)
        self.mirrored = mirrored
        self.views = 2 if mirrored else len(self.arrays)

    def __call__(self, photos: Ints, view: Ints) -> Tensor:
        """``[n, ...]``."""
        if self.mirrored:
            pixels = self.arrays[0][photos]  # [n, H, W, 3]
            pixels[view == 1] = pixels[view == 1][:, :, ::-1]
            return torch.from_numpy(pixels)
        rows = [self.arrays[v][p] for p, v in zip(photos, view, strict=True)]
        return torch.from_numpy(np.stack(rows))


def stage_data(
    stage: CaptionStage,
    tokens: Sequence[Sequence[Sequence[int]]],
    read: Reader,
    limits: Limits,
    seed: int,
    weights: Sequence[NDArray[np.float32]] | None = None,
) -> StageData:
    """The batches of a stage, which depend on seed, epoch and position alone.

    Args:
        stage: the stage.
        tokens: for each photo its captions, each a list of tokens.
        read: the photos.
        limits: special tokens.
        seed: of order and views.
        weights: for each photo the weights of its captions in cross-entropy.
    """
    total = np.array([sum(map(len, captions)) for captions in tokens])
    per_pass = len(epoch_batches(len(tokens), stage.batch_size, seed, 0))
    count = stage.updates or per_pass

    def batches_of(epoch: int) -> list[Ints]:
        found: list[Ints] = []
        for number in range(-(-(count) // per_pass)):
            found += epoch_batches(len(tokens), stage.batch_size, seed, epoch * 1000 + number)
        groups = found[:count]
        return groups if stage.kind == "self_critical" else alike(groups, total, seed, epoch)

    def load(epoch: int, first: int) -> Iterator[dict[str, Tensor]]:
        for position, photos in enumerate(batches_of(epoch)[first:], first):
            rng = np.random.default_rng([seed, epoch, position])
            batch = {"image": read(photos, rng.integers(0, read.views, len(photos))),
                     "photo": torch.from_numpy(photos), "draw": torch.tensor([seed, epoch, position])}  # fmt: skip
            if stage.kind == "cross_entropy":
                batch |= pack([tokens[p] for p in photos], limits)
                if weights is not None:
                    batch["weight"] = padded([weights[p] for p in photos])
            yield batch

    return StageData(count, load)


def alike(groups: list[Ints], length: Ints, seed: int, epoch: int) -> list[Ints]:
    """Batches of photos whose captions are of like length in sum: sorted within every 16 batches, then shuffled."""
    found: list[Ints] = []
    for start in range(0, len(groups), 16):
        some = groups[start : start + 16]
        items = np.concatenate(some)
        found += np.split(items[np.argsort(length[items], kind="stable")], len(some))
    order = np.random.default_rng([seed, epoch, 7]).permutation(len(found))
    return [found[i] for i in order]


def cache_folder(cache: str, out: Path) -> Path:
    """Where grids and embeddings are kept."""
    return Path(cache) if cache else out / "cache"
