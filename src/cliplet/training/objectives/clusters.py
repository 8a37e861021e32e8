"""The objective of nCLIP, which with the contrastive loss of the pairs is xCLIP."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from cliplet.errors import InputError
from cliplet.training import losses
from cliplet.training.losses.clusters import mean_clusters
from cliplet.training.objectives.base import Objective, Setup, Step
from cliplet.training.processes import say

EARLY = 20
"""Steps after which a collapse is told."""
MEMORY = 0.9
"""Of the running mean: about ten batches."""
FEW = 0.05
"""Share of the clusters in use below which it is one."""


@dataclass(frozen=True)
class NclipSettings:
    """nCLIP."""

    clusters: int = 256
    """Clusters, K."""
    width: int = 1024
    """Hidden width of the two heads."""
    layers: int = 2
    """Linear layers of each head, with GELU between them."""
    temperature: float = 0.2
    """Of the softmax over clusters. A low one makes heads sure before they agree, and all falls into one cluster."""
    lambda1: float = 0.5
    """Weight of the entropy of each photo's clusters, which makes them sure."""
    lambda2: float = 3.0
    """Weight of the entropy of the clusters' shares, which keeps all in use: above 1 + ``lambda1``, else one cluster
    for all is as good."""
    keep: float = 0.0
    """Share of the running mean over earlier batches in the clusters' shares, for far more clusters than photos a
    batch; 0 takes the batch alone. Near 1 the shares follow too late, and all photos move from cluster to cluster
    together."""

    def __post_init__(self) -> None:
        for name, least in (("clusters", 2), ("width", 1), ("layers", 1), ("lambda1", 0), ("lambda2", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name}={getattr(self, name)} of nclip must be at least {least}")
        if not self.temperature > 0 or not 0 <= self.keep < 1:
            raise InputError(
                f"temperature={self.temperature} of nclip must be above 0, and keep={self.keep} in 0..1, below 1"
            )


def _head(dim: int, settings: NclipSettings) -> nn.Sequential:
    widths = [dim, *[settings.width] * (settings.layers - 1), settings.clusters]
    parts: list[nn.Module] = []
    for before, after in pairwise(widths):
        parts += [nn.Linear(before, after), nn.GELU()]
    return nn.Sequential(*parts[:-1])


class Nclip(Objective):
    """nCLIP: a photo and its caption fall into the same cluster, surely, and all clusters are in use.

    ``L = L_CE + lambda1 L_H - lambda2 L_div``: :func:`~cliplet.training.losses.cluster_agreement`,
    :func:`~cliplet.training.losses.cluster_confidence` and :func:`~cliplet.training.losses.cluster_spread`, of two
    heads on the embeddings, which are dropped at export. For nCLIP alone set ``student.weights.contrastive=0``; with it
    and a weight of 0.1 this is xCLIP.
    """

    help = "nCLIP: a photo and its caption fall into the same cluster. With the contrastive loss beside it: xCLIP."
    settings_type = NclipSettings
    settings: NclipSettings
    mean: Tensor
    steps: Tensor

    def __init__(self, setup: Setup, settings: NclipSettings) -> None:
        super().__init__(setup, settings)
        dim = setup.learner.clip.encoder.card.embedding_dim
        self.image, self.text = _head(dim, settings), _head(dim, settings)
        self.register_buffer("mean", torch.full((2, settings.clusters), 1 / settings.clusters))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.warned = False

    def forward(self, step: Step) -> dict[str, Tensor]:
        """``loss``; ``agreement``, ``confidence`` and ``spread``; ``clusters``, how many photos and captions use."""
        s = self.settings
        image, text = (
            head(embedding * step.image.shape[1] ** 0.5) / s.temperature
            for head, embedding in ((self.image, step.image), (self.text, step.text))
        )
        terms = {
            "agreement": losses.cluster_agreement(image, text),
            "confidence": losses.cluster_confidence(image, text),
            "spread": losses.cluster_spread(image, text, self.mean, s.keep if self.steps else 0.0),
        }
        loss = terms["agreement"] + s.lambda1 * terms["confidence"] - s.lambda2 * terms["spread"]
        self._note(image.detach(), text.detach())
        used = self.used()
        return {"loss": loss, **{k: v.detach() for k, v in terms.items()}, "clusters": used}

    @torch.no_grad()
    def _note(self, image: Tensor, text: Tensor) -> None:
        """Take the batch into the running mean, and warn once where all falls into few clusters."""
        steps = int(self.steps)
        share = max(1 - MEMORY, 1 / (steps + 1))  # at first the mean of the batches so far
        self.mean.lerp_(mean_clusters(image, text).to(self.mean), share)
        self.steps += 1
        used, s = float(self.used()), self.settings
        if not self.warned and self.steps >= EARLY and used < max(2.0, FEW * s.clusters):
            self.warned = True
            say(
                f"nclip: photos and captions use {used:.1f} of {s.clusters} clusters after {int(self.steps)} steps: "
                f"they collapse; raise objectives.nclip.lambda2 (now {s.lambda2:g}), lower lambda1 (now {s.lambda1:g}) "
                f"or student_stage.lr, or raise student_stage.batch_size"
            )

    def used(self) -> Tensor:
        """Number of clusters in use, ``exp(H(shares))``, the smaller of photos and captions."""
        return torch.special.entr(self.mean).sum(dim=1).exp().min()
