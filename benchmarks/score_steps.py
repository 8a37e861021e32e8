"""Where the time of `cliplet score` goes: milliseconds of one core for a photo and a caption, step by step.

    python -m benchmarks.score_steps --model models/lclip-flickr8k/cliplet_lclip_flickr8k/lclip-flickr8k --model FOLDER
    python -m benchmarks.score_steps --big 5       # also decoding of 12-megapixel JPEGs, whole and at fractions
    python -m benchmarks.score_steps --operators   # also the image tower's time by ONNX operator

Photos and captions are Flickr8k's dev split, as in benchmarks.score_speed. Each figure is the least of --repeat turns
of the processor's own time, a model's steps in turns, so that a busy machine counts little. JPEGs are decoded by
simplejpeg too where it is installed.
"""

import argparse
import io
import json
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.score_speed import DATA
from tests.photos import twelve_megapixels

from cliplet.data.images import load_rgb, resize_rgb
from cliplet.encoders.onnx import OnnxEncoder
from cliplet.encoders.registry import load, packaged_models

Steps = dict[str, Callable[[], Any]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", action="append", help="a model folder, or several; default: the packaged one"
    )
    parser.add_argument("--photos", type=int, default=160)
    parser.add_argument("--big", type=int, default=0, help="12-megapixel JPEGs to decode")
    parser.add_argument("--operators", action="store_true")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    photos, captions = read(options.photos)
    for model in options.model or [str(packaged_models()[0])]:
        encoder = load(model)
        assert isinstance(encoder, OnnxEncoder)
        print(f"{model}, {len(photos)} photos")
        show(steps(encoder, photos, captions), len(photos), options.repeat)
        if options.operators:
            show_operators(encoder, photos, options.repeat)
    if options.big:
        print(f"{options.big} JPEGs of 4000 x 3000 pixels")
        show(big_steps(options.big), options.big, options.repeat)


def read(count: int) -> tuple[list[bytes], list[str]]:
    """Encoded photos, and one caption of each."""
    captions: dict[str, str] = {}
    for line in (DATA / "flickr8k" / "Flickr8k.token.txt").read_text(encoding="utf-8").splitlines():
        key, caption = line.split("\t", 1)
        captions.setdefault(key.partition("#")[0], caption)
    photos, said = [], []
    with tarfile.open(DATA / "flickr8k" / "images_dev.tar") as tar:
        for member in tar:
            stream = tar.extractfile(member)
            if stream is not None and len(photos) < count:
                photos.append(stream.read())
                said.append(captions[member.name.rpartition("/")[2]])
    return photos, said


def steps(encoder: OnnxEncoder, photos: list[bytes], captions: list[str]) -> Steps:
    """What a photo and its caption go through."""
    spec = encoder.card.image
    images = [load_rgb(photo, at_least=2 * spec.size) for photo in photos]
    pixels = [encoder.prepare_image(photo) for photo in photos]
    tokens = sorted(encoder.tokenize(captions)[0], key=len)
    encoder.load()
    return {
        "decode": lambda: [load_rgb(photo, at_least=2 * spec.size) for photo in photos],
        "resize": lambda: [resize_rgb(i, spec.size, spec.resize, spec.interpolation) for i in images],
        "image tower": lambda: [encoder.embed_images(pixels[i : i + 8]) for i in range(0, len(pixels), 8)],
        "tokeniser": lambda: encoder.tokenize(captions),
        "text tower": lambda: [encoder.embed_tokens(tokens[i : i + 16]) for i in range(0, len(tokens), 16)],
    }


def big_steps(count: int) -> Steps:
    """Decoding at fractions of the size."""
    photos = []
    for seed in range(count):
        stream = io.BytesIO()
        twelve_megapixels(seed=seed).save(stream, "JPEG", quality=90)
        photos.append(stream.getvalue())
    whole: Steps = {"whole": lambda: [load_rgb(photo) for photo in photos]}
    for name, least in (("a quarter", 448), ("an eighth", 336)):
        whole[name] = lambda least=least: [load_rgb(photo, at_least=least) for photo in photos]  # type: ignore[misc]
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        return whole
    for name, short in (("a quarter", 750), ("an eighth", 375)):
        whole[f"simplejpeg, {name}"] = lambda short=short: [  # type: ignore[misc]
            decode_jpeg(photo, "RGB", min_height=short, min_width=short, min_factor=1) for photo in photos
        ]
    return whole


def show_operators(encoder: OnnxEncoder, photos: list[bytes], repeat: int) -> None:
    """Print the image tower's milliseconds a photo by operator, from ONNX Runtime's own profile: each node's least."""
    import onnxruntime

    pixels = [encoder.prepare_image(photo) for photo in photos]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level, options.enable_profiling = 1, 3, True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder, "tower"))
        session = onnxruntime.InferenceSession(encoder.folder / "image.onnx", options)
        for _ in range(repeat):
            for i in range(0, len(pixels) - 7, 8):
                session.run(["embedding"], {"pixels": np.stack(pixels[i : i + 8])})
        events = json.loads(Path(session.end_profiling()).read_text())
    least: dict[tuple[str, str], float] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            node = event["args"]["op_name"], event["name"]
            least[node] = min(least.get(node, float("inf")), event["dur"])
    by_operator: defaultdict[str, float] = defaultdict(float)
    for (operator, _), microseconds in least.items():
        by_operator[operator] += microseconds / 8000
    for operator, milliseconds in sorted(by_operator.items(), key=lambda item: -item[1])[:5]:
        print(f"    {operator:<18} {milliseconds:7.3f} ms")


def show(calls: Steps, count: int, repeat: int) -> None:
    """Print the least time of each step."""
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(repeat):
        for name, call in calls.items():
            start = time.process_time()
            call()
            least[name] = min(least[name], time.process_time() - start)
    for name, seconds in least.items():
        print(f"  {name:<21} {seconds / count * 1000:7.3f} ms")


if __name__ == "__main__":
    main()
