"""S-CLIP's losses by hand, and nCLIP's: formulas, equal texts, what the released code gives, two processes."""

import doctest
import importlib
from math import log

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from cliplet.training import losses
from cliplet.training.losses.clusters import mean_clusters
from cliplet.training.losses.semi import keyword_shares, shares, sinkhorn
from tests.training.two import joined, spawn_two


def doubles(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)


def unit(*angles):
    angles = torch.tensor(angles, dtype=torch.float64)
    return torch.stack([angles.cos(), angles.sin()], dim=1)


@pytest.mark.parametrize("name", ["semi", "clusters"])
def test_examples_in_docstrings(name):
    module = importlib.import_module(f"cliplet.training.losses.{name}")
    result = doctest.testmod(module, extraglobs={"torch": torch})
    assert result.attempted > 0
    assert result.failed == 0


# ---------------------------------------------------------------- transport
def test_sinkhorns_rows_and_columns():
    cost = doubles(6, 6).detach()
    plan = sinkhorn(cost, 1.0, 200)
    assert torch.allclose(plan.sum(dim=1), torch.ones(6).double())
    assert torch.allclose(plan.sum(dim=0), torch.ones(6).double())
    assert torch.allclose(sinkhorn(cost[:4], 1.0, 200).sum(dim=0), torch.full((6,), 4 / 6).double())
    # a scaling of the kernel's rows and columns: the log of its cross ratios is that of the kernel's
    log_plan, kernel = plan.log(), -cost
    for x in (log_plan, kernel):
        x -= x[:1] + x[:, :1] - x[0, 0]
    assert torch.allclose(log_plan, kernel, atol=1e-9)


def test_sinkhorn_of_one_photo_and_of_no_entropy():
    assert sinkhorn(torch.tensor([[0.3]]), 0.01).item() == 1
    # rows 0 and 1 both lie nearest to column 0, but only one of them can have it
    cost = torch.tensor([[0.0, 0.5, 0.9], [0.1, 0.9, 0.7], [0.9, 0.8, 0.2]])
    assert sinkhorn(cost, 1e-3, 500).round().tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert torch.isfinite(sinkhorn(cost * 100, 1e-4)).all()


def test_the_plan_has_no_gradient():
    bare, image, text = doubles(3, 5), doubles(4, 5), doubles(4, 5, seed=1)
    losses.caption_labels(bare, image, text, 5.0).backward()
    assert image.grad is None
    assert bare.grad.abs().max() > 1e-3
    assert text.grad.abs().max() > 1e-3
    assert not sinkhorn(doubles(2, 2), 0.1).requires_grad


def test_four_ways_to_liken_photos():
    bare, image = unit(0.1, 0.2), unit(0.0, 1.0)
    assert shares(bare, image, 20.0, "nearest").tolist() == [[1, 0], [1, 0]]
    soft = shares(bare, image, 20.0, "soft")
    assert torch.allclose(soft, (20 * F.cosine_similarity(bare[:, None], image[None], dim=2)).softmax(1))
    plan = shares(bare, image, 20.0, "transport", 200)
    assert torch.allclose(plan.sum(dim=0), torch.ones(2).double())  # the second photo has to speak for one
    assert torch.equal(shares(bare, image, 20.0, "shuffled", 200), plan[[1, 0]])


# ---------------------------------------------------------------- S-CLIP
def test_bare_contrastive_is_contrastive_with_more_negatives():
    image, text, bare = doubles(4, 5), doubles(4, 5, seed=1), doubles(3, 5)
    plain = losses.contrastive(image, text, 3.0)
    assert losses.bare_contrastive(image, text, bare[:0], 3.0).item() == pytest.approx(plain.item())
    s = 3 * F.normalize(text, dim=1) @ F.normalize(torch.cat([image, bare]), dim=1).T
    expected = F.cross_entropy(s, torch.arange(4)) + F.cross_entropy(s[:, :4].T, torch.arange(4))
    assert losses.bare_contrastive(image, text, bare, 3.0).item() == pytest.approx(expected.item() / 2)


