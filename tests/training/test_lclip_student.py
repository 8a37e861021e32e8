"""The packaged model's student: its losses by hand, its towers against the whole ones."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cliplet.models.config import TextConfig
from cliplet.models.text import TextTower
from cliplet.training import losses
from cliplet.training.text_distillation import (
    Captions,
    TextBatches,
    TextStudent,
    encode_by_length,
    meaning_of,
)
from lclip_everyday.data import PairBatches
from lclip_everyday.heads import joined
from lclip_everyday.student import (
    NearNames,
    PairStudent,
    TwinTower,
    halves,
    head_inputs,
    soft_cross_entropy,
    soft_targets,
)

TEXT = TextConfig(
    width=16, heads=4, blocks=1, repeats=2, vocab_size=40, context_length=32, embedding_rank=4, mask="padding",
    pooling="mean", embedding_dim=12,
)  # fmt: skip


def _unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


def test_without_soft_share_the_loss_is_the_contrastive_one() -> None:
    torch.manual_seed(0)
    image, text = _unit(6, 5), _unit(6, 5)
    logits, target = 7.0 * image @ text.T, soft_targets(image @ image.T, torch.arange(6), 0.0)
    ours = (soft_cross_entropy(logits, target) + soft_cross_entropy(logits.T, target)) / 2
    assert torch.allclose(ours, losses.contrastive(image, text, 7.0), atol=1e-6)


def test_soft_targets_are_shares_and_favour_like_photos() -> None:
    photos = F.normalize(torch.tensor([[1.0, 0.0], [0.99, 0.1], [0.0, 1.0], [0.98, 0.1]]), dim=1)
    similarity = photos[:2] @ photos.T
    similarity[:, 3] = -1e4  # not seen yet
    target = soft_targets(similarity, torch.tensor([0, 1]), 0.4)
    assert torch.allclose(target.sum(dim=1), torch.ones(2))
    assert target[0, 1] > 100 * target[0, 2]
    assert target[0, 0] > 0.6
    assert target[0, 3] == 0


def test_sorting_by_length_changes_nothing() -> None:
    torch.manual_seed(0)
    tower = TextTower(TEXT).eval()
    lengths = torch.tensor([5, 2, 9, 3, 7])
    mask = (torch.arange(9) < lengths[:, None]).long()
    ids = torch.randint(1, 40, (5, 9)) * mask
    with torch.no_grad():
        assert torch.allclose(encode_by_length(tower, ids, mask, 2), tower(ids, mask), atol=1e-5)


def test_near_names_by_hand() -> None:
    """A thing that is there against its nearest names, but for those that may be there too."""
    names = F.normalize(
        torch.tensor([[1.0, 0.0], [0.9, 0.3], [0.8, 0.5], [-1.0, 0.2]]), dim=1
    )  # cat, dog, bear, bus
    shares = torch.tensor([[0.9, 0.05, 0.0, 0.0], [0.9, 0.3, 0.0, 0.8], [0.2, 0.0, 0.0, 0.0]])
    loss = NearNames(names, shares, meaning=0.6, near=2)
    assert loss.near.tolist()[0] == [False, True, True, False]
    link = nn.Linear(2, 2, bias=False)
    nn.init.eye_(link.weight)
    torch.manual_seed(0)
    meaning, matching = _unit(3, 2), _unit(3, 2)
    alike = 20 * (0.6 * meaning + 0.4 * matching) @ names.T

    def term(photo: int, right: int, wrong: list[int]) -> torch.Tensor:
        return alike[photo, [right, *wrong]].logsumexp(0) - alike[photo, right]

    near_bus = loss.near[3].nonzero().ravel().tolist()
    wanted = [term(0, 0, [1, 2]), term(1, 0, [2]), term(1, 3, [k for k in near_bus if k not in (0, 1)])]
    found = loss(torch.arange(3), meaning, matching, link)
    torch.testing.assert_close(found, torch.stack(wanted).mean())
    assert loss(torch.tensor([2]), meaning[2:], matching[2:], link) == 0  # nothing is sure


def test_joined_halves_weigh_as_asked() -> None:
    torch.manual_seed(0)
    head = nn.Linear(10, 12)
    x = torch.randn(200, 10)
    with torch.no_grad():
        joined(head, head(x), 0.3)
        meaning, matching = head(x).chunk(2, dim=1)
    assert meaning.norm(dim=1).mean().item() == pytest.approx(0.3**0.5, rel=1e-4)
    assert matching.norm(dim=1).mean().item() == pytest.approx(0.7**0.5, rel=1e-4)


def _captions(photos: int = 12) -> Captions:
    rng = np.random.default_rng(0)
    photo = np.repeat(np.arange(photos), 3)
    tokens = [[1, 3 + int(p), *rng.integers(20, 40, rng.integers(1, 5)).tolist(), 2] for p in photo]
    target = (rng.normal(size=(photos, 6))[photo] + 0.3 * rng.normal(size=(len(photo), 6))).astype(np.float32)
    target /= np.linalg.norm(target, axis=1, keepdims=True)
    return Captions([f"two dogs run {i}" for i in range(len(photo))], photo, tokens, target)


def test_text_student_learns_its_targets() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(TEXT, embedding_dim=6)
    student = TextStudent(TextTower(config), 4)
    batches = TextBatches(_captions(), 8, seed=0)
    assert batches.batches == 4
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    seen = []
    for epoch in range(60):
        for batch in batches.load(epoch, 0):
            terms = student(batch)
            optimizer.zero_grad()
            terms["loss"].backward()
            optimizer.step()
            seen.append(terms["cosine"].item())
    assert np.mean(seen[-30:]) < 0.6 * np.mean(seen[:3])


class _Late(nn.Module):
    """Pooled maps, in place of the image tower's last stages."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 1)

    def features(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.float().mean(dim=(2, 3))


def test_pair_student_learns_pairs() -> None:
    torch.manual_seed(0)
    captions = _captions()
    rng = np.random.default_rng(1)
    maps = [rng.normal(size=(12, 16, 2, 2)).astype(np.float16)]
    means = captions.photo_targets(6)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    known = [rng.normal(size=(12, 16 + 3)).astype(np.float16)]
    batches = PairBatches(maps, known, captions, 6, 0)
    first = next(iter(batches.load(0, 0)))
    again = next(iter(batches.load(0, 0)))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert (captions.photo[first["columns"].numpy()] == np.arange(12)).all()
    photos = torch.from_numpy(means)
    tower = TwinTower(_Late(), 16, 3, 12, dropout=0.1)  # type: ignore[arg-type]
    student = PairStudent(tower, nn.Linear(6, 6), torch.from_numpy(captions.target), photos)
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-2)
    seen = []
    for epoch in range(60):
        for batch in batches.load(epoch, 0):
            terms = student(batch)
            optimizer.zero_grad()
            terms["loss"].backward()
            optimizer.step()
            seen.append(terms["loss"].item())
    assert np.mean(seen[-6:]) < 0.8 * np.mean(seen[6:12])
    assert student.seen.all()
    student.eval()
    meaning, _ = halves(tower.head(torch.from_numpy(head_inputs(tower, maps[0], known[0]))))
    assert (meaning * meaning_of(photos, 6)).sum(dim=1).mean().item() > 0.6


