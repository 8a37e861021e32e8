"""Writing a captioner's folder: ``grid.onnx``, ``decoder.onnx``, vocabulary and card."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cliplet.captioner.decoding import DecodeConfig
from cliplet.captioner.folder import CARD, CaptionerCard
from cliplet.captioner.model import Captioner
from cliplet.encoders.card import ImageSpec
from cliplet.errors import InputError, ModelError
from cliplet.export.folder import PRECISIONS
from cliplet.export.graph import Precision, write
from cliplet.export.onnx_grid import OnnxGrid, inline_towers
from cliplet.export.same_padding import fix_same_padding
from cliplet.files import whole
from cliplet.models.captioner import CaptionDecoder
from cliplet.training.captioner.towers import GridTower
from cliplet.training.captioner.vocabulary import END, START

TOLERANCE = {"fp32": 1e-3, "fp16": 0.1, "int8": 3.0}
"""Largest difference of a logit between PyTorch and the folder that an export may show."""


class _PhotoSide(nn.Module):
    """uint8 pixels -> memory: tower and the decoder's keys and values in one graph."""

    def __init__(self, tower: GridTower, decoder: CaptionDecoder) -> None:
        super().__init__()
        self.tower, self.decoder = tower, decoder

    def forward(self, pixels: Tensor) -> Tensor:
        """``[n, H, W, 3]`` -> ``[n, L, 2, N, D]``."""
        return self.decoder.memory(self.tower(pixels))


def export_captioner(
    tower: GridTower,
    decoder: CaptionDecoder,
    tokenizer: Any,
    out: str | Path,
    name: str,
    precision: Precision = "fp16",
    decode: DecodeConfig | None = None,
    **about: Any,
) -> float:
    """Write a folder that ``cliplet caption run`` takes; it appears whole or not at all.

    Args:
        tower: the image tower.
        decoder: the decoder.
        tokenizer: its vocabulary, a ``tokenizers.Tokenizer``.
        out: the folder; a captioner's folder there is replaced.
        name: of the model.
        precision: how weights are stored.
        decode: how it decodes when nothing else is asked for.
        about: further fields of :class:`~cliplet.captioner.folder.CaptionerCard`.

    Returns:
        Largest difference of a first token's logit between the folder and PyTorch on two drawn photos.

    Raises:
        InputError: ``out`` exists and is something else.
        ModelError: PyTorch cannot write the model as ONNX, or the folder differs from it.
    """
    out = Path(out)
    if out.exists() and not ((out / CARD).is_file() or (out.is_dir() and not any(out.iterdir()))):
        raise InputError(f"{out} exists and is not a captioner's folder; name another one or remove it")
    tower, decoder = tower.eval().cpu(), decoder.eval().cpu()
    with whole(out) as part:
        part.mkdir(parents=True)
        _write_graphs(tower, decoder, part, precision)
        tokenizer.save(str(part / "tokenizer.json"), pretty=False)
        spec = tower.config
        CaptionerCard(
            name=name,
            start_id=tokenizer.token_to_id(START),
            end_id=tokenizer.token_to_id(END),
            max_tokens=decoder.config.max_tokens,
            image=ImageSpec(spec.size, spec.resize),
            decode=decode or DecodeConfig(),
            precision=PRECISIONS[precision],
            **about,
        ).save(part)
        difference = _difference(tower, decoder, part)
        if difference > TOLERANCE[precision]:
            raise ModelError(f"the exported captioner's logits differ by {difference:.3g} from PyTorch's")
    return difference


def _write_graphs(tower: GridTower, decoder: CaptionDecoder, folder: Path, precision: Precision) -> None:
    config, size = decoder.config, tower.config.size
    pixels = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    write(
        _PhotoSide(_traceable(tower), decoder).eval(),
        {"pixels": pixels},
        {"pixels": {0: "n"}},
        folder / "grid.onnx",
        precision,
        outputs={"memory": {0: "n"}},
    )
    inline_towers(folder / "grid.onnx", tower.bodies)
    memory = torch.randn(2, config.layers, 2, decoder.cells, config.width)
    tokens = torch.zeros(2, 3, dtype=torch.long)
    past = torch.randn(config.layers, 2, 2, 3, 4, config.width)
    write(
        decoder,
        {"memory": memory, "tokens": tokens, "past": past},
        {"memory": {0: "n"}, "tokens": {0: "n", 1: "k"}, "past": {2: "n", 3: "k", 4: "t"}},
        folder / "decoder.onnx",
        precision,
        outputs={"logits": {0: "n", 1: "k"}, "present": {2: "n", 3: "k", 4: "t1"}},
    )


def write_tower(tower: GridTower, path: Path) -> None:
    """Write the image tower alone as ONNX: ``pixels`` uint8 ``[n, H, W, 3]`` -> ``grid`` ``[n, N, C]``."""
    size = tower.config.size
    pixels = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    axes = {"pixels": {0: "n"}}
    write(_traceable(tower), {"pixels": pixels}, axes, path, "fp32", outputs={"grid": {0: "n"}})
    inline_towers(path, tower.bodies)


def _traceable(tower: GridTower) -> GridTower:
    """A copy of the tower with constant padding."""
    plain = GridTower.__new__(GridTower)
    nn.Module.__init__(plain)
    plain.config = tower.config
    plain.bodies = nn.ModuleList(
        b if isinstance(b, OnnxGrid) else _Grid(fix_same_padding(_Grid(b), tower.config.size))
        for b in tower.bodies
    )
    for key, value in tower.named_buffers(recurse=False):
        plain.register_buffer(key, value)
    return plain.eval()


class _Grid(nn.Module):
    """A timm model's feature map as its output."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.num_prefix_tokens = int(getattr(body, "num_prefix_tokens", 0))

    def forward(self, x: Tensor) -> Tensor:
        """The last feature map."""
        return self.forward_features(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """The same, under timm's name."""
        inner = getattr(self.body, "forward_features", self.body)
        return inner(x)  # type: ignore[no-any-return]


def _difference(tower: GridTower, decoder: CaptionDecoder, folder: Path) -> float:
    """Largest difference of the first two steps' logits."""
    captioner = Captioner(folder)
    rng, size = np.random.default_rng(0), tower.config.size
    pixels = rng.integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    steps = captioner._steps
    memory = captioner.memory(pixels)
    past = steps.start(memory, 2)
    with torch.no_grad():
        own = decoder.memory(tower(torch.from_numpy(pixels)))
        own_past = own.new_zeros(tuple(past.shape))
        worst = 0.0
        for tokens in ([[captioner.card.start_id] * 2] * 2, [[4, 5], [6, 7]]):
            logits, past = steps.step(memory, np.array(tokens), past)
            expected, own_past = decoder(own, torch.tensor(tokens), own_past)
            worst = max(worst, float(np.abs(logits - expected.numpy()).max()))
    return worst
