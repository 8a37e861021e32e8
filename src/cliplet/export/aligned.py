"""An aligned encoder as a model folder: the map folded into each tower's graph."""

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from cliplet.encoders.aligned import AlignedEncoder
from cliplet.encoders.base import BaseEncoder
from cliplet.encoders.folding import fold
from cliplet.encoders.onnx import OnnxEncoder
from cliplet.errors import InputError, ModelError
from cliplet.export.folder import PRECISIONS, write_image_graph, write_text_graph
from cliplet.export.graph import Precision
from cliplet.export.parity import SENTENCES, patterns
from cliplet.export.towers import PixelTower, TokenTower, read_towers
from cliplet.files import whole

MOST = 1e-5
"""Largest difference between the folder's embeddings and the encoder's where weights are stored as they are."""


def export_aligned(
    encoder: AlignedEncoder, out: str | Path, precision: Precision = "fp32"
) -> dict[str, float]:
    """Write ``card.json``, ``tokenizer.json``, ``image.onnx`` and ``text.onnx``; ONNX Runtime alone runs them.

    A side that is a model folder keeps its graph, whatever its precision; a side of PyTorch is exported first.

    Args:
        encoder: what :func:`cliplet.align` gave.
        out: the folder to write; it appears whole or not at all. A model folder there is replaced.
        precision: of weights that are exported here: ``fp32``, ``fp16`` or ``int8``.

    Returns:
        Largest differences of an embedding's entry between the folder and the encoder, on drawn patterns and a few
        sentences: ``image``, ``text``. Also in the card's results.

    Raises:
        InputError: ``out`` exists and is something else than a model folder.
        ModelError: a side cannot be exported, or the folder does not give the encoder's embeddings.
        MissingExtraError: onnx is not installed.
    """
    out = Path(out)
    check_target(out)
    for side in (encoder.images, encoder.texts):
        if side.folder is not None and side.folder.resolve() == out.resolve():
            raise InputError(f"{out} is the model that is aligned: name another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole(out) as part, tempfile.TemporaryDirectory() as scratch:
        part.mkdir()
        card, spoken = encoder.card, []
        for kind, side, fitted in (
            ("image", encoder.images, encoder.fit.image),
            ("text", encoder.texts, encoder.fit.text),
        ):
            graph = _graph(side, kind, Path(scratch), part, precision)
            fold(graph, part / f"{kind}.onnx", fitted.mean, fitted.matrix)
            own = side.card.precision if side.folder is not None else PRECISIONS[precision]
            spoken.append(f"{kind}: {own}")
        first, second = (text.partition(": ")[2] for text in spoken)
        card = dataclasses.replace(card, precision=first if first == second else "; ".join(spoken))
        card.save(part)
        found = _differences(encoder, OnnxEncoder(part))
        exported = any(side.folder is None for side in (encoder.images, encoder.texts))
        if max(found.values()) > MOST and (precision == "fp32" or not exported):
            raise ModelError(
                f"the folder would differ from {card.name} by {max(found.values()):.1e}, more than {MOST:.0e}: "
                "this model cannot be folded faithfully"
            )
        results = {**card.results, "folder_largest_difference": found}
        dataclasses.replace(card, results=results).save(part)
    return found


def check_target(out: Path) -> None:
    """Raise InputError now if a model folder cannot be written there."""
    if out.exists() and not ((out / "card.json").is_file() or (out.is_dir() and not any(out.iterdir()))):
        raise InputError(f"{out} exists and is not a model folder; name another one or remove it")


def _graph(side: BaseEncoder, kind: str, scratch: Path, part: Path, precision: Precision) -> Path:
    """The side's tower as a graph, and its tokeniser in ``part``."""
    if side.folder is not None:
        if kind == "text":
            shutil.copyfile(side.folder / "tokenizer.json", part / "tokenizer.json")
        return side.folder / f"{kind}.onnx"
    path = scratch / f"{kind}.onnx"
    if kind == "image":
        write_image_graph(_image_tower(side), side.card.image.size, path, precision)
        return path
    tower, tokenizer = _text_tower(side)
    write_text_graph(tower, tokenizer, side.card.text.context_length, path, precision)
    tokenizer.save(str(part / "tokenizer.json"), pretty=False)
    return path


def _image_tower(side: Any) -> PixelTower:
    if side.library == "timm":
        return PixelTower(side.model, side.mean, side.std)
    return read_towers(side).image


def _text_tower(side: Any) -> tuple[TokenTower, Any]:
    if side.library == "sentence":
        return TokenTower(side.model, 0, 0), side.tokenizer
    towers = read_towers(side)
    return towers.text, towers.tokenizer


def _differences(before: AlignedEncoder, after: OnnxEncoder) -> dict[str, float]:
    photos, prefix = patterns(8), before.card.text.prompt_prefix
    texts = [prefix + sentence for sentence in SENTENCES]
    image = np.abs(before.encode_images(photos) - after.encode_images(photos)).max()
    return {
        "image": float(image),
        "text": float(np.abs(before.encode_texts(texts) - after.encode_texts(texts)).max()),
    }
