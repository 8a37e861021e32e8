"""The decoder of un2CLIP: photos as latents, the denoiser trained on the base model's embeddings, once for all runs.

What is made is kept beside the run's features under a key of the photos, the base model and the settings; photos are
sorted first, so that runs that caption other shares of the same photos share it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cliplet.data.images import load_rgb, resize_rgb
from cliplet.encoders.base import unit_norm
from cliplet.errors import InputError
from cliplet.models.denoiser import Denoiser, DenoiserConfig, PatchCodec
from cliplet.models.quick_products import quick_products
from cliplet.training.computed import computed
from cliplet.training.config import Schedule
from cliplet.training.losses.denoising import flow
from cliplet.training.objectives.base import Columns, Setup
from cliplet.training.pairs import fingerprint
from cliplet.training.processes import say
from cliplet.training.task import Task

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
FITTED = 400
"""Photos that the codec is fitted on."""


class Pool:
    """All photos of a run, with captions and without, in an order of their own; view 0 of each.

    Args:
        setup: of the objective.
    """

    def __init__(self, setup: Setup) -> None:
        self.learner, self.folder = setup.learner, setup.folder
        bare = setup.bare.photos
        self.sources = [setup.photos, *([setup.look(bare)] if bare else [])]
        places = [
            (source, row)
            for source, some in enumerate((setup.train.photos, bare))
            for row in range(len(some))
        ]
        photos = [*setup.train.photos, *bare]
        names = [fingerprint([photo]) for photo in photos]
        order = sorted(range(len(photos)), key=names.__getitem__)
        self.photos = [photos[i] for i in order]
        self.places = np.array([places[i] for i in order], dtype=np.int64).reshape(-1, 2)
        self.key = fingerprint([names[i] for i in order])

    def __len__(self) -> int:
        return len(self.photos)

    def inputs(self, rows: Ints) -> Columns:
        """What the image tower reads of some photos (:meth:`Photos.batch`), in the order of ``rows``."""
        places = self.places[rows]
        blocks, order = [], []
        for number, source in enumerate(self.sources):
            own = np.flatnonzero(places[:, 0] == number)
            if len(own):
                blocks.append(source.batch(places[own, 1], np.zeros(len(own), dtype=np.int64)))
                order.append(own)
        back = torch.from_numpy(np.argsort(np.concatenate(order), kind="stable"))
        return {name: torch.cat([block[name] for block in blocks])[back] for name in blocks[0]}

    def base(self) -> Floats:
        """The base model's embedding of each photo ``[photos, d]``, unit norm; the model must have its weights."""
        clip = self.learner.clip

        @torch.inference_mode()
        def compute(start: int, stop: int) -> Floats:
            inputs = self.inputs(np.arange(start, stop))
            inputs = {name: value.to(clip.device) for name, value in inputs.items()}
            return self.learner.encode_images(inputs, quick=True).cpu().numpy()

        clip.model.eval()
        key = fingerprint([clip.encoder.card.fingerprint, self.key, self.learner.first])
        rows = computed(
            self.folder / f"un2clip-images-{key}.npy",
            len(self),
            compute,
            64,
            np.float32,
            "photos, base model",
        )
        return unit_norm(np.asarray(rows))

    def pixels(self, start: int, stop: int, size: int, step: int = 1) -> Tensor:
        """Every ``step``-th photo from ``start`` to ``stop``, squashed: ``[n, 3, size, size]`` in -1..1."""
        images = [
            resize_rgb(load_rgb(p, size), size, "squash", "bicubic") for p in self.photos[start:stop:step]
        ]
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


