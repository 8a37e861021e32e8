"""What ``cliplet export --calibrate`` makes of a large CLIP on a CPU: speed, and accuracy on trained towers.

    python -m benchmarks.large_clip DIR PHOTOS CAPTIONS --only export     # CLIP ViT-B/32 into DIR/fp32 and DIR/quick
    python -m benchmarks.large_clip DIR PHOTOS CAPTIONS --only speed      # both graphs in turns, one thread
    python -m benchmarks.large_clip DIR PHOTOS CAPTIONS --only pairs      # photos with captions, whole processor
    python -m benchmarks.large_clip DIR PHOTOS CAPTIONS --only accuracy --text minilm-l6 [--outliers]

``--parts 2`` or ``3``: each product as a sum of so many, exported into DIR/quick2 or DIR/quick3.

The CLIP has open_clip's architecture and random weights: good for its speed, not for its scores. So accuracy is that of
trained sentence encoders (see ``cliplet.models.pretrained``), whose text tower goes through the same export; with
planted outliers, eight channels of every layer's values are fifty times as large, and the next weights undo it.
"""

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cliplet.encoders.onnx import OnnxEncoder, prepare_photo
from cliplet.encoders.open_clip import OpenClipEncoder
from cliplet.encoders.sessions import open_session
from cliplet.export import export
from cliplet.export.folder import padded_tokens
from cliplet.export.graph import write
from cliplet.export.inputs import compared_captions, compared_photos
from cliplet.export.towers import TokenTower
from cliplet.models.compat import prepare_torchvision
from cliplet.models.pretrained import sentence_model, sentence_tokenizer
from cliplet.models.text import pool
from cliplet.statistics.kendall import TauCounts

OUTLIERS, LARGER = 8, 50.0
PAIRS = 32


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where the exported folders are kept")
    parser.add_argument("photos", type=Path, help="folder or tar of photos")
    parser.add_argument("captions", type=Path, help="file of captions")
    parser.add_argument("--only", choices=list(PARTS), required=True)
    parser.add_argument("--architecture", default="ViT-B-32-quickgelu")
    parser.add_argument("--text", default="minilm-l6", choices=["minilm-l3", "minilm-l6", "mpnet"])
    parser.add_argument("--parts", type=int, default=1, choices=[1, 2, 3], help="integer products for one")
    parser.add_argument("--outliers", action="store_true", help="plant outliers in the sentence encoder")
    PARTS[parser.parse_args().only](parser.parse_args())


def source(architecture: str) -> OpenClipEncoder:
    """open_clip's architecture with random weights, the same in every run."""
    prepare_torchvision()
    import open_clip

    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms(architecture)
    return OpenClipEncoder(model, transform, open_clip.get_tokenizer(architecture), name=architecture)


def write_folders(wanted: Any) -> None:
    """Export in fp32, and in 8 bits."""
    encoder = source(wanted.architecture)
    size = 4 * sum(p.numel() for p in encoder.model.parameters()) / 1e6
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    photos, captions = compared_photos(wanted.photos, 64), compared_captions(wanted.captions, 2048)
    compared = {"photos": photos[:16], "captions": captions[:64]}
    started = time.perf_counter()
    quick = "quick" if wanted.parts == 1 else f"quick{wanted.parts}"
    export(
        encoder, wanted.folder / quick, calibration=photos, calibration_captions=captions, parts=wanted.parts,
        **compared,
    )  # fmt: skip
    print(f"exported in 8 bits in {time.perf_counter() - started:.0f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"most memory {peak:.0f} MB; with the model loaded {before:.0f} MB; the weights are {size:.0f} MB")
    export(encoder, wanted.folder / "fp32", "fp32", **compared)
    for form in ("fp32", quick):
        print(form, (wanted.folder / form / "parity.md").read_text(encoding="utf-8"), sep="\n")


def in_turns(runs: dict[str, Callable[[], Any]], rounds: int = 7) -> dict[str, float]:
    """The best of some rounds, seconds, of functions that take turns."""
    best = dict.fromkeys(runs, np.inf)
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - started)
    return best


def processor() -> str:
    """Its name, and whether it multiplies bytes exactly."""
    told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    name = told.split("model name\t: ")[1].split("\n")[0]
    return f"{name}, {told.count('model name')} cores, {'VNNI' if 'vnni' in told else 'no VNNI'}"


def compare_graphs(wanted: Any) -> None:
    """Both towers of all folders in turns, one thread."""
    print(processor())
    forms = {"fp32": "fp32", "quick": "8 bits", "quick2": "two parts", "quick3": "three products"}
    folders = {form: OnnxEncoder(wanted.folder / form) for form in forms if (wanted.folder / form).is_dir()}
    spec = folders["fp32"].card.image
    pixels = np.stack([prepare_photo(photo, spec) for photo in compared_photos(wanted.photos, 8)])
    tokens, _ = folders["fp32"].tokenize(compared_captions(wanted.captions, 16))
    longest, context = max(len(t) for t in tokens), folders["fp32"].card.text.context_length
    rows = {}
    for count in (8, 1):
        rows[f"image, {count} at once"] = ("image.onnx", {"pixels": pixels[:count]})
    for length, what in ((longest, "up to their longest"), (context, "up to the context")):
        ids, mask = np.zeros((2, len(tokens), length), dtype=np.int64)
        for row, sequence in enumerate(tokens):
            ids[row, : len(sequence)] = sequence
            mask[row, : len(sequence)] = 1
        rows[f"text, 16 captions, {length} tokens ({what})"] = (
            "text.onnx",
            {"input_ids": ids, "attention_mask": mask},
        )
    print("| tower | " + " | ".join(f"{forms[form]}, ms (times as fast)" for form in folders) + " |")
    print("|---" * (1 + len(folders)) + "|")
    for what, (file, inputs) in rows.items():
        sessions = {form: open_session(wanted.folder / form / file, 1) for form in folders}
        best = in_turns({form: lambda s=s, i=inputs: s.run(None, i) for form, s in sessions.items()})
        told = [f"{1e3 * best[form]:.1f} ({best['fp32'] / best[form]:.2f})" for form in folders]
        print(f"| {what} | {' | '.join(told)} |", flush=True)


