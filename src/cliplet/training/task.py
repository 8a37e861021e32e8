"""What the training loop trains: a module that computes its own loss and says which weights it is about."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cliplet.training.config import Schedule


class Task(nn.Module):
    """A module that computes its own loss, so that one call is one step on any number of devices.

    A subclass defines ``forward(batch)``, which takes a dictionary of tensors and returns ``loss``, the scalar to
    minimise, and further named scalars for the log. What a checkpoint keeps is the whole ``state_dict``; what is
    evaluated, averaged and kept as the best is :meth:`weights`.
    """

    def weights(self) -> dict[str, Tensor]:
        """The live tensors that are the result, by name; here those of ``self.model``."""
        model = self.model
        assert isinstance(model, nn.Module), "a task without a model defines weights()"
        return dict(model.state_dict())

    def begin(self, stage: Schedule) -> None:
        """Prepare for a stage: which parameters learn, where scalars start. Nothing by default."""


@torch.no_grad()
def put_weights(task: Task, weights: dict[str, Tensor]) -> None:
    """Set a task's :meth:`~Task.weights` from others of the same names."""
    for name, value in task.weights().items():
        value.copy_(weights[name])


class MovingAverage:
    """Exponential moving average of a task's weights (integers are copied)."""

    def __init__(self, task: Task, decay: float) -> None:
        self.task, self.decay = task, decay
        self.updates = 0
        self.state = {k: v.detach().clone() for k, v in task.weights().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the current weights; the decay rises from 0.1 in the first steps."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in self.task.weights().items():
            if value.dtype.is_floating_point:
                self.state[name].lerp_(value.to(self.state[name]), 1 - decay)
            else:
                self.state[name].copy_(value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The task has the averaged weights inside the block."""
        current = {k: v.detach().clone() for k, v in self.task.weights().items()}
        put_weights(self.task, self.state)
        try:
            yield
        finally:
            put_weights(self.task, current)
