"""Several processes of one run (``accelerate launch``): which of them writes and speaks, what the others wait for."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def rank() -> int:
    """Number of this process, 0 for the first and where there is only one."""
    return _distributed().get_rank() if _together() else 0


def world() -> int:
    """How many processes there are."""
    return _distributed().get_world_size() if _together() else 1


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process goes through the block alone, then the others together, which find what it has written.

    Every process must come here. An error of the first one lets the others in, so that each says its own.
    """
    if rank():
        _distributed().barrier()
    try:
        yield
    finally:
        if world() > 1 and not rank():
            _distributed().barrier()


def of_first(value: bool) -> bool:
    """What the first process says, in all of them: whether a file is there may change while one is behind another.

    Every process must come here.
    """
    if world() == 1:
        return value
    found = [value]
    _distributed().broadcast_object_list(found)
    return found[0]


def say(text: str) -> None:
    """A line on standard error, from the first process alone."""
    if not rank():
        print(text, file=sys.stderr, flush=True)


def _distributed() -> Any:
    """PyTorch's module. Where PyTorch is not loaded (a recipe is only read) there is one process."""
    torch = sys.modules.get("torch")
    return None if torch is None else torch.distributed


def _together() -> bool:
    dist = _distributed()
    return dist is not None and dist.is_available() and dist.is_initialized()
