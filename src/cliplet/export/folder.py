"""Writing a model folder: ``card.json``, ``tokenizer.json``, ``image.onnx``, ``text.onnx`` and the parity report."""

import copy
import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cliplet.data.images import ImageInput
from cliplet.data.text import scrub
from cliplet.encoders.base import Encoder, adapt
from cliplet.encoders.onnx import OnnxEncoder, prepare_photo
from cliplet.errors import InputError
from cliplet.export.graph import Computed, Precision, write
from cliplet.export.inputs import plain_captions
from cliplet.export.parity import ParityReport, measure_parity
from cliplet.export.same_padding import fix_same_padding
from cliplet.export.tokens import Told
from cliplet.export.towers import PixelTower, TokenTower, Towers, read_towers

Progress = Callable[[str, int, int], None]
"""Called with the tower, the number of products done and of all."""

Parts = Literal[1, 2, 3]
"""Products of integers that stand for one product of a transformer."""

PRECISIONS = {
    "fp32": "fp32",
    "fp16": "fp16 weights, fp32 compute",
    "int8": "int8 weights, fp32 compute",
}
"""What a card says of weights that are stored so."""
_COMPUTED = {
    "nothing": "",
    "smooth": " (with its SiLUs or the like, convolutions in integers are slower)",
    "convolutions": " but for int8 convolutions (w8a8)",
    "products": " but for int8 products (w8a8)",
    "tokens": " but for int8 products (w8a8, a scale for each token)",
}
_IN_PARTS = {1: "", 2: ", weights in two parts", 3: ", weights and activations in two parts"}
"""What is added to the last of these."""


