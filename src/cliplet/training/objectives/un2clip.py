"""un2CLIP: the image tower learns the detail that a frozen generator of photos needs from its embedding."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cliplet.errors import InputError
from cliplet.models.denoiser import DenoiserConfig
from cliplet.regions.store import RegionSettings
from cliplet.training.computed import computed
from cliplet.training.config import Schedule
from cliplet.training.objectives.base import Columns, Drawn, Objective, Rows, Setup, Step, of, under
from cliplet.training.objectives.un2clip_decoder import Decoder, Pool, SmallDecoder, drawn_noise
from cliplet.training.pairs import PairSet, fingerprint

DIFFUSERS = "diffusers:"
KINDS = ("diffusion", "deterministic", "untrained")


@dataclass(frozen=True)
class Un2ClipSettings:
    """Of the decoder, and of the tower's learning through it."""

    decoder: str = "diffusion"
    """``diffusion``: a small rectified flow, trained here on the base model's embeddings. Controls: ``deterministic``
    (the photo from the embedding alone, no noise) and ``untrained``. ``diffusers:FOLDER``: a Stable unCLIP that was
    made for this very image tower."""
    condition: Literal["own", "shuffled"] = "own"
    """The photo's own embedding, or, as a control, another photo's of the batch."""
    photos: int = 64
    """Photos a batch, drawn from those with captions and those without."""
    draws: int = 1
    """Times and noises that are drawn of each photo in a batch."""
    anchor: float = 0.0
    """Weight of the squared distance between the embedding and the base model's, both of length 1."""
    size: int = 0
    """Side of the photos that the decoder makes, in pixels; 64, or what a Stable unCLIP was made for, when left out."""
    patch: int = 8
    """Side of a patch in pixels."""
    channels: int = 16
    """Numbers that are kept of a patch (principal components)."""
    width: int = 160
    """Channels of the decoder; a multiple of 32."""
    blocks: int = 4
    """Blocks of the decoder."""
    epochs: int = 40
    """Passes of the decoder over the photos."""
    batch_size: int = 64
    """Photos a step of the decoder."""
    lr: float = 1e-3
    """Highest learning rate of the decoder."""
    seed: int = 0
    """Of the decoder, so that runs of several seeds share one."""

    def __post_init__(self) -> None:
        if self.decoder not in KINDS and not self.decoder.removeprefix(DIFFUSERS) != self.decoder:
            raise InputError(
                f"objectives.un2clip.decoder={self.decoder!r}: choose {', '.join(KINDS)}, or diffusers:FOLDER"
            )
        for name, least in (
            ("photos", 1),
            ("draws", 1),
            ("epochs", 1),
            ("batch_size", 1),
            ("anchor", 0),
            ("size", 0),
        ):
            if not getattr(self, name) >= least:
                raise InputError(f"objectives.un2clip.{name}={getattr(self, name)} must be at least {least}")
        if self.condition == "shuffled" and self.photos < 2:
            raise InputError("objectives.un2clip.condition=shuffled needs photos=2 or more")
        if self.width % 32 or self.width < 32:
            raise InputError(f"objectives.un2clip.width={self.width} must be a multiple of 32")
        if self.decoder in KINDS:
            self.sizes(1)

    def sizes(self, condition: int) -> DenoiserConfig:
        """The small decoder's, for embeddings of some dimensions."""
        return DenoiserConfig(
            self.size or 64, self.patch, self.channels, condition, self.width, self.width // 32, self.blocks
        )

    @property
    def stage(self) -> Schedule:
        """How the small decoder trains."""
        return Schedule(
            name="un2clip", epochs=self.epochs, batch_size=self.batch_size, lr=self.lr, weight_decay=0.01,
            warmup=0.02, clip=1.0,
        )  # fmt: skip