def test_a_photos_weight_is_its_share_of_the_losses() -> None:
    """A photo of weight 0 leaves the mean over the others, one of weight 2 counts as two."""
    torch.manual_seed(0)
    captions = _captions()
    photos = F.normalize(torch.randn(12, 6), dim=1)
    tower = TwinTower(_Late(), 16, 3, 12, dropout=0.0, alone=0.0)  # type: ignore[arg-type]
    maps, known, columns = torch.randn(4, 16, 2, 2), torch.randn(4, 19), torch.arange(0, 36, 3)

    def image_term(rows: list[int], weight: float) -> float:
        weights = torch.ones(12)
        weights[3] = weight
        target = torch.from_numpy(captions.target)
        student = PairStudent(tower, nn.Linear(6, 6), target, photos, 0.3, weights).eval()
        batch = {"maps": maps[rows], "known": known[rows], "photo": torch.tensor(rows), "columns": columns}
        return float(student(batch)["image"])

    without, alone = image_term([0, 1, 2], 1.0), image_term([3], 1.0)
    assert image_term([0, 1, 2, 3], 0.0) == pytest.approx(without, abs=1e-6)
    assert image_term([0, 1, 2, 3], 2.0) == pytest.approx((3 * without + 2 * alone) / 5, abs=1e-6)


def test_learnt_features_are_left_out_of_some_photos_in_training() -> None:
    torch.manual_seed(0)
    tower = TwinTower(_Late(), 16, 3, 12, dropout=0.0, alone=1.0)  # type: ignore[arg-type]
    maps, other, known = torch.randn(4, 16, 2, 2), torch.randn(4, 16, 2, 2), torch.randn(4, 19)
    torch.testing.assert_close(tower(maps, known), tower(other, known))
    assert not torch.allclose(tower.eval()(maps, known), tower(other, known))