def compare_pairs(wanted: Any) -> None:
    """Photos and captions a second, decoding and tokenising included, by PyTorch and by both folders."""
    print(processor())
    photos, captions = compared_photos(wanted.photos, PAIRS), compared_captions(wanted.captions, PAIRS)
    encoders: dict[str, Any] = {"open_clip in PyTorch, fp32": source(wanted.architecture)}
    encoders |= {f"folder, {form}": OnnxEncoder(wanted.folder / form) for form in ("fp32", "quick")}
    best = in_turns(
        {
            name: lambda e=encoder: (e.encode_images(photos), e.encode_texts(captions))
            for name, encoder in encoders.items()
        },
        rounds=2,
    )
    slowest = next(iter(best.values()))
    print(f"| {PAIRS} photos with {PAIRS} captions | pairs/s | times as fast |\n|---|---|---|")
    for name, seconds in best.items():
        print(f"| {name} | {PAIRS / seconds:.1f} | {slowest / seconds:.2f} |")


class Sentences(nn.Module):
    """A sentence encoder as a text tower's body."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The mean of a sentence's states."""
        return pool(self.model(input_ids=ids, attention_mask=mask).last_hidden_state, mask, "mean")


def plant_outliers(model: nn.Module) -> None:
    """Make some channels of every layer's attention values larger, and undo it in the weights that read them."""
    for layer in model.encoder.layer:  # type: ignore[union-attr]
        values, out = (
            (layer.attention.self.value, layer.attention.output.dense)
            if hasattr(layer.attention, "self")
            else (layer.attention.attn.v, layer.attention.attn.o)
        )
        with torch.no_grad():
            for i in range(OUTLIERS):
                channel = 37 * i + 5
                values.weight[channel] *= LARGER
                values.bias[channel] *= LARGER
                out.weight[:, channel] /= LARGER


def compare_embeddings(wanted: Any) -> None:
    """A trained text tower in fp32 and in 8 bits, on captions that the calibration has not seen."""
    torch.set_num_threads(1)
    known = compared_captions(wanted.captions, 40000)
    known, asked = known[:20000:10], known[20003::97][:200]
    print(f"{wanted.text}: 200 captions with each other, their cosines")
    print(
        "| weights | 1 - cosine to fp32, mean (most) | score off by, mean (most) | Kendall's tau |\n|---|---|---|---|"
    )
    model = sentence_model(wanted.text)
    if wanted.outliers:
        plant_outliers(model)
    tokenizer = sentence_tokenizer(model)
    tower = TokenTower(Sentences(model), 0, model.config.pad_token_id).eval()
    tokenizer.no_padding()
    example = padded_tokens([e.ids for e in tokenizer.encode_batch(known)])
    tokenizer = sentence_tokenizer(model)
    right, quick = (_embedded(tower, example, asked, tokenizer, wanted.folder, n) for n in (0, wanted.parts))
    _report("outliers planted" if wanted.outliers else "as trained", right, quick)


def _embedded(
    tower: TokenTower, example: dict[str, Any], texts: list[str], tokenizer: Any, folder: Path, parts: int
) -> NDArray[Any]:
    """Embeddings by the tower's graph in 8 bits, or in fp32 where ``parts`` is 0, ``[n, d]``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "text_tower.onnx"
    traced = {name: torch.from_numpy(value[:2]) for name, value in example.items()}
    axes = {name: {0: "n", 1: "t"} for name in traced}
    write(tower, traced, axes, path, "int8" if parts else "fp32", [example] if parts else (), parts=parts)
    session = open_session(path, 1)
    found = []
    for start in range(0, len(texts), 50):
        encoded = tokenizer.encode_batch(texts[start : start + 50])
        ids, mask = (np.array([getattr(e, n) for e in encoded]) for n in ("ids", "attention_mask"))
        found.append(session.run(None, {"input_ids": ids, "attention_mask": mask})[0])
    path.unlink()
    return np.concatenate(found)


def _report(name: str, right: NDArray[Any], quick: NDArray[Any]) -> None:
    lost = 1 - (right * quick).sum(axis=1)
    pairs = np.triu_indices(len(right), 1)
    before, after = (right @ right.T)[pairs], (quick @ quick.T)[pairs]
    gaps = np.abs(before - after)
    tau = TauCounts(before, after).tau("b")
    print(
        f"| {name} | {lost.mean():.5f} ({lost.max():.5f}) | {gaps.mean():.4f} ({gaps.max():.4f}) | {tau:.4f} |",
        flush=True,
    )


PARTS: dict[str, Callable[[Any], None]] = {
    "export": write_folders,
    "speed": compare_graphs,
    "pairs": compare_pairs,
    "accuracy": compare_embeddings,
}

if __name__ == "__main__":
    main()