def export(
    encoder: Encoder,
    out: str | Path,
    precision: Precision = "int8",
    *,
    text_precision: Precision | None = None,
    photos: Sequence[ImageInput] | None = None,
    captions: Sequence[str] | None = None,
    name: str | None = None,
    keep_weights: bool = False,
    calibration: Sequence[ImageInput] | None = None,
    calibration_captions: Sequence[str] | None = None,
    progress: Progress | None = None,
    parts: Parts = 1,
) -> ParityReport:
    """Write any PyTorch encoder as a model folder that runs on ONNX Runtime alone, and measure what changed.

    Args:
        encoder: our own model folder of PyTorch towers, or a model of open_clip or Transformers.
        out: the folder to write; it appears whole or not at all. A model folder there is replaced.
        precision: ``fp32``, or ``fp16`` or ``int8`` weights for smaller files at fp32's speed.
        text_precision: another precision for the text tower.
        photos: photos for the parity report (drawn patterns when not given).
        captions: captions for the parity report, matching ``photos`` where both have the same number.
        name: the new model's name; the encoder's when not given.
        keep_weights: also write ``model.safetensors`` and ``model.json`` (our own models only).
        calibration: a few hundred photos, best those of the training; with them the image tower's convolutions compute
            in 8 bits (w8a8) in the ranges that these photos show: faster, and a little less faithful. Their weights
            have 7 bits, so that no processor's 8-bit sums saturate. A transformer of open_clip or Transformers computes
            its products so, with a scale for each token (:mod:`cliplet.export.tokens`).
        calibration_captions: the same for the text tower's matrix products: some thousand captions of the training, of
            which those of the commonest length are used. A model of open_clip or Transformers that is calibrated by
            photos alone takes plain English captions.
        progress: is told the products of a transformer that are done, and of how many.
        parts: products of integers that stand for one product of such a transformer: 1 is quickest; 2 takes each
            weight in two parts, 3 each activation too: nearer to fp32, and slower.

    Returns:
        The parity report, also written as ``parity.json`` and ``parity.md``.

    Raises:
        ModelError: the encoder cannot be exported.
        InputError: ``out`` exists and is something else than a model folder; ``parts`` where nothing computes so.
        MissingExtraError: onnx is not installed.
    """
    out = Path(out)
    if out.exists() and not ((out / "card.json").is_file() or (out.is_dir() and not any(out.iterdir()))):
        raise InputError(f"{out} exists and is not a model folder; name another one or remove it")
    towers = read_towers(encoder)
    if parts > 1 and not (towers.by_token and (calibration or calibration_captions)):
        raise InputError(
            f"parts={parts} is for transformers of open_clip and Transformers that compute in 8 bits: give photos to "
            "calibrate on (--calibrate), or leave it out"
        )
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        seen, read = calibration or (), calibration_captions or ()
        if seen and not read and towers.by_token:
            read = plain_captions()
        computed = write_graphs(
            towers, part, precision, text_precision or precision, seen, read, progress, parts
        )
        towers.tokenizer.save(str(part / "tokenizer.json"), pretty=False)
        spoken = _spoken(precision, text_precision or precision, *computed, parts)
        card = dataclasses.replace(towers.card, name=name or towers.card.name, precision=spoken)
        card.save(part)
        report = measure_parity(encoder, OnnxEncoder(part), photos, captions)
        results = {**card.results, "parity": report.summary()}
        if report.integer_products != "none":
            results["integer_products"] = report.integer_products
        dataclasses.replace(card, results=results).save(part)
        if keep_weights:
            _save_weights(encoder, part)
        report.save(part)
        shutil.rmtree(out, ignore_errors=True)
        part.rename(out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return report


def _spoken(image: Precision, text: Precision, by_image: Computed, by_text: Computed, parts: int) -> str:
    """What the card says of the towers' precision."""
    spoken_image, spoken_text = (
        PRECISIONS[stored] + _COMPUTED[computed] + (_IN_PARTS[parts] if computed == "tokens" else "")
        for stored, computed in ((image, by_image), (text, by_text))
    )
    return spoken_image if spoken_image == spoken_text else f"image: {spoken_image}; text: {spoken_text}"


def write_graphs(
    towers: Towers,
    folder: Path,
    image: Precision,
    text: Precision,
    photos: Sequence[ImageInput] = (),
    captions: Sequence[str] = (),
    progress: Progress | None = None,
    parts: int = 1,
) -> tuple[Computed, Computed]:
    """Write ``image.onnx`` and ``text.onnx`` into ``folder``; towers with ``photos`` or ``captions`` become w8a8.

    Returns:
        What computes in 8 bits in each.
    """

    def told(tower: str) -> Told | None:
        return None if progress is None else lambda done, of: progress(tower, done, of)

    parts = parts if towers.by_token else 0
    examples = [{"pixels": batch} for batch in _pixel_batches(towers, photos)]
    by_image = write_image_graph(
        towers.image, towers.card.image.size, folder / "image.onnx", image, examples,
        parts=parts, told=told("image"),
    )  # fmt: skip
    by_text = write_text_graph(
        towers.text, towers.tokenizer, towers.card.text.context_length, folder / "text.onnx", text,
        _token_batches(towers, captions), parts=parts, told=told("text"),
    )  # fmt: skip
    return by_image, by_text


def write_image_graph(
    tower: PixelTower,
    size: int,
    path: Path,
    precision: Precision,
    examples: Sequence[dict[str, Any]] = (),
    parts: int = 0,
    told: Told | None = None,
) -> Computed:
    """Write an image tower for uint8 pixels ``[n, size, size, 3]``; with ``examples`` of them it becomes w8a8.

    ``parts``: products of integers that stand for one product of a transformer. Returns what computes in 8 bits.
    """
    import torch

    pixels = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    tower = tower.eval()
    tower.body = fix_same_padding(tower.body, size)
    return write(
        tower, {"pixels": pixels}, {"pixels": {0: "n"}}, path, precision, list(examples),
        parts=parts, told=told, in_floats=getattr(tower.body, "in_floats", ()),
    )  # fmt: skip


def write_text_graph(
    tower: TokenTower,
    tokenizer: Any,
    context: int,
    path: Path,
    precision: Precision,
    examples: Sequence[dict[str, Any]] = (),
    parts: int = 0,
    told: Told | None = None,
) -> Computed:
    """Write a text tower for ids and mask ``[n, t]``; with ``examples`` of them it becomes w8a8.

    ``parts``: products of integers that stand for one product of a transformer. Returns what computes in 8 bits.
    """
    import torch

    encodings = tokenizer.encode_batch(["a dog runs on the beach", "two people sit near a lake"])
    length = min(context, max(len(e.ids) for e in encodings))
    ids = torch.zeros(2, length, dtype=torch.long)
    for row, encoding in enumerate(encodings):
        found = torch.tensor(encoding.ids[:length])
        ids[row, : len(found)] = found
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    axes = {name: {0: "n", 1: "t"} for name in inputs}
    return write(
        tower.eval(), inputs, axes, path, precision, list(examples), integers="products",
        parts=parts, told=told,
    )  # fmt: skip


def _pixel_batches(towers: Towers, photos: Sequence[ImageInput]) -> list[NDArray[np.uint8]]:
    """Photos as the model folder's encoder prepares them, uint8 ``[batch, size, size, 3]``."""
    return _whole_batches([prepare_photo(photo, towers.card.image) for photo in photos], 8)


def _token_batches(towers: Towers, captions: Sequence[str]) -> list[dict[str, NDArray[np.int64]]]:
    """Captions as inputs of the text tower: of the commonest length, or for scales by token of nearly all lengths."""
    prefix = towers.card.text.prompt_prefix
    whole = copy.deepcopy(towers.tokenizer)
    whole.enable_truncation(towers.card.text.context_length)
    tokens = [e.ids for e in whole.encode_batch([scrub(prefix + caption) for caption in captions])]
    if not tokens:
        return []
    if towers.by_token:
        return [padded_tokens(tokens)]
    lengths = np.array([len(ids) for ids in tokens])
    rows = [np.array(ids, dtype=np.int64) for ids in tokens if len(ids) == np.bincount(lengths).argmax()]
    blocks = _whole_batches(rows, 16)
    return [{"input_ids": block, "attention_mask": np.ones_like(block)} for block in blocks]


def padded_tokens(tokens: Sequence[Sequence[int]]) -> dict[str, NDArray[np.int64]]:
    """All but the longest tenth of some token sequences as a text tower's inputs, ``[n, t]`` each."""
    longest = int(np.quantile([len(ids) for ids in tokens], 0.9, method="higher"))
    kept = [ids for ids in tokens if len(ids) <= longest]
    found, mask = np.zeros((2, len(kept), longest), dtype=np.int64)
    for row, ids in enumerate(kept):
        found[row, : len(ids)] = ids
        mask[row, : len(ids)] = 1
    return {"input_ids": found, "attention_mask": mask}


def _whole_batches(rows: Sequence[NDArray[Any]], batch: int) -> list[NDArray[Any]]:
    """Rows in batches of one size, as the calibration needs them; what is left over at the end is not used."""
    size = min(batch, len(rows)) or 1
    return [np.stack(rows[i : i + size]) for i in range(0, len(rows) - size + 1, size)]


def _save_weights(encoder: Encoder, folder: Path) -> None:
    from cliplet.models.dual import save_weights

    source = adapt(encoder)
    if source.library != "cliplet":
        raise InputError("keep_weights works for cliplet's own PyTorch models only")
    save_weights(source.model, folder)
