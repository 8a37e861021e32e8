"""Two processes give the loss and the gradients of one."""

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cliplet.training import losses
from tests.training.two import joined, spawn_two


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
    with joined(rank, port):
        model = DistributedDataParallel(Towers())
        pixels, words, t_image, t_text, ids = (x[rank * 4 : rank * 4 + 4] for x in (*data(), IDS))
        loss = total_loss(*model(pixels, words), t_image, t_text, ids)
        loss.backward()
        if rank == 0:
            grads = {name: p.grad for name, p in model.module.named_parameters()}
            torch.save(grads, f"{folder}/grads.pt")


@pytest.mark.skipif(not dist.is_available(), reason="PyTorch without distributed")
def test_two_processes_give_the_gradients_of_one(tmp_path):
    spawn_two(worker, str(tmp_path))
    found = torch.load(tmp_path / "grads.pt", weights_only=True)
    model = Towers()
    pixels, words, t_image, t_text = data()
    total_loss(*model(pixels, words), t_image, t_text, IDS).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 1e-3
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-9, atol=1e-12)


def ragged_worker(rank, port, folder, rows):
    with joined(rank, port):
        model = DistributedDataParallel(Towers())
        for name, (first, last) in rows.items():
            model.zero_grad()
            loss = regions_loss(model, first if rank == 0 else last, last if rank == 0 else 8)
            loss.backward()
            if rank == 0:
                grads = {n: p.grad for n, p in model.module.named_parameters()}
                torch.save({"loss": loss.detach(), **grads}, f"{folder}/{name}.pt")


def regions_loss(model, start, stop):
    """Both losses of regions, of some of the rows."""
    pixels, words, *_ = data()
    image, text, scale = model(pixels[start:stop], words[start:stop])
    same, there = torch.tensor([0, 1, 0, 2, 1, 3, 4, 0]), torch.ones(8, 3, dtype=torch.bool)
    there[1, 1:] = False
    there[6, 2] = False
    candidates = torch.stack([text, text.roll(1, 1), text.roll(2, 1)], dim=1)
    return losses.region_phrases(image, text, same[start:stop], scale) + losses.hard_phrases(
        image, candidates, there[start:stop], scale
    )


@pytest.mark.skipif(not dist.is_available(), reason="PyTorch without distributed")
def test_processes_may_have_another_number_of_regions_each(tmp_path):
    rows = {"three and five": (0, 3), "none and eight": (0, 0), "one": (7, 7), "none": (8, 8)}
    spawn_two(ragged_worker, str(tmp_path), rows)
    for name, (first, _) in rows.items():
        model = Towers()
        loss = regions_loss(model, first, 8)
        loss.backward()
        found = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        torch.testing.assert_close(found["loss"], loss.detach())
        for key, parameter in model.named_parameters():
            torch.testing.assert_close(found[key], parameter.grad, rtol=1e-9, atol=1e-12)
