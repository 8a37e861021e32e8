"""A small captioner and toy photos for the tests."""

from pathlib import Path
from typing import Any

import torch

from cliplet.captioner.decoding import Limits
from cliplet.models.captioner import CaptionDecoder
from cliplet.models.captioner_config import CaptionerConfig, GridConfig
from cliplet.training.captioner.config import CaptionRecipe, CaptionStage, RewardWeight
from cliplet.training.captioner.towers import GridTower
from cliplet.training.config import DataConfig
from tests.training import make

GRID = GridConfig(towers=("timm:test_efficientnet",), pretrained=False, size=32)
CONFIG = CaptionerConfig(
    grid=GRID, width=32, heads=2, layers=2, vocab_size=23, max_tokens=9, dropout=0.0, feature_dropout=0.0
)
LIMITS = Limits(start_id=2, end_id=3, max_tokens=9)


def decoder(seed: int = 0, cells: int = 4, channels: int = 6) -> CaptionDecoder:
    """A decoder whose random weights are large enough to give varied captions."""
    torch.manual_seed(seed)
    made = CaptionDecoder(CONFIG, cells, channels)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return made.eval()


def tower(seed: int = 0) -> GridTower:
    """A small convolutional tower with random weights."""
    torch.manual_seed(seed)
    return GridTower(GRID)


def recipe(folder: Path, stages: tuple[CaptionStage, ...], **changes: Any) -> CaptionRecipe:
    """A recipe on toy photos below ``folder``, which are drawn when they are not there."""
    data = folder / "data"
    if not data.exists():
        make.dataset(data, count=16)
    pairs = DataConfig(captions=(f"{data}/captions.jsonl",), photos=(f"{data}/photos",))
    values = {"out": str(folder / "run"), "cache": str(folder / "cache"), "cpu": True, "model": CONFIG,
              "tokenizer_size": 100, "train": pairs, "dev": pairs, "stages": stages, "save_every": 3}  # fmt: skip
    model = CaptionerConfig(**{**vars(CONFIG), "vocab_size": 0, "max_tokens": 12})
    return CaptionRecipe(**{**values, "model": model, **changes})


def cross_entropy(**changes: Any) -> CaptionStage:
    """Two short epochs."""
    return CaptionStage(**{"epochs": 2, "batch_size": 4, "lr": 5e-3, **changes})


def self_critical(*parts: str, **changes: Any) -> CaptionStage:
    """Two short epochs with rewards that need no photos."""
    rewards = tuple(RewardWeight(name) for name in parts or ("cider", "repetition"))
    values = {"kind": "self_critical", "epochs": 2, "updates": 4, "batch_size": 4, "samples": 3, "lr": 1e-3}
    return CaptionStage(**{**values, "rewards": rewards, **changes})