class Decoder:
    """A frozen generator of the pool's photos from their embeddings."""

    latents: NDArray[Any]
    """The photos as it makes them ``[photos, ...]``."""
    raw = False
    """Whether the embedding reaches it at its own length; else at length 1."""

    def loss(self, clean: Tensor, condition: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """Its own training loss.

        Args:
            clean: latents ``[n, ...]``.
            condition: embeddings ``[n, d]``.
            time: 0 no noise .. 1 noise alone ``[n]``.
            noise: as ``clean``.
        """
        raise NotImplementedError


class DecoderTask(Task):
    """The denoiser with its loss: rectified flow, or the photo itself from the embedding alone.

    Args:
        model: the denoiser.
        deterministic: nothing is drawn; the squared error of the photo, the control without diffusion.
    """

    def __init__(self, model: Denoiser, deterministic: bool) -> None:
        super().__init__()
        self.model, self.deterministic = model, deterministic

    def loss(self, clean: Tensor, condition: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """See :meth:`Decoder.loss`."""
        if self.deterministic:
            found = self._predicted(torch.zeros_like(clean), torch.ones_like(time), condition)
            return F.mse_loss(found, clean)
        share = time[:, None, None]
        return flow(self._predicted((1 - share) * clean + share * noise, time, condition), clean, noise)

    def _predicted(self, noisy: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        with quick_products():
            return self.model(noisy, time, condition).float()  # type: ignore[no-any-return]

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``clean``, ``condition``, ``time`` and ``noise``, see :meth:`Decoder.loss`."""
        return {"loss": self.loss(batch["clean"], batch["condition"], batch["time"], batch["noise"])}


@dataclass(frozen=True)
class DecoderData:
    """Photos with the embeddings to make them from."""

    latents: NDArray[Any]
    """``[photos, T, C]``."""
    conditions: Floats
    """``[photos, d]``."""
    rows: Ints
    """Those to learn from."""
    held_out: Ints
    """Those to measure on."""
    size: int
    """Photos a batch."""
    seed: int
    """Of everything that is drawn."""

    @property
    def batches(self) -> int:
        """Batches an epoch."""
        return len(self.rows) // self.size

    def load(self, epoch: int, first: int) -> Iterator[dict[str, Tensor]]:
        """The batches of an epoch from number ``first`` on."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.rows)
        for number in range(first, self.batches):
            rng = np.random.default_rng([self.seed, epoch, number])
            yield self.some(np.sort(order[number * self.size : (number + 1) * self.size]), rng)

    def some(self, rows: Ints, rng: np.random.Generator) -> dict[str, Tensor]:
        """A batch of some photos."""
        return {
            **drawn_noise(self.latents[rows], 1, rng),
            "condition": torch.from_numpy(self.conditions[rows]),
        }


def drawn_noise(latents: NDArray[Any], draws: int, rng: np.random.Generator) -> Columns:
    """``clean`` ``[n, ...]``, and ``draws`` times ``time`` ``[draws n]`` and ``noise`` ``[draws n, ...]``."""
    count = draws * len(latents)
    noise = rng.standard_normal((count, *latents.shape[1:]), dtype=np.float32)
    return {
        "clean": torch.from_numpy(np.asarray(latents, dtype=np.float32)),
        "time": torch.from_numpy(rng.random(count, dtype=np.float32)),
        "noise": torch.from_numpy(noise),
    }


@torch.no_grad()
def condition_losses(task: DecoderTask, data: DecoderData) -> dict[str, float]:
    """The loss on held-out photos with their own embedding, another photo's, and the mean one.

    A decoder that uses its condition has ``right`` clearly below the others; else there is nothing to invert.
    """
    task.eval()
    device = next(task.parameters()).device
    sums = dict.fromkeys(("right", "shuffled", "mean"), 0.0)
    for start in range(0, len(data.held_out), 64):
        rows = data.held_out[start : start + 64]
        batch = data.some(rows, np.random.default_rng([data.seed, start]))
        batch = {name: value.to(device) for name, value in batch.items()}
        own = batch["condition"]
        other = torch.from_numpy(data.conditions[np.roll(data.held_out, 1)[start : start + 64]]).to(device)
        for name, condition in (
            ("right", own),
            ("shuffled", other),
            ("mean", task.model.centre.expand_as(own)),
        ):
            found = task.loss(batch["clean"], condition, batch["time"], batch["noise"])
            sums[name] += float(found) * len(rows)
    losses = {name: value / len(data.held_out) for name, value in sums.items()}
    return {**losses, "score": -losses["right"]}


class SmallDecoder(Decoder):
    """The linear codec and the denoiser, trained or found.

    Args:
        pool: the photos.
        config: sizes.
        stage: the denoiser's training.
        kind: ``diffusion``, ``deterministic`` or ``untrained``.
        seed: of the denoiser's weights and of its training.
        fit: trains.

    Raises:
        InputError: too few photos.
    """

    def __init__(
        self, pool: Pool, config: DenoiserConfig, stage: Schedule, kind: str, seed: int, fit: Any
    ) -> None:
        held_out = min(300, max(8, len(pool) // 20))
        if len(pool) < held_out + stage.batch_size:
            raise InputError(
                f"un2clip has {len(pool)} photos; its decoder needs at least {held_out + stage.batch_size}: give "
                "photos without captions as [bare], or lower objectives.un2clip.batch_size"
            )
        self.codec = PatchCodec(config)
        self.codec.fit(pool.pixels(0, len(pool), config.size, -(-len(pool) // FITTED)))
        sizes = (config.size, config.patch, config.channels)
        file = pool.folder / f"un2clip-latents-{fingerprint([pool.key, *sizes])}.npy"
        self.latents = computed(
            file, len(pool), lambda a, b: self.codec.encode(pool.pixels(a, b, config.size)).numpy(), 256,
            np.float16, "photos as latents",
        )  # fmt: skip
        conditions = pool.base()
        order = np.random.default_rng([seed, 11]).permutation(len(pool))
        data = DecoderData(
            self.latents, conditions, np.sort(order[held_out:]), np.sort(order[:held_out]), stage.batch_size, seed
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):  # the student draws alike whether this trains or finds
            torch.manual_seed(seed)
            model = Denoiser(config)
            model.standardise(torch.from_numpy(conditions))
            self.task = DecoderTask(model, kind == "deterministic")
            if kind == "untrained":
                randomise(model)
            else:
                about = [pool.learner.clip.encoder.card.fingerprint, pool.key, config, stage, kind, seed]
                self.folder: Path = pool.folder / f"un2clip-decoder-{fingerprint(about)}"
                fit(self.folder, self.task, stage, data, lambda: condition_losses(self.task, data))
        self.task.requires_grad_(False).to(pool.learner.clip.device).eval()
        self.measured = condition_losses(self.task, data)
        self._say(kind)

    def _say(self, kind: str) -> None:
        right, shuffled = self.measured["right"], self.measured["shuffled"]
        shown = ", ".join(
            f"{value:.4f} with {name}" for name, value in self.measured.items() if name != "score"
        )
        say(f"un2clip's {kind} decoder, loss on held-out photos by condition: {shown}")
        if kind != "untrained" and right > 0.995 * shuffled:
            say(
                "un2clip: the decoder hardly uses the embedding, so it can teach little; give more photos or epochs"
            )

    def loss(self, clean: Tensor, condition: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """See :meth:`Decoder.loss`."""
        return self.task.loss(clean, condition, time, noise)


@torch.no_grad()
def randomise(model: Denoiser) -> None:
    """Give the layers that start as 0 random weights too, or the loss would not depend on the condition."""
    for parameter in model.parameters():
        if not parameter.any() and parameter.ndim == 2:
            torch.nn.init.xavier_uniform_(parameter)
