"""How faithful an exported model is to the one it was made from, on the same photos and captions."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.data.images import ImageInput
from cliplet.encoders.base import Encoder, adapt
from cliplet.encoders.onnx import OnnxEncoder
from cliplet.encoders.saturation import integer_products
from cliplet.statistics.kendall import TauCounts

SENTENCES = (
    "a dog runs on the beach", "two people sit near a lake", "A man in a red shirt rides a bicycle.",
    "a plate of food with rice & vegetables", "three children play football in a park", "the sky is blue",
    "a woman holding an umbrella walks down a busy street at night while cars pass by", "a cat",
)  # fmt: skip
"""Captions for a report when the caller has none."""


@dataclass(frozen=True)
class ParityReport:
    """What export changed. Differences are between unit-norm embeddings and their cosines."""

    photos: int
    """Photos compared."""
    captions: int
    """Captions compared."""
    real_photos: bool
    """False for drawn patterns, whose figures say little about photos."""
    image_max_difference: float
    """Largest absolute difference of an image embedding's entry."""
    text_max_difference: float
    """Largest absolute difference of a text embedding's entry."""
    image_min_cosine: float
    """Least cosine between an image's two embeddings."""
    text_min_cosine: float
    """Least cosine between a text's two embeddings."""
    score_max_difference: float
    """Largest difference of a cosine over all pairs of a photo and a caption."""
    score_mean_difference: float
    """Mean absolute difference of these cosines."""
    rank_correlation: float
    """Spearman's rho of all these cosines."""
    bytes_before: int
    """Parameters of the source in fp32, in bytes; 0 when unknown."""
    bytes_after: int
    """The model folder's four files."""
    load_seconds: float
    """Opening both ONNX files."""
    images_per_second: tuple[float, float]
    """Image towers alone, before and after."""
    captions_per_second: tuple[float, float]
    """Tokeniser and text tower, before and after."""
    kendall: float = float("nan")
    """Kendall's tau-b of all these cosines: the share of pairs in the same order, less that in the other."""
    integer_products: str = "none"
    """Whether the folder's 8-bit products are exact on every processor, as ``IntegerProducts`` says it."""

    def summary(self) -> dict[str, Any]:
        """The figures that belong on a model card."""
        keys = ("photos", "captions", "real_photos", "score_max_difference", "rank_correlation")
        values = asdict(self)
        return {k: values[k] for k in keys}

    def save(self, folder: str | Path) -> None:
        """Write ``parity.json`` and ``parity.md``."""
        (Path(folder) / "parity.json").write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        (Path(folder) / "parity.md").write_text(self.markdown(), encoding="utf-8")

    def markdown(self) -> str:
        """The report as a table."""
        speed = [f"{a:.0f} → {b:.0f}" for a, b in (self.images_per_second, self.captions_per_second)]
        rows = [
            ("image embedding, largest difference", f"{self.image_max_difference:.2e}"),
            ("image embedding, least cosine", f"{self.image_min_cosine:.6f}"),
            ("text embedding, largest difference", f"{self.text_max_difference:.2e}"),
            ("text embedding, least cosine", f"{self.text_min_cosine:.6f}"),
            ("score (cosine), largest difference", f"{self.score_max_difference:.2e}"),
            ("score (cosine), mean difference", f"{self.score_mean_difference:.2e}"),
            ("rank correlation of all scores", f"{self.rank_correlation:.6f}"),
            ("Kendall's tau of all scores", f"{self.kendall:.4f}"),
            ("size", f"{self.bytes_before / 1e6:.1f} MB → {self.bytes_after / 1e6:.1f} MB"),
            ("loading", f"{self.load_seconds:.2f} s"),
            ("image tower, photos/s", speed[0]),
            ("text tower, captions/s", speed[1]),
            ("integer products", self.integer_products),
        ]
        kind = "photos" if self.real_photos else "drawn patterns (give photos for figures that count)"
        head = f"Before and after export, on {self.photos} {kind} and {self.captions} captions.\n"
        body = "\n".join(f"| {name} | {value} |" for name, value in rows)
        return f"# Parity\n\n{head}\n| what | value |\n|---|---|\n{body}\n"


def measure_parity(
    before: Encoder,
    after: OnnxEncoder,
    photos: Sequence[ImageInput] | None = None,
    captions: Sequence[str] | None = None,
) -> ParityReport:
    """Compare an encoder with its exported folder.

    Args:
        before: the source.
        after: the exported folder.
        photos: any number of photos; drawn patterns when not given.
        captions: any number of captions.
    """
    started = time.perf_counter()
    after.load()
    load_seconds = time.perf_counter() - started
    pictures = list(photos) if photos is not None else patterns()
    sentences = list(captions) if captions is not None else list(SENTENCES)
    images = [e.encode_images(pictures).astype(np.float64) for e in (before, after)]  # each [n, d]
    texts = [e.encode_texts(sentences).astype(np.float64) for e in (before, after)]  # each [m, d]
    scores = [i @ t.T for i, t in zip(images, texts, strict=True)]  # each [n, m]
    gaps = np.abs(scores[0] - scores[1])
    image_speed = (_image_speed(before, pictures), _image_speed(after, pictures))
    text_speed = (_text_speed(before, sentences), _text_speed(after, sentences))
    model = adapt(before).model
    size = 0 if model is None else 4 * sum(p.numel() for p in model.parameters())
    names = ("card.json", "tokenizer.json", "image.onnx", "text.onnx")
    return ParityReport(
        photos=len(pictures),
        captions=len(sentences),
        real_photos=photos is not None,
        image_max_difference=float(np.abs(images[0] - images[1]).max()),
        text_max_difference=float(np.abs(texts[0] - texts[1]).max()),
        image_min_cosine=float((images[0] * images[1]).sum(axis=1).min()),
        text_min_cosine=float((texts[0] * texts[1]).sum(axis=1).min()),
        score_max_difference=float(gaps.max()),
        score_mean_difference=float(gaps.mean()),
        rank_correlation=_spearman(scores[0].ravel(), scores[1].ravel()),
        kendall=TauCounts(scores[0].ravel(), scores[1].ravel()).tau("b"),
        bytes_before=size,
        bytes_after=sum((after.folder / n).stat().st_size for n in names),
        load_seconds=load_seconds,
        images_per_second=image_speed,
        captions_per_second=text_speed,
        integer_products=str(integer_products(after.folder)),
    )


def patterns(count: int = 16) -> list[NDArray[np.uint8]]:
    """Smooth random colour fields, the same in every run."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return [np.kron(c, np.ones((40, 40, 1), dtype=np.uint8)) for c in coarse]


def _spearman(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Rank correlation; equal values get the mean of their ranks."""

    def ranks(x: NDArray[Any]) -> NDArray[Any]:
        _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        return (ends - (counts - 1) / 2)[inverse]

    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def _rate(run: Any, count: int) -> float:
    """Items a second: the best of three runs after one to warm up."""
    run()
    best = np.inf
    for _ in range(3):
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    return count / best


def _image_speed(encoder: Any, pictures: list[Any]) -> float:
    """Photos a second through the tower alone."""
    prepared = [encoder.prepare_image(p) for p in pictures[:16]]
    return _rate(lambda: encoder.embed_images(prepared), len(prepared))


def _text_speed(encoder: Any, sentences: list[str]) -> float:
    """Captions a second through tokeniser and tower."""
    chosen = (sentences * 32)[:32]
    return _rate(lambda: encoder.encode_texts(chosen), len(chosen))
