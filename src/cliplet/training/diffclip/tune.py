"""Few-shot tuning against frozen class vectors, with unlabelled samples beside the few labelled ones."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cliplet.errors import InputError
from cliplet.training.loop import lr_share

Tokens = Sequence[Tensor]
"""Tokens of each modality ``[n, T_m, V_m]``."""


@dataclass(frozen=True)
class TuneConfig:
    """Few-shot tuning; every step sees all labelled samples."""

    steps: int = 120
    """Steps."""
    lr: float = 2e-3
    """Highest learning rate (AdamW), which falls to 0 as a cosine."""
    weight_decay: float = 0.05
    """Weight decay of matrices."""
    loss: Literal["classes", "contrast"] = "classes"
    """Cross-entropy over the class vectors, or the published contrast of a batch with its own texts, both ways, in
    which samples of one class are no negatives of each other."""
    noise: float = 0.1
    """Standard deviation of the noise on labelled inputs."""
    unlabelled: float = 1.0
    """Weight of the loss on unlabelled samples: the averaged model's prediction on the clean sample is the target on
    the noised one (FixMatch's consistency, arXiv 2001.07685, with soft targets). 0, as published, leaves it out."""
    unlabelled_batch: int = 128
    """Unlabelled samples a step."""
    unlabelled_noise: float = 0.3
    """Standard deviation of the noise on unlabelled inputs."""
    confidence: float = 0.7
    """Least probability of a target that counts."""
    start: int = 30
    """Step from which unlabelled samples count."""
    average: float = 0.97
    """Decay of the moving average of the weights, which is the result."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.unlabelled_batch < 1 or not self.lr > 0:
            raise InputError("tuning needs steps and unlabelled_batch of at least 1 and lr above 0")
        for name in ("average", "confidence"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} of tuning must be at least 0 and below 1")


def class_contrast(pairs: Tensor, labels: Tensor) -> Tensor:
    """The published contrast of samples with the texts of their classes, corrected: equal classes are no negatives.

    The target of a sample is uniform over the texts of its class, and that of a text over the samples of its class;
    the released code takes sample i and text i alone for a pair. Where the texts of a class are one and the same
    vector the two losses have the same gradient; where they differ (several sentences a class) they do not.

    Args:
        pairs: scaled cosines ``[n, n]`` of sample i and the text of sample j.
        labels: classes ``[n]``.

    Returns:
        Mean of both directions, a scalar.
    """
    same = (labels[:, None] == labels).float()
    target = same / same.sum(dim=1, keepdim=True)  # symmetric, so it serves both directions
    rows = -(target * pairs.log_softmax(dim=1)).sum(dim=1).mean()
    columns = -(target * pairs.T.log_softmax(dim=1)).sum(dim=1).mean()
    return (rows + columns) / 2


def balanced_targets(logits: Tensor, prior: Tensor) -> Tensor:
    """Soft targets ``[n, C]``: probabilities divided by how often each class has been predicted ``[C]``."""
    found = logits.softmax(dim=1) / prior
    return found / found.sum(dim=1, keepdim=True)


def noised(tokens: Tokens, noise: float, random: torch.Generator) -> list[Tensor]:
    """Tokens with Gaussian noise."""
    return [x + noise * torch.randn(x.shape, generator=random) if noise else x for x in tokens]


class Tuning:
    """A model under few-shot tuning; :func:`tune` is its short form."""

    def __init__(self, model: nn.Module, config: TuneConfig, seed: int) -> None:
        self.model, self.config = model, config
        self.result = copy.deepcopy(model).requires_grad_(False)
        self.random = torch.Generator().manual_seed(seed)
        learning = [p for p in model.parameters() if p.requires_grad]
        decay = ([p for p in learning if p.ndim >= 2], [p for p in learning if p.ndim < 2])
        groups = [
            {"params": params, "weight_decay": wd}
            for params, wd in zip(decay, (config.weight_decay, 0.0), strict=True)
            if params
        ]
        self.learning = learning
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr)
        self.prior: Tensor | None = None

    def step(self, number: int, tokens: Tokens, labels: Tensor, unlabelled: Tokens | None) -> float:
        """One step; returns its loss."""
        c = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = c.lr * lr_share(number, c.steps, 0.1, "cosine")
        x = noised(tokens, c.noise, self.random)
        targets = None
        if unlabelled is not None and c.unlabelled and number >= c.start:
            rows = torch.randint(0, len(unlabelled[0]), (c.unlabelled_batch,), generator=self.random)
            clean = [u[rows] for u in unlabelled]
            targets = self.targets(clean)
            both = zip(x, noised(clean, c.unlabelled_noise, self.random), strict=True)
            x = [torch.cat(pair) for pair in both]  # one call is quicker than two
        logits = self.model(x)
        found = logits[: len(labels)]
        loss = (
            class_contrast(found[:, labels], labels)
            if c.loss == "contrast"
            else F.cross_entropy(found, labels)
        )
        if targets is not None:
            errors = -(targets * logits[len(labels) :].log_softmax(dim=1)).sum(dim=1)
            loss = loss + c.unlabelled * (errors * (targets.max(dim=1).values > c.confidence)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.learning, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        decay = min(c.average, (1 + number) / (10 + number))
        with torch.no_grad():
            for kept, new in zip(self.result.parameters(), self.model.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        return float(loss.detach())

    @torch.no_grad()
    def targets(self, clean: Tokens) -> Tensor:
        """The averaged model's predictions on clean unlabelled samples ``[n, C]``, balanced over the classes."""
        logits = self.result(clean)
        seen = logits.softmax(dim=1).mean(dim=0)
        if self.prior is None:
            self.prior = torch.full_like(seen, 1 / len(seen))
        self.prior = 0.95 * self.prior + 0.05 * seen
        return balanced_targets(logits, self.prior)


def tune(
    model: nn.Module,
    tokens: Tokens,
    labels: Tensor,
    config: TuneConfig,
    seed: int,
    unlabelled: Tokens | None = None,
    watch: Callable[[int, float], None] | None = None,
) -> nn.Module:
    """Tune a classifier on a few labelled samples.

    Args:
        model: tokens of each modality -> logits ``[n, C]``; it is changed.
        tokens: of the labelled samples.
        labels: their classes ``[n]``.
        config: how.
        seed: of noise and of the order of unlabelled samples.
        unlabelled: tokens of samples without labels; none when left out.
        watch: sees each step's number and loss.

    Returns:
        The averaged model, in evaluation mode.

    Raises:
        InputError: tokens and labels do not fit together.
    """
    if not len(labels) or any(len(x) != len(labels) for x in tokens):
        raise InputError(f"{len(labels)} labels for {[len(x) for x in tokens]} samples of the modalities")
    tuning = Tuning(model.train(), config, seed)
    for number in range(config.steps):
        loss = tuning.step(number, tokens, labels, unlabelled)
        if watch is not None:
            watch(number, loss)
    return tuning.result.eval()


@torch.no_grad()
def probabilities(
    model: nn.Module, tokens: Tokens, views: int = 1, noise: float = 0.0, seed: int = 0
) -> Tensor:
    """Class probabilities ``[n, C]``, averaged over noised views; one view is the clean sample.

    The noise step given to the encoder is always 0: predictions do not depend on a random number of the model's.
    """
    random = torch.Generator().manual_seed(seed)
    found = model(tokens).softmax(dim=1)
    for _ in range(views - 1):
        found = found + model(noised(tokens, noise, random)).softmax(dim=1)
    return found / views
