"""Two processes of one run on this machine, for tests of what they share."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing


def spawn_two(worker: Callable[..., None], *arguments: Any) -> None:
    """Run ``worker(rank, port, *arguments)`` in two processes, and wait for both."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    multiprocessing.spawn(worker, (port, *arguments), nprocs=2)


@contextmanager
def joined(rank: int, port: int) -> Iterator[None]:
    """The other process is reached inside the block; with its end this process ends, once both are there."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    yield
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # an ordinary exit aborts now and then, in a thread of PyTorch's that is still running
