"""Small models, photos and captions for the tests of training."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from cliplet.encoders.card import ImageSpec, ModelCard, TextSpec
from cliplet.encoders.torch import TorchEncoder
from cliplet.models.config import DualConfig, TextConfig, VisionConfig
from cliplet.models.dual import DualModel, save_weights

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (40, 60, 220), "yellow": (230, 220, 50)}
SHAPES = ("square", "bar", "corner", "frame")
WORDS = ["a", "the", "on", "big", "small", "picture", "of", "grey", *COLOURS, *SHAPES]


def tokenizer() -> Tokenizer:
    """Words of the toy captions, with the special tokens of BERT."""
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    made = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    made.normalizer = Lowercase()
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing("[CLS] $0 [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return made


def drawing(colour: str, shape: str, seed: int) -> Image.Image:
    """A coloured shape on grey, with a little noise."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(110, 140, (32, 32, 3), dtype=np.uint8)
    area = {
        "square": np.s_[8:24, 8:24], "bar": np.s_[12:20, :], "corner": np.s_[:12, :12], "frame": np.s_[:, :]
    }[shape]  # fmt: skip
    inside = pixels[10:22, 10:22].copy()
    pixels[area] = COLOURS[colour]
    if shape == "frame":
        pixels[10:22, 10:22] = inside
    return Image.fromarray(pixels)


def dataset(folder: Path, count: int = 48, seed: int = 0) -> Path:
    """A folder ``photos/`` and ``captions.jsonl`` with two captions a photo."""
    (folder / "photos").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(count):
        colour, shape = list(COLOURS)[i % 4], SHAPES[i // 4 % 4]
        drawing(colour, shape, int(rng.integers(1 << 30))).save(folder / "photos" / f"{i:03}.png")
        lines.append(f'{{"image": "{i:03}.png", "caption": "a {colour} {shape} on grey"}}')
        lines.append(f'{{"image": "{i:03}.png", "caption": "the picture of a {colour} {shape}"}}')
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return folder


CONFIG = DualConfig(
    image=VisionConfig(width=32, heads=4, blocks=1, image_size=32, patch_size=8, embedding_dim=16),
    text=TextConfig(
        width=32, heads=4, blocks=1, vocab_size=4 + len(WORDS), context_length=16, embedding_rank=8,
        mask="padding", embedding_dim=16,
    ),
)  # fmt: skip


def encoder(config: DualConfig = CONFIG, seed: int = 0) -> TorchEncoder:
    """A small model with random weights."""
    torch.manual_seed(seed)
    model = DualModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    card = ModelCard("small", 16, ImageSpec(32, "squash"), TextSpec(16, ""))
    return TorchEncoder(model.eval(), tokenizer(), card)


def model_folder(folder: Path, seed: int = 0) -> Path:
    """The same as a folder of PyTorch weights."""
    made = encoder(seed=seed)
    save_weights(made.model, folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    made.card.save(folder)
    return folder
