"""The captioner in training: cross-entropy, or self-critical training with any reward."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cliplet.captioner.decoding import Decoded, Limits, sample
from cliplet.models.captioner import CaptionDecoder, TorchSteps
from cliplet.rewards import MixedReward
from cliplet.training.captioner.config import CaptionStage
from cliplet.training.captioner.data import pack
from cliplet.training.captioner.shape import shape_of
from cliplet.training.captioner.towers import GridTower
from cliplet.training.config import Schedule
from cliplet.training.task import Task

Say = Callable[[Sequence[Sequence[int]]], list[str]]
"""Tokens of captions -> captions."""


class CaptionModel(nn.Module):
    """Decoder, and the image tower where that learns too."""

    def __init__(self, decoder: CaptionDecoder, tower: GridTower | None = None) -> None:
        super().__init__()
        self.decoder, self.tower = decoder, tower

    def grid(self, image: Tensor) -> Tensor:
        """Grids ``[n, N, C]``; of pixels ``[n, H, W, 3]`` where there is a tower."""
        return image if self.tower is None else self.tower(image)  # type: ignore[no-any-return]

    def memory(self, image: Tensor) -> Tensor:
        """What the decoder looks at, from grids or pixels."""
        return self.decoder.memory(self.grid(image))

    def train(self, mode: bool = True) -> "CaptionModel":
        """As of any module, but the tower's batch statistics stay those it came with."""
        super().train(mode)
        if self.tower is not None:
            self.tower.eval()
        return self


