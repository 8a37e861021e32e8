"""Distillation and contrastive losses, each a function of embeddings (or states) that returns a scalar.

In a distributed run the losses that compare pairs within a batch gather the batch of all processes first (see
:mod:`cliplet.training.losses.gather`), so their value and gradient do not depend on the number of processes.
"""

from cliplet.training.losses.contrastive import affinity_mimicking, contrastive, interactive_contrastive
from cliplet.training.losses.embedding import FeatureMSE, cosine, l1
from cliplet.training.losses.gather import gather
from cliplet.training.losses.regulator import similarity_regulator
from cliplet.training.losses.relation import attention_distillation, hidden_distillation

__all__ = [
    "FeatureMSE",
    "affinity_mimicking",
    "attention_distillation",
    "contrastive",
    "cosine",
    "gather",
    "hidden_distillation",
    "interactive_contrastive",
    "l1",
    "similarity_regulator",
]
