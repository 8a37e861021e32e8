"""Two processes give the loss and the gradients of one."""

import os
import socket

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from cliplet.training import losses


class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(6, 4).double(), nn.Linear(5, 4).double()
        self.scale = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))

    def forward(self, pixels, words):
        return self.image(pixels), self.text(words), self.scale


IDS = torch.tensor(
    [[0, 1, 2], [3, 4, 5], [6, 1, 7], [8, 9, 9], [10, 0, 11], [12, 13, 14], [4, 15, 16], [17, 18, 19]]
)
"""Numbers of three texts a photo; some are another photo's too, in the other process as well."""


def data():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, d, generator=generator, dtype=torch.float64) for d in (6, 5, 4, 4)]


def several(text, other):
    return torch.stack([text, text + other, other], 1)


def total_loss(image, text, scale, t_image, t_text, ids):
    return (
        losses.contrastive(image, text, scale)
        + losses.similarity_regulator(image, text, t_image, t_text)
        + losses.affinity_mimicking(image, text, t_image, t_text, scale, 5.0)
        + losses.interactive_contrastive(image, text, t_image, t_text, scale)
        + losses.cosine(image, t_image)
        + losses.l1(text, t_text)
        + losses.multi_text(image, several(text, t_text), scale, ids)
        + losses.multi_positive(image, several(text, t_text), scale, ids)
        + losses.multi_positive(image, several(text, t_text), scale)
    )


def worker(rank, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    model = DistributedDataParallel(Towers())
    pixels, words, t_image, t_text, ids = (x[rank * 4 : rank * 4 + 4] for x in (*data(), IDS))
    loss = total_loss(*model(pixels, words), t_image, t_text, ids)
    loss.backward()
    if rank == 0:
        grads = {name: p.grad for name, p in model.module.named_parameters()}
        torch.save(grads, f"{folder}/grads.pt")
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # an ordinary exit aborts now and then, in a thread of PyTorch's that is still running


@pytest.mark.skipif(not dist.is_available(), reason="PyTorch without distributed")
def test_two_processes_give_the_gradients_of_one(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    multiprocessing.spawn(worker, (port, str(tmp_path)), nprocs=2)
    found = torch.load(tmp_path / "grads.pt", weights_only=True)
    model = Towers()
    pixels, words, t_image, t_text = data()
    total_loss(*model(pixels, words), t_image, t_text, IDS).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 1e-3
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-9, atol=1e-12)