class CaptionStudent(Task):
    """A captioner that computes its own loss, so that the one training loop trains it too.

    Cross-entropy (Vinyals et al. 2015): ``-log p(next token)``, mean over the tokens of all captions, weighted by the
    captions' :func:`~cliplet.training.captioner.consensus.consensus_weights` where the stage asks for it.

    Self-critical (Rennie et al., CVPR 2017): for each photo k captions are drawn, and
    ``loss = -sum_i (r_i - b_i) log p(caption_i) / tokens``, where b is the mean reward of the photo's other samples
    or the reward of its greedy caption, and p may be tempered; plus ``kl`` times the divergence from the model of the
    stage's beginning, ``KL(p || p_0)`` over all tokens that could have come, mean over positions. Samples and loss come
    from the same distribution: the model in evaluation mode, on grids with the same ``grid_dropout``.

    Args:
        model: decoder and, if it learns, tower.
        limits: special tokens, greatest length.
        names: of the training photos, as the reward knows them.
        say: turns tokens into captions.
        reward: of a self-critical stage.
        before: the decoder that ``kl`` holds on to.
    """

    def __init__(
        self, model: CaptionModel, limits: Limits, names: Sequence[Hashable], say: Say,
        reward: MixedReward | None = None, before: CaptionDecoder | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model, self.limits, self.names, self.say = model, limits, list(names), say
        self.stage = CaptionStage()
        self.reward: MixedReward | None = reward
        self.register_buffer("reward_state", torch.zeros(0, dtype=torch.float64))
        # a list, so that it is no part of the state
        self._before = [] if before is None else [before.eval().requires_grad_(False)]

    def begin(self, stage: Schedule, reward: MixedReward | None = None) -> None:
        """Prepare for a stage; a self-critical one follows a reward."""
        assert isinstance(stage, CaptionStage)
        self.stage, self.reward = stage, reward or self.reward
        for parameter in self.model.decoder.parameters():
            parameter.requires_grad_(True)
        if self.model.tower is not None:
            self.model.tower.requires_grad_(stage.finetune)
        parts = 0 if self.reward is None else len(self.reward.weights)
        device = next(self.model.parameters()).device
        self.reward_state = torch.zeros(3 * parts, dtype=torch.float64, device=device)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss, and what the log shows beside it.

        Args:
            batch: ``image`` (grids or pixels); for cross-entropy ``tokens``, ``targets`` and ``caption`` of
                :func:`~cliplet.training.captioner.data.pack`, and perhaps ``weight`` ``[n, captions]``; else ``photo``
                ``[n]`` and ``draw``, the numbers that the samples depend on.
        """
        if self.stage.kind == "cross_entropy":
            return self._cross_entropy(batch)
        return self._self_critical(batch)

    def _cross_entropy(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        decoder = self.model.decoder
        states = decoder.states(self.model.memory(batch["image"]), batch["tokens"], batch["caption"])
        real = batch["caption"] >= 0
        logits, targets = decoder.logits(states[real]), batch["targets"][real]  # [tokens, V], [tokens]
        smoothing = self.stage.label_smoothing
        if "weight" in batch:
            weight = batch["weight"].gather(1, batch["caption"].clamp_min(0))[real]  # [tokens]
            each = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
            loss = (weight * each).sum() / weight.sum()
        else:
            loss = F.cross_entropy(logits, targets, label_smoothing=smoothing)
        right = (logits.detach().argmax(dim=1) == targets).float().mean()
        return {"loss": loss, "accuracy": right}

    def _self_critical(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        self.model.eval()
        grid = self.model.grid(batch["image"])
        memory = self.model.decoder.memory(grid, self.stage.grid_dropout)  # [n, L, 2, N, D]
        photos, k = batch["photo"].cpu().numpy(), self.stage.samples
        drawn = self._draw(memory.detach(), batch["draw"].tolist(), k)
        captions = [tokens for found in drawn for tokens in found.tokens]  # [n k]
        texts = self.say(captions)
        names = [self.names[p] for p in photos for _ in range(k)]
        greedy: list[str] = []
        if self.stage.baseline == "greedy":
            best = sample(TorchSteps(self.model.decoder), memory.detach(), self.limits, 1, None)
            greedy = self.say([found.tokens[0] for found in best])
        total, values = self._rewards(names, texts, [self.names[p] for p in photos], greedy)
        reward = total[: len(texts)].view(-1, k)  # [n, k]
        if greedy:
            baseline = total[len(texts) :, None]
        else:
            baseline = (reward.sum(dim=1, keepdim=True) - reward) / (k - 1)
        advantage = (reward - baseline).to(memory.device, torch.float32)
        ended = [e for found in drawn for e in found.ended]
        terms = self._policy_loss(grid, memory, drawn, advantage)
        shape = {name: torch.tensor(value) for name, value in shape_of(texts, ended).items()}
        spread = {"advantage": advantage.std()}
        return terms | spread | {n: v.to(memory.device) for n, v in (values | shape).items()}

    def _draw(self, memory: Tensor, draw: list[int], k: int) -> list[Decoded]:
        """k captions of each photo, from random numbers that depend on ``draw`` alone."""
        uniform = np.random.default_rng([11, *draw]).random((len(memory), k, self.limits.max_tokens))
        steps = TorchSteps(self.model.decoder)
        return sample(steps, memory, self.limits, k, uniform, temperature=self.stage.temperature)

    def _rewards(
        self, names: list[Any], texts: list[str], photos: list[Any], greedy: list[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total reward of samples, then of greedy captions; and what the log shows of the samples' parts."""
        assert self.reward is not None
        keys = list(self.reward.weights)
        if self.reward_state.any():
            rows = zip(keys, self.reward_state.view(-1, 3).tolist(), strict=True)
            saved = {name: {"mean": m, "variance": v, "seen": int(s)} for name, (m, v, s) in rows}
            self.reward.load_state_dict(saved)
        parts = self.reward.parts([*names, *(photos if greedy else [])], [*texts, *greedy])
        state = self.reward.state_dict()
        flat = [state[name][kind] for name in keys for kind in ("mean", "variance", "seen")]
        self.reward_state.copy_(torch.tensor(flat, dtype=torch.float64))
        values = {"reward": torch.tensor(parts.total[: len(texts)].mean())}
        for name in keys:
            values[f"reward/{name}"] = torch.tensor(parts.values[name][: len(texts)].mean())
            values[f"spread/{name}"] = torch.tensor(parts.spreads[name])
        return torch.from_numpy(parts.total), values

    def _policy_loss(
        self, grid: Tensor, memory: Tensor, drawn: list[Decoded], advantage: Tensor
    ) -> dict[str, Tensor]:
        packed = pack([found.tokens for found in drawn], self.limits)
        tokens, targets, caption = (packed[n].to(memory.device) for n in ("tokens", "targets", "caption"))
        decoder = self.model.decoder
        real = caption >= 0
        logits = decoder.logits(decoder.states(memory, tokens, caption)[real]) / self.stage.temperature
        log_p = logits.log_softmax(dim=1)  # [tokens, V]
        chosen = log_p.gather(1, targets[real][:, None])[:, 0]
        weight = advantage.gather(1, caption.clamp_min(0))[real]
        loss = -(weight * chosen).mean()
        terms = {"loss": loss, "log_prob": chosen.detach().mean()}
        terms["entropy"] = -(log_p.detach().exp() * log_p.detach()).sum(dim=1).mean()
        if self._before:
            before = self._before[0]
            with torch.no_grad():
                states = before.states(before.memory(grid), tokens, caption)
                old = (before.logits(states[real]) / self.stage.temperature).log_softmax(dim=1)
            divergence = (log_p.exp() * (log_p - old)).sum(dim=1).mean()
            terms["kl"] = divergence.detach()
            terms["loss"] = loss + self.stage.kl * divergence
        return terms
