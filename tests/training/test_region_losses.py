"""Losses of regions and phrases against cases worked by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from cliplet.training import losses


def test_distinct_phrases_are_the_contrastive_loss():
    generator = torch.Generator().manual_seed(0)
    regions, phrases = torch.randn(2, 5, 3, generator=generator)
    found = losses.region_phrases(regions, phrases, torch.arange(5), 7.0)
    assert found.item() == pytest.approx(losses.contrastive(regions, phrases, 7.0).item())


def test_equal_phrases_by_hand():
    # regions 0 and 1 show "a man", region 2 "a dog"; phrases 0 and 1 are one text
    regions = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    phrases = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 5.0]])
    found = losses.region_phrases(regions, phrases, torch.tensor([4, 4, 9]), 1.0)
    men = math.log(2 * math.e + 1) - 1  # -log of each of two equal shares, half a label each
    dog = math.log(2 + math.e) - 1
    assert found.item() == pytest.approx((2 * men + dog) / 3)
    with (
        torch.no_grad()
    ):  # as released, the other man is a negative: with sharp logits its loss stays at log 2
        released = losses.region_phrases(regions, phrases, torch.arange(3), 100.0).item()
        assert released == pytest.approx(2 / 3 * math.log(2))
    # the smallest that soft labels allow, and no pull apart: the gradient of the two men's phrases is the same
    phrases = phrases.requires_grad_()
    losses.region_phrases(regions, phrases, torch.tensor([4, 4, 9]), 100.0).backward()
    torch.testing.assert_close(phrases.grad[0], phrases.grad[1])
    assert phrases.grad.abs().max() < 1e-6


@pytest.mark.parametrize("rows", [0, 1])
def test_one_region_or_none(rows):
    regions = torch.randn(rows, 3, requires_grad=True)
    phrases, edited = torch.randn(rows, 3, requires_grad=True), torch.randn(rows, 2, 3)
    candidates = torch.cat([phrases[:, None], edited], dim=1)
    loss = losses.region_phrases(regions, phrases, torch.zeros(rows, dtype=torch.long), 10.0)
    hard = losses.hard_phrases(regions, candidates, torch.ones(rows, 3, dtype=torch.bool), 10.0)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert (hard.item() > 0) == bool(rows)
    (loss + hard).backward()
    assert regions.grad is not None
    assert phrases.grad is not None


def test_hard_phrases_by_hand():
    region = torch.tensor([[3.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    one, other = [1.0, 0.0], [0.0, 1.0]
    candidates = torch.tensor([[one, other, other], [one, other, one], [one, one, one]])
    mask = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    found = losses.hard_phrases(region, candidates, mask, 2.0)
    first = math.log(math.exp(2) + 2) - 2
    second = math.log(1 + math.exp(2))  # the third candidate is not there
    assert found.item() == pytest.approx((first + second) / 2)  # the third region has no edited phrase


def test_no_edited_phrase_in_a_batch():
    region = torch.randn(2, 3, requires_grad=True)
    loss = losses.hard_phrases(region, torch.randn(2, 1, 3), torch.ones(2, 1, dtype=torch.bool), 5.0)
    loss.backward()
    assert loss.item() == 0
    assert region.grad.abs().max() == 0


def test_the_losses_know_their_slope():
    generator = torch.Generator().manual_seed(1)
    regions, phrases = (
        torch.randn(4, 3, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)
    )
    same, mask = (
        torch.tensor([0, 1, 0, 2]),
        torch.tensor([[True, True], [True, False], [True, True], [True, True]]),
    )
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)

    def both(r, p, s):
        candidates = torch.stack([p, F.normalize(p.roll(1, 1), dim=1)], dim=1)
        return losses.region_phrases(r, p, same, s) + losses.hard_phrases(r, candidates, mask, s)

    assert torch.autograd.gradcheck(both, (regions, phrases, scale))
