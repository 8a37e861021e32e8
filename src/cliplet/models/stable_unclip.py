"""Stable unCLIP as a frozen generator: a diffusion model of Stable Diffusion's kind conditioned on image embeddings.

It reads a folder in the layout of diffusers: ``unet``, ``vae``, ``scheduler``, ``image_normalizer``,
``image_noising_scheduler``, ``tokenizer``, ``text_encoder``. The embedding is conditioned on as Stable unCLIP's own
pipeline does: centred and scaled, noised at level 0, scaled back, with the level's sinusoids beside it, as the class
labels of the UNet; the text is the empty prompt.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cliplet.errors import InputError, MissingExtraError, ModelError

PARTS = (
    "unet", "vae", "scheduler", "image_normalizer", "image_noising_scheduler", "tokenizer", "text_encoder",
)  # fmt: skip


class StableUnclip:
    """The generator, frozen.

    Args:
        folder: of diffusers.
        device: where to compute.

    Raises:
        MissingExtraError: diffusers is not installed.
        ModelError: the folder lacks a part, or its UNet is not conditioned on image embeddings.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        missing = [part for part in PARTS if not (folder / part).is_dir()]
        if missing:
            raise ModelError(
                f"{folder} has no {', '.join(missing)}: give the folder of a Stable unCLIP in diffusers' layout"
            )
        try:
            from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
            from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
                StableUnCLIPImageNormalizer,
            )
            from transformers import CLIPTextModel, CLIPTokenizer
        except ImportError as error:
            raise MissingExtraError("Stable unCLIP", "diffusion") from error
        except RuntimeError as error:  # how diffusers says that something it stands on is broken
            raise ModelError(f"diffusers cannot be imported: {error}") from error

        def part(kind: Any, name: str) -> Any:
            try:
                return kind.from_pretrained(str(folder), subfolder=name, local_files_only=True)
            except (OSError, ValueError, RuntimeError) as error:
                raise ModelError(f"{folder / name} cannot be read: {error}") from error

        self.unet, self.vae = part(UNet2DConditionModel, "unet"), part(AutoencoderKL, "vae")
        self.scheduler = part(DDPMScheduler, "scheduler")
        self.normalizer = part(StableUnCLIPImageNormalizer, "image_normalizer")
        self.noising = part(DDPMScheduler, "image_noising_scheduler")
        text = part(CLIPTextModel, "text_encoder").eval()
        tokenizer = part(CLIPTokenizer, "tokenizer")
        self.condition_dim = int(self.normalizer.mean.shape[1])
        """Dimensions of the image embedding."""
        wanted = self.unet.config.projection_class_embeddings_input_dim
        if self.unet.config.class_embed_type != "projection" or wanted != 2 * self.condition_dim:
            raise ModelError(
                f"{folder}: the UNet does not take image embeddings of {self.condition_dim} dimensions as class "
                "labels; give a Stable unCLIP"
            )
        if self.scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
            raise ModelError(
                f"{folder}: the scheduler's prediction_type is {self.scheduler.config.prediction_type!r}; epsilon and "
                "v_prediction are known"
            )
        for module in (self.unet, self.vae, self.normalizer):
            module.to(device)
            module.requires_grad_(
                False
            ).eval()  # after the move: the normalizer's parameters are new ones then
        self.steps = int(self.scheduler.config.num_train_timesteps)
        self.size = int(self.unet.config.sample_size) * 2 ** (len(self.vae.config.block_out_channels) - 1)
        """Side in pixels of the photos that it was made for."""
        ids = tokenizer(
            "", padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        ).input_ids  # fmt: skip
        with torch.no_grad():
            self.empty = text(ids)[0].to(device)  # [1, t, w]

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Photos ``[n, 3, s, s]`` in -1..1 as latents ``[n, c, s / 8, s / 8]``, without drawing."""
        found: Tensor = self.vae.encode(pixels.to(self.empty.device)).latent_dist.mode()
        return found * self.vae.config.scaling_factor

    def labels(self, embeddings: Tensor, noise: Tensor | None = None) -> Tensor:
        """Image embeddings ``[n, d]``, at their own length, as the UNet's class labels ``[n, 2 d]``.

        ``noise`` is what the pipeline draws ``[n, d]``; at level 0 it hardly counts and is left out by default.
        """
        from diffusers.models.embeddings import get_timestep_embedding

        level = torch.zeros(len(embeddings), dtype=torch.long, device=embeddings.device)
        scaled = self.normalizer.scale(embeddings)
        noisy = self.noising.add_noise(scaled, torch.zeros_like(scaled) if noise is None else noise, level)
        sinusoids = get_timestep_embedding(
            level, embeddings.shape[1], flip_sin_to_cos=True, downscale_freq_shift=0
        )
        return torch.cat([self.normalizer.unscale(noisy), sinusoids.to(noisy)], dim=1)

    def loss(self, clean: Tensor, embeddings: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """Squared error of what the UNet was trained to predict, the noise or the velocity.

        Args:
            clean: latents ``[n, c, h, w]``.
            embeddings: the photos' ``[n, d]``, at their own length.
            time: 0 no noise .. 1 noise alone ``[n]``.
            noise: as ``clean``.

        Raises:
            InputError: embeddings of other dimensions.
        """
        if embeddings.shape[1] != self.condition_dim:
            raise InputError(
                f"the decoder takes image embeddings of {self.condition_dim} dimensions, the model gives "
                f"{embeddings.shape[1]}: tune the tower that it was made for"
            )
        step = (time * self.steps).long().clamp(max=self.steps - 1)
        noisy = self.scheduler.add_noise(clean, noise, step)
        found = self.unet(
            noisy, step, encoder_hidden_states=self.empty.expand(len(noisy), -1, -1),
            class_labels=self.labels(embeddings),
        ).sample  # fmt: skip
        velocity = self.scheduler.config.prediction_type == "v_prediction"
        return F.mse_loss(
            found.float(), self.scheduler.get_velocity(clean, noise, step) if velocity else noise
        )
