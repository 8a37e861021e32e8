"""SigLIP's loss: by hand, against the libraries', over two processes, and as an objective of a recipe."""

import json
from math import exp, log

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from cliplet.errors import InputError
from cliplet.models.dual import load_weights
from cliplet.training.dclip.run import dclip
from cliplet.training.losses import sigmoid
from cliplet.training.objectives import chosen_objectives
from cliplet.training.objectives.base import Step
from cliplet.training.objectives.sigmoid import Sigmoid, SigmoidSettings
from tests.training.test_dclip import recipe, write_data
from tests.training.two import joined, spawn_two


def pairs(rows=6, dim=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, dim, generator=generator, dtype=torch.float64) for _ in range(2)]


def test_by_hand():
    image, text = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])  # cosines 1 and 0.6, 0 and 0.8
    logits = [[2 * 1 - 1, 2 * 0.6 - 1], [2 * 0 - 1, 2 * 0.8 - 1]]
    expected = sum(log(1 + exp(-(1 if i == j else -1) * logits[i][j])) for i in range(2) for j in range(2))
    assert sigmoid(image, text, 2.0, -1.0).item() == pytest.approx(expected / 2)
    # the length of a row does not matter
    assert sigmoid(3 * image, 0.5 * text, 2.0, -1.0).item() == pytest.approx(expected / 2)


def test_equal_texts_are_no_negatives():
    image, text = pairs()
    text[3] = text[1]
    numbers = torch.tensor([0, 1, 2, 1, 4, 5])
    plain, aware = sigmoid(image, text, 10.0, -10.0), sigmoid(image, text, 10.0, -10.0, numbers)
    cosines = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    moved = sum(10 * cosines[i, j] - 10 for i, j in ((1, 3), (3, 1)))  # softplus(z) - softplus(-z) = z
    assert (plain - aware).item() == pytest.approx(moved.item() / 6)
    assert sigmoid(image, text, 10.0, -10.0, torch.arange(6)).item() == plain.item()


def test_the_libraries_losses_are_the_same(torchvision):
    open_clip = pytest.importorskip("open_clip")
    image, text = (F.normalize(x, dim=1) for x in pairs())
    ours = sigmoid(image, text, 12.0, -9.0)
    theirs = open_clip.loss.SigLipLoss()(image, text, torch.tensor(12.0), torch.tensor(-9.0))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_transformers_loss_is_the_same(torchvision):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.SiglipConfig(
        text_config={**sizes, "vocab_size": 20, "max_position_embeddings": 6},
        vision_config={**sizes, "image_size": 8, "patch_size": 4},
    )
    torch.manual_seed(0)
    model = transformers.SiglipModel(config).eval()
    with torch.no_grad():
        model.logit_scale.fill_(log(10))
        model.logit_bias.fill_(-10)
        found = model(
            input_ids=torch.randint(20, (4, 6)), pixel_values=torch.randn(4, 3, 8, 8), return_loss=True
        )
    ours = sigmoid(found.image_embeds, found.text_embeds, 10.0, -10.0)
    assert ours.item() == pytest.approx(found.loss.item(), rel=1e-5)


# ---------------------------------------------------------------- processes
class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(5, 4).double(), nn.Linear(5, 4).double()
        self.scale = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor(-2.0, dtype=torch.float64))

    def forward(self, image, text):
        return self.image(image), self.text(text), self.scale, self.bias


NUMBERS = torch.tensor([0, 1, 2, 3, 4, 2, 5, 0])  # equal ones lie in both processes


def worker(rank, port, folder):
    with joined(rank, port):
        model = DistributedDataParallel(Towers())
        own = slice(rank * 4, rank * 4 + 4)
        image, text = (x[own] for x in pairs(8))
        loss = sigmoid(*model(image, text), NUMBERS[own])
        loss.backward()
        if rank == 1:
            grads = {name: p.grad for name, p in model.module.named_parameters()}
            torch.save({"loss": loss.detach(), **grads}, f"{folder}/grads.pt")


@pytest.mark.skipif(not dist.is_available(), reason="PyTorch without distributed")
def test_two_processes_give_the_loss_and_gradients_of_one(tmp_path):
    spawn_two(worker, str(tmp_path))
    found = torch.load(tmp_path / "grads.pt", weights_only=True)
    model = Towers()
    loss = sigmoid(*model(*pairs(8)), NUMBERS)
    loss.backward()
    torch.testing.assert_close(found["loss"], loss.detach(), rtol=1e-12, atol=1e-12)
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 1e-3
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------- objective
class Setup:
    class train:
        captions = ("a dog", "a cat", "a  dog", "a bird")


def test_the_scale_stops_at_100_and_can_come_down_again():
    objective = Sigmoid(Setup, SigmoidSettings(scale=100.0))
    with torch.no_grad():
        objective.log_scale += 1.0  # a step of the optimiser too far
    image, text = (F.normalize(x, dim=1).float() for x in pairs(4))
    found = objective(Step(image, text, 20.0, {"texts": torch.arange(4)}, None, None))
    assert found["scale"].item() == pytest.approx(100, rel=1e-5)
    found["loss"].backward()
    assert objective.log_scale.grad != 0


def test_equal_captions_have_one_number():
    class Drawn:
        captions = torch.tensor([0, 3, 2, 1]).numpy()

    numbers = Sigmoid(Setup, SigmoidSettings()).batch(Drawn)["texts"]
    assert numbers[0] == numbers[2]
    assert len(set(numbers.tolist())) == 3


def test_settings_are_checked():
    with pytest.raises(InputError, match=r"sigmoid\.scale=0"):
        chosen_objectives({"sigmoid": {"scale": 0.0}})


def test_a_recipe_learns_by_it_instead_of_the_contrastive_loss(tmp_path):
    data = write_data(tmp_path)
    changes = ("student.weights={contrastive = 1.0, image = 0.0, text = 0.0}", "objectives.sigmoid=1.0")
    dclip(recipe(data, tmp_path / "run", *changes))
    lines = (tmp_path / "run" / "dclip-seed0" / "log.jsonl").read_text().splitlines()
    steps = [line for line in map(json.loads, lines) if line["kind"] == "train"]
    assert "contrastive" not in steps[0]
    assert steps[-1]["sigmoid"] < steps[0]["sigmoid"]
    assert steps[-1]["sigmoid.bias"] != steps[0]["sigmoid.bias"]
    assert 0 < steps[-1]["sigmoid.scale"] <= 100
    # scale and bias of the loss are not in the model
    names = dict(load_weights(tmp_path / "run" / "dclip-seed0" / "model").named_parameters())
    assert set(names) == set(dict(load_weights(data / "base").named_parameters()))
