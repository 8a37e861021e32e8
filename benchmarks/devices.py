"""Do devices and precisions agree with the CPU in fp32, and how quick are they?

python benchmarks/devices.py                              random weights of ViT-B-32, on the best device and the CPU
python benchmarks/devices.py --model open_clip:ViT-L-14/openai --photos DIR --captions FILE
python benchmarks/devices.py --overlap                    decoding beside encoding against decoding first, in turns

Weights are random unless --model names some: good for speed, and for how far embeddings of one photo differ.
"""

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import cliplet
from cliplet.data.names import PHOTO_SUFFIXES
from cliplet.encoders.base import BaseEncoder
from cliplet.errors import ClipletError
from cliplet.models.compat import prepare_torchvision

WORDS = (
    "a", "the", "dog", "cat", "man", "woman", "red", "blue", "green", "black", "white", "runs", "sits", "stands", "on",
    "near", "beside", "beach", "grass", "car", "of", "and",
)  # fmt: skip
LIMITS = {"fp32": 0.9999, "bf16": 0.99, "fp16": 0.999}
"""Least cosine of an embedding to the CPU's in fp32."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", help="what cliplet score --model takes; default: ViT-B-32 with random weights"
    )
    parser.add_argument("--arch", default="ViT-B-32", help="architecture of open_clip for random weights")
    parser.add_argument("--devices", default="cpu,auto", help="parted by commas")
    parser.add_argument("--precisions", default="fp32,bf16,fp16", help="parted by commas")
    parser.add_argument("--photos", type=Path, help="folder of photos; default: made ones of 640 x 480")
    parser.add_argument("--captions", type=Path, help="text file, a caption a line; default: made ones")
    parser.add_argument("--count", type=int, default=64, help="photos, and captions, at most")
    parser.add_argument("--turns", type=int, default=3, help="timings of each, in turns; the median counts")
    parser.add_argument("--overlap", action="store_true", help="time decoding beside encoding instead")
    parser.add_argument("--wait", type=float, help="with --overlap: a wait of so many seconds a batch for the model, "
                                                   "as a GPU makes the processor wait")  # fmt: skip
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = (
            read_photos(args.photos, args.count) if args.photos else make_photos(Path(folder), args.count)
        )
        captions = read_captions(args.captions, args.count) if args.captions else make_captions(args.count)
        if args.overlap:
            overlap(args, photos)
        else:
            compare(args, photos, captions)


def compare(args: argparse.Namespace, photos: list[Path], captions: list[str]) -> None:
    """Print agreement and speed of each device and precision."""
    print(
        f"{len(photos)} photos and {len(captions)} captions; model {args.model or args.arch + ', random weights'}"
    )
    reference = make_encoder(args, "cpu", None)
    expected = reference.encode_images(photos), reference.encode_texts(captions)
    encoders: dict[str, BaseEncoder] = {f"{reference.device} {reference.card.precision}": reference}
    for device in args.devices.split(","):
        for precision in args.precisions.split(","):
            try:
                encoder = make_encoder(args, device, precision)
            except ClipletError as error:
                print(f"{device} {precision}: {error}")
                continue
            encoders.setdefault(f"{encoder.device} {precision}", encoder)
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    for _ in range(args.turns):
        for name, encoder in encoders.items():
            seconds[name].append(
                clocked(lambda e=encoder: (e.encode_images(photos), e.encode_texts(captions)))
            )
    base = statistics.median(next(iter(seconds.values())))
    print(f"{'device, precision':<20} {'batch':>5} {'photos: least, mean cosine':>28} {'captions':>20} {'cosine':>8} "
          f"{'pairs/s':>8} {'ratio':>6}")  # fmt: skip
    for name, encoder in encoders.items():
        images, texts = encoder.encode_images(photos), encoder.encode_texts(captions)
        near = [np.sum(a * b, axis=1) for a, b in ((images, expected[0]), (texts, expected[1]))]
        scores = np.abs(images @ texts.T - expected[0] @ expected[1].T).max()
        median = statistics.median(seconds[name])
        good = min(map(np.min, near)) >= LIMITS.get(name.split()[1], 0.99)
        print(f"{name:<20} {encoder.batch_size:>5} {near[0].min():>17.6f} {near[0].mean():>10.6f} "
              f"{near[1].min():>10.6f} {near[1].mean():>9.6f} {scores:>8.5f} {len(photos) / median:>8.1f} "
              f"{base / median:>6.2f}{'' if good else '  TOO FAR'}")  # fmt: skip


def overlap(args: argparse.Namespace, photos: list[Path]) -> None:
    """Print the time of decoding beside encoding, and of one after the other, in turns."""
    for device in dict.fromkeys(args.devices.split(",")):
        encoder: Any = make_encoder(args, device, None)
        if args.wait is not None:
            encoder.embed_images = lambda batch, d=encoder.card.embedding_dim: (
                time.sleep(args.wait) or np.ones((len(batch), d))
            )
        encoder.encode_images(photos[:2])

        def one_after_the_other(encoder: Any = encoder) -> None:
            from concurrent.futures import ThreadPoolExecutor

            from cliplet.encoders.batching import decoding_threads

            with ThreadPoolExecutor(decoding_threads()) as pool:
                ready = list(pool.map(encoder.prepare_image, photos))
            for start in range(0, len(ready), encoder.batch_size):
                encoder.embed_images(ready[start : start + encoder.batch_size])

        ways: dict[str, Callable[[], Any]] = {
            "decoding beside encoding": lambda e=encoder: e.encode_images(photos),
            "decoding first": one_after_the_other,
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.turns):
            for name, way in ways.items():
                seconds[name].append(clocked(way))
        for name, found in seconds.items():
            print(f"{encoder.device}, {len(photos)} photos, {name}: {statistics.median(found):.2f} s "
                  f"({', '.join(f'{s:.2f}' for s in found)})")  # fmt: skip


def make_encoder(args: argparse.Namespace, device: str, precision: str | None) -> Any:
    """The named model, or one with random weights that are always the same."""
    if args.model:
        return cliplet.load(args.model, device, precision)
    prepare_torchvision()
    import open_clip
    import torch

    from cliplet.encoders.open_clip import OpenClipEncoder

    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms(args.arch)
    tokenizer = open_clip.get_tokenizer(args.arch)
    return OpenClipEncoder(
        model, transform, tokenizer, name=args.arch, device=device, precision=precision or "fp32"
    )


def clocked(work: Callable[[], Any]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def make_photos(folder: Path, count: int) -> list[Path]:
    """JPEGs of 640 x 480 with smooth colours and some grain, all different."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((640, 480))
        pixels = np.asarray(coarse, np.int16) + rng.integers(-12, 13, (480, 640, 1))
        stream = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
        paths.append(folder / f"{i:04}.jpg")
        paths[-1].write_bytes(stream.getvalue())
    return paths


def read_photos(folder: Path, count: int) -> list[Path]:
    """The first photos of a folder."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES)[:count]


def make_captions(count: int) -> list[str]:
    """Captions of 6 to 14 words."""
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, rng.integers(6, 15))) for _ in range(count)]


def read_captions(path: Path, count: int) -> Sequence[str]:
    """The first lines of a file."""
    return [line for line in path.read_text("utf-8").splitlines() if line.strip()][:count]


if __name__ == "__main__":
    main()