def test_equal_texts_are_no_negatives():
    image, bare = unit(0.0, 0.0, 1.5), unit(0.7)
    text = unit(0.0, 0.0, 1.5)
    group = torch.tensor([7, 7, 2])
    found = losses.bare_contrastive(image, text, bare, 50.0, group)
    # photos: one distinct text is right; texts 0 and 1: two photos are right with a half each, log 2
    assert found.item() == pytest.approx(2 / 3 * log(2) / 2, abs=1e-5)
    # twice the same text: the label says the same as with the text once
    labels = losses.caption_labels(bare, image, text, 4.0, "soft", group)
    once = (4 * bare @ text[1:].T).log_softmax(dim=1)
    weights = shares(bare, image, 4.0, "soft") @ torch.tensor([[1.0, 0], [1, 0], [0, 1]]).double()
    assert labels.item() == pytest.approx(-(weights * once).sum().item() / 2)


def test_caption_labels_by_hand():
    bare, image, text = doubles(3, 5), doubles(4, 5), doubles(4, 5, seed=1)
    unit_bare, unit_image, unit_text = (F.normalize(x, dim=1) for x in (bare, image, text))
    plan = sinkhorn(1 - unit_bare @ unit_image.T, 1 / 6, 10)
    expected = F.cross_entropy(6 * unit_bare @ unit_text.T, plan) / 2
    assert losses.caption_labels(bare, image, text, 6.0).item() == pytest.approx(expected.item())


def test_keyword_shares_and_those_of_the_released_code():
    three = torch.ones(1, 3)
    near, apart = torch.tensor([[0.30, 0.25, 0.20]]), torch.tensor([[0.30, 0.05, -0.20]])
    shown = [keyword_shares(near, three, 100.0, w)[0].tolist() for w in ("softmax", "uniform", "released")]
    assert shown[0] == pytest.approx([0.99, 0.01, 0.0], abs=5e-3)
    assert shown[1] == pytest.approx([1 / 3] * 3)
    assert shown[2] == pytest.approx([0.40, 0.33, 0.27], abs=5e-3)
    assert keyword_shares(apart, three, 100.0, "released")[0].tolist() == pytest.approx(
        [2.0, 0.33, -1.33], abs=5e-3
    )
    one = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    for weights in ("softmax", "uniform", "released"):
        found = keyword_shares(near.repeat(2, 1), one, 100.0, weights)
        assert found[0, 0] == 0
        assert found[0].sum().item() == pytest.approx(1)
        assert found[1].tolist() == [0, 0, 0]  # no candidate


def test_keyword_labels_by_hand_and_as_a_partial_label():
    image, keywords = unit(0.0, 1.5), unit(0.0, 0.5, 1.5)
    bare = unit(0.2, 1.4).requires_grad_()
    named = torch.tensor([[True, True, False], [False, False, False]])
    logs = (3 * bare @ keywords.T).log_softmax(dim=1)
    found = losses.keyword_labels(bare, image, keywords, named, 3.0, "uniform")
    assert found.item() == pytest.approx(-logs[0, :2].mean().item() / 4)  # the second photo adds 0 and counts
    own = torch.autograd.grad(losses.keyword_labels(bare, image, keywords, named, 3.0), bare)[0]
    joint = torch.autograd.grad(-logs[0, :2].logsumexp(dim=0) / 4, bare)[0]
    normal = own - (own * bare).sum(dim=1, keepdim=True) * bare  # the loss does not see lengths
    assert torch.allclose(normal, joint - (joint * bare).sum(dim=1, keepdim=True) * bare)


# ---------------------------------------------------------------- nCLIP
def test_cluster_losses_by_hand():
    own, same, flat = 1e3 * torch.eye(8), 1e3 * torch.eye(8)[:1].repeat(8, 1), torch.zeros(8, 8)
    names = (losses.cluster_agreement, losses.cluster_confidence, losses.cluster_spread)
    assert [f(own, own).item() for f in names] == pytest.approx([0, 0, log(8)], abs=1e-6)
    assert [f(flat, flat).item() for f in names] == pytest.approx([2.0794] * 3, abs=1e-4)
    assert [f(same, same).item() for f in names] == pytest.approx([0, 0, 0], abs=1e-6)


def test_cluster_agreement_is_confidence_and_divergence():
    a, b = doubles(4, 6), doubles(4, 6, seed=1)
    p, q = a.log_softmax(1), b.log_softmax(1)
    apart = F.kl_div(p, q, log_target=True, reduction="batchmean") + F.kl_div(
        q, p, log_target=True, reduction="batchmean"
    )
    expected = losses.cluster_confidence(a, b) + apart / 2
    assert losses.cluster_agreement(a, b).item() == pytest.approx(expected.item())


