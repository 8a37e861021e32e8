"""ReLU conversion: the tower's start, what it learns from, and that it learns."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cliplet.models.config import TextConfig
from cliplet.models.text import TextTower
from cliplet.training.config import Schedule
from cliplet.training.text_distillation import Captions, encode_all
from lclip_everyday.recipe import Settings
from lclip_everyday.relu import LengthBatches, ReluStudent, relu_tower, shortened, without_end
from lclip_everyday.run import Run
from tests.training import make

CONFIG = TextConfig(
    width=32, heads=4, blocks=2, repeats=1, mixers=False, norm="post", vocab_size=40, context_length=32,
    embedding_rank=8, mask="padding", pooling="mean", embedding_dim=12, qkv_bias=True,
)  # fmt: skip


def _tower() -> TextTower:
    torch.manual_seed(0)
    tower = TextTower(CONFIG).eval()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return tower


def _tokens(count: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [[2, *rng.integers(4, 40, rng.integers(0, 12)), 3] for _ in range(count)]


def test_the_bias_becomes_a_part_of_the_weight() -> None:
    tower = _tower()
    quick = relu_tower(tower)
    assert quick.config.activation == "relu"
    for old, new in zip(tower.transformer.blocks, quick.transformer.blocks, strict=True):
        assert new.mlp.fc1.bias is None
        mean = old.repeats[0].norm1.bias
        torch.testing.assert_close(new.mlp.fc1(mean), old.mlp.fc1(mean), atol=1e-5, rtol=1e-4)
        x = torch.randn(3, 5, 32)
        torch.testing.assert_close(new.mlp(x), new.mlp.fc2(F.relu(x @ new.mlp.fc1.weight.T)))


def test_a_tower_learns_its_old_function_from_one_token_less() -> None:
    tower, tokens = _tower(), _tokens(256)
    quick = relu_tower(tower)
    student = ReluStudent(quick, tower)
    wanted = F.normalize(torch.from_numpy(encode_all(tower, tokens)), dim=1)

    def likeness() -> float:
        found = torch.from_numpy(encode_all(quick, [t[:-1] for t in tokens]))
        return float((F.normalize(found, dim=1) * wanted).sum(dim=1).mean())

    before, table = likeness(), quick.embedding.table.weight.clone()
    learning = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=3e-3)
    for epoch in range(8):
        for batch in LengthBatches(tokens, 32, 0).load(epoch, 0):
            found = student(batch)
            torch.testing.assert_close(found["loss"].detach(), 5 * found["cosine"] + found["states"])
            optimizer.zero_grad()
            found["loss"].backward()
            optimizer.step()
    assert 1 - likeness() < 0.5 * (1 - before)
    assert torch.equal(quick.embedding.table.weight, table)
    assert not any("old" in name for name in student.state_dict())


def test_batches_hold_like_lengths_and_can_be_resumed() -> None:
    batches = LengthBatches(_tokens(1000), 16, 3)
    assert batches.batches == 62
    whole = list(batches.load(1, 0))
    assert len(whole) == 62
    for batch, again in zip(whole[40:], batches.load(1, 40), strict=True):
        assert torch.equal(batch["input_ids"], again["input_ids"])
    filled = sum(float(batch["attention_mask"].sum()) for batch in whole)
    assert filled > 0.9 * sum(batch["attention_mask"].numel() for batch in whole)
    assert not torch.equal(whole[0]["input_ids"], next(batches.load(2, 0))["input_ids"])


def test_shortened_captions_keep_their_ends() -> None:
    rng = np.random.default_rng(0)
    tokens = [2, *range(10, 22), 3]
    found = [shortened(tokens, rng) for _ in range(400)]
    assert all(f[0] == 2 and f[-1] == 3 and len(f) > 2 and set(f) <= set(tokens) for f in found)
    assert 0.6 < np.mean([f == tokens for f in found]) < 0.85
    assert shortened([2, 3], rng) == [2, 3]


def test_a_tokeniser_without_end() -> None:
    tokenizer = make.tokenizer()
    short = without_end(tokenizer)
    assert short.encode("a big bar").tokens == tokenizer.encode("a big bar").tokens[:-1]
    assert short.encode("").tokens == ["[CLS]"]


def test_the_recipes_stage(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    run = Run.__new__(Run)  # without the data of the other stages
    stage = Schedule(name="quick", epochs=4, batch_size=16, lr=3e-3)
    run.settings, run.out = Settings(relu_stage=stage), tmp_path
    run.accelerator = accelerate.Accelerator(cpu=True)
    tower, tokens = _tower(), _tokens(256)
    captions = Captions([""] * 256, np.arange(256), tokens, np.zeros((256, 12), dtype=np.float32))
    quick = run.with_relus(tower, captions, captions)
    wanted = F.normalize(torch.from_numpy(encode_all(tower, tokens)), dim=1)
    found = F.normalize(torch.from_numpy(encode_all(quick, [t[:-1] for t in tokens])), dim=1)
    assert (found * wanted).sum(dim=1).mean() > 0.9
    assert (tmp_path / "relu.safetensors").is_file()