class DiffusersDecoder(Decoder):
    """A Stable unCLIP with the pool's photos as its latents.

    Args:
        pool: the photos.
        folder: of diffusers.
        size: side of the photos in pixels; 0 for what it was made for.
    """

    raw = True

    def __init__(self, pool: Pool, folder: Path, size: int) -> None:
        from cliplet.models.fingerprint import state_fingerprint
        from cliplet.models.stable_unclip import StableUnclip

        self.model = model = StableUnclip(folder, pool.learner.clip.device)
        dimensions = pool.learner.clip.encoder.card.embedding_dim
        if dimensions != model.condition_dim:
            raise InputError(
                f"{folder} takes image embeddings of {model.condition_dim} dimensions, the base model gives "
                f"{dimensions}: tune the tower that it was made for"
            )
        size = size or model.size
        file = (
            pool.folder / f"un2clip-latents-{fingerprint([pool.key, state_fingerprint(model.vae), size])}.npy"
        )
        self.latents = computed(
            file, len(pool), lambda a, b: model.encode(pool.pixels(a, b, size)).cpu().numpy(), 8, np.float16,
            "photos as latents",
        )  # fmt: skip

    def loss(self, clean: Tensor, condition: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """See :meth:`Decoder.loss`."""
        return self.model.loss(clean, condition, time, noise)


class Un2Clip(Objective):
    """The loss of a frozen generator of photos, as a function of the image tower that it is conditioned on.

    A decoder learns to make photos from the base model's embeddings (unCLIP); then it stays as it is and the tower
    learns through it, so that the embedding tells more of what the photo shows. The decoder understands the base
    model's embeddings only, which holds the tower there. It learns from photos alone, with captions or without, and
    nothing of it compares pairs: as a stage of its own it goes with ``student.weights`` of 0 and an image tower alone
    in ``student.train``.

    Source: un2CLIP (Li et al. 2025); the decoder here is a small stand-in for Stable unCLIP, the codec linear.
    """

    help = "un2CLIP: the image tower learns through a frozen decoder that makes the photo from its embedding."
    settings_type = Un2ClipSettings

    def __init__(self, setup: Setup, settings: Un2ClipSettings) -> None:
        super().__init__(setup, settings)
        learner = setup.learner
        if not any(name.startswith(learner.clip.image_prefix) for name in learner.names):
            raise InputError(
                "un2clip teaches the image tower, of which nothing learns: add some of it to student.train, such as "
                '"released"'
            )
        self.pool = Pool(setup)
        if len(self.pool) < settings.photos:
            raise InputError(
                f"un2clip has {len(self.pool)} photos for batches of {settings.photos}: give photos without captions "
                "as [bare], or lower objectives.un2clip.photos"
            )
        # Not this module's own: what is frozen is in no checkpoint.
        self.frozen: tuple[Decoder] = (self._decoder(setup, settings),)
        self.base = self.pool.base()

    def _decoder(self, setup: Setup, settings: Un2ClipSettings) -> Decoder:
        if settings.decoder.startswith(DIFFUSERS):
            return DiffusersDecoder(self.pool, Path(settings.decoder.removeprefix(DIFFUSERS)), settings.size)
        sizes = settings.sizes(setup.learner.clip.encoder.card.embedding_dim)
        return SmallDecoder(self.pool, sizes, settings.stage, settings.decoder, settings.seed, setup.fit)

    @classmethod
    def offers(
        cls, settings: Un2ClipSettings, train: PairSet, bare: PairSet, regions: RegionSettings
    ) -> Rows:
        """Photos, and what the decoder is."""
        rows = [("photos with captions", f"{len(train.photos)}"), ("photos without", f"{len(bare.photos)}")]
        if settings.decoder in KINDS[:2]:
            steps = settings.epochs * (len(train.photos) + len(bare.photos)) // settings.batch_size
            rows.append((f"steps of its {settings.decoder} decoder, once", f"about {steps}"))
        return rows

    def batch(self, drawn: Drawn) -> Columns:
        """Some photos of the pool, their latents, times and noises, and the base model's embeddings."""
        settings, rng = self.settings, drawn.rng
        rows = np.sort(rng.choice(len(self.pool), settings.photos, replace=False))
        decoder = self.frozen[0]
        columns = {
            **under("photo_", self.pool.inputs(rows)),
            **drawn_noise(decoder.latents[rows], settings.draws, rng),
            "base": torch.from_numpy(self.base[rows]),
        }
        if settings.condition == "shuffled":
            shift = int(rng.integers(1, len(rows)))
            columns["order"] = torch.from_numpy(np.roll(np.arange(len(rows)), shift))
        return columns

    def forward(self, step: Step) -> dict[str, Tensor]:
        """The decoder's loss, and how far the embeddings are from the base model's (``moved``, 1 - cosine)."""
        columns, settings, decoder = step.columns, self.settings, self.frozen[0]
        inputs = of("photo_", columns)
        image = self.pool.learner.encode_images(inputs, quick=True) if decoder.raw else step.images(inputs)
        condition = image[columns["order"]] if "order" in columns else image
        draws = settings.draws
        clean = columns["clean"].repeat(draws, *[1] * (columns["clean"].ndim - 1))
        loss = decoder.loss(clean, condition.repeat(draws, 1), columns["time"], columns["noise"])
        apart = (F.normalize(image, dim=1) - columns["base"]).square().sum(dim=1).mean()
        found = {"denoising": loss, "moved": apart.detach() / 2}
        return {"loss": loss + settings.anchor * apart if settings.anchor else loss, **found}