def test_a_sure_head_gets_finite_gradients():
    sure = (1e4 * torch.eye(4)).requires_grad_()
    for loss in (losses.cluster_agreement, losses.cluster_confidence, losses.cluster_spread):
        (grad,) = torch.autograd.grad(loss(sure, sure), sure)
        assert torch.isfinite(grad).all()


def test_the_running_mean_stands_for_the_batch_and_the_batch_has_the_gradient():
    a, b = doubles(4, 6), doubles(4, 6, seed=1)
    earlier = torch.full((2, 6), 1 / 6, dtype=torch.float64)
    earlier[0] = torch.tensor([0.95, 0.01, 0.01, 0.01, 0.01, 0.01])
    means = mean_clusters(a, b)
    mixed = (0.9 * earlier + 0.1 * means).detach()
    found = losses.cluster_spread(a, b, earlier, 0.9)
    assert found.item() == pytest.approx(torch.special.entr(mixed).sum(dim=1).mean().item())
    (own,) = torch.autograd.grad(found, a, retain_graph=True)
    (expected,) = torch.autograd.grad((means * -(mixed.log() + 1)).sum() / 2, a)
    assert torch.allclose(own, expected)
    assert own[:, 0].sum() < 0  # away from the cluster that was full


@pytest.mark.parametrize(
    "loss",
    [
        lambda a, b, c: losses.bare_contrastive(a, b, c, 3.0, torch.tensor([0, 1, 1, 2])),
        lambda a, b, c: losses.caption_labels(a, c.detach(), b, 3.0, "nearest"),
        lambda a, b, c: losses.cluster_agreement(a, b),
        lambda a, b, c: losses.cluster_confidence(a, b),
        lambda a, b, c: losses.cluster_spread(a, b),
    ],
    ids=["bare", "captions", "agreement", "confidence", "spread"],
)
def test_gradients_equal_finite_differences(loss):
    assert torch.autograd.gradcheck(loss, [doubles(4, 6, seed=i) for i in range(3)])


# ---------------------------------------------------------------- two processes
class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(6, 4).double(), nn.Linear(5, 4).double()

    def forward(self, pixels, bare, words, keywords):
        return self.image(pixels), self.image(bare), self.text(words), self.text(keywords)


def data():
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randn(8, d, generator=generator, dtype=torch.float64) for d in (6, 6, 5)]
    rows[2][5] = rows[2][1]  # an equal text in the other process
    candidates = torch.rand(8, 3, generator=generator) < 0.5
    group = torch.tensor([0, 1, 2, 3, 4, 1, 6, 7])
    return *rows, candidates, group, torch.randn(3, 5, generator=generator, dtype=torch.float64)


def total_loss(image, bare, text, keywords, candidates, group):
    known = torch.full((2, 4), 0.25, dtype=torch.float64)
    return (
        losses.bare_contrastive(image, text, bare, 3.0, group)
        + losses.caption_labels(bare, image, text, 3.0, group=group)
        + losses.caption_labels(bare, image, text, 3.0, "shuffled", group)
        + losses.keyword_labels(bare, image, keywords, candidates, 3.0)
        + losses.cluster_agreement(image, text)
        + losses.cluster_confidence(image, text)
        - losses.cluster_spread(image, text)
        - losses.cluster_spread(image, text, known, 0.5)
    )


def worker(rank, port, folder):
    with joined(rank, port):
        model = DistributedDataParallel(Towers())
        *parts, keywords = data()
        pixels, bare, words, candidates, group = (x[rank * 4 : rank * 4 + 4] for x in parts)
        loss = total_loss(*model(pixels, bare, words, keywords), candidates, group)
        loss.backward()
        if rank == 0:
            torch.save({name: p.grad for name, p in model.module.named_parameters()}, f"{folder}/grads.pt")


@pytest.mark.skipif(not dist.is_available(), reason="PyTorch without distributed")
def test_two_processes_give_the_gradients_of_one(tmp_path):
    spawn_two(worker, str(tmp_path))
    found = torch.load(tmp_path / "grads.pt", weights_only=True)
    model = Towers()
    pixels, bare, words, candidates, group, keywords = data()
    total_loss(*model(pixels, bare, words, keywords), candidates, group).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 1e-3
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-9, atol=1e-12)
