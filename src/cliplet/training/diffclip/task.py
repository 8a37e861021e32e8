"""Pretraining without labels: tokens are noised and hidden, and the clean values of all of them are predicted."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cliplet.models.multimodal import MultimodalAutoencoder
from cliplet.training.diffclip.corrupt import add_noise, noise_levels, visible_places
from cliplet.training.task import Task


def batch_of(tokens: Sequence[Tensor]) -> dict[str, Tensor]:
    """The batch of a :class:`MaskedDenoising` task from the tokens of each modality."""
    return {str(i): x for i, x in enumerate(tokens)}


class MaskedDenoising(Task):
    """Masked and noised pretraining of several modalities (DiffCLIP, arXiv 2412.07119).

    ``x_t = sqrt(a_t) x + sqrt(1 - a_t) e`` with the same step t for all modalities of a sample; a share of the tokens
    of each is hidden; the loss is ``hidden_weight`` times the mean squared error of hidden tokens plus
    ``visible_weight`` times that of visible ones, summed over modalities. The target is the clean ``x``, not the noise.

    Args:
        model: what learns.
        hidden: share of the tokens that is hidden (0.7 as published); at least one stays.
        noise: highest noise step over the model's ``steps`` (1 as published; 0 adds no noise).
        hidden_weight: 0.1 as released, where it stands the wrong way round for a masked autoencoder; here 1.
        visible_weight: 1 as released.
    """

    def __init__(
        self,
        model: MultimodalAutoencoder,
        hidden: float = 0.7,
        noise: float = 1.0,
        hidden_weight: float = 1.0,
        visible_weight: float = 0.1,
    ) -> None:
        super().__init__()
        self.model = model
        self.hidden, self.noise = hidden, noise
        self.hidden_weight, self.visible_weight = hidden_weight, visible_weight
        self.register_buffer("levels", noise_levels(model.config.steps), persistent=False)
        self.levels: Tensor

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``{"0": [B, T_0, V_0], "1": ...}`` -> the loss and its terms."""
        clean = [batch[str(i)] for i in range(len(self.model.config.modalities))]
        n, device = len(clean[0]), clean[0].device
        highest = max(1, round(self.noise * len(self.levels)))
        step = torch.randint(0, highest, (n,), device=device)
        noised, keeps, masks = [], [], []
        for x in clean:
            order = torch.rand(x.shape[:2], device=device).argsort(dim=1)
            keep, hidden = visible_places(order, max(1, round((1 - self.hidden) * x.shape[1])))
            noised.append(add_noise(x, torch.randn_like(x), self.levels[step]))
            keeps.append(keep)
            masks.append(hidden)
        found = self.model(noised, step, keeps)
        return self.losses(found, clean, masks)

    def losses(
        self, found: Sequence[Tensor], clean: Sequence[Tensor], masks: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """From predictions, clean values ``[n, T, V]`` and hidden places ``[n, T]`` to ``loss`` and its terms."""
        hidden_error = visible_error = clean[0].new_zeros(())
        for values, x, hidden in zip(found, clean, masks, strict=True):
            error = (values - x).square().mean(dim=2)  # [n, T]
            hidden_error = hidden_error + (error * hidden).sum() / hidden.sum().clamp_min(1)
            visible_error = visible_error + (error * ~hidden).sum() / (~hidden).sum().clamp_min(1)
        loss = self.hidden_weight * hidden_error + self.visible_weight * visible_error
        return {"loss": loss, "hidden": hidden_error, "visible": visible_error}
