"""What a model folder's embeddings are in a program that leaves ONNX Runtime's settings alone, on this processor.

On x86 without VNNI the sums of 8-bit products overflow there; ``session.x64quantprecision`` = 1 makes them exact, and
cliplet sets it. Such a processor can be emulated::

    qemu-x86_64-static -cpu Haswell $(which python) benchmarks/plain_onnxruntime.py PHOTOS.tar CAPTIONS
"""

import argparse
from typing import Any

import numpy as np
import onnxruntime

from cliplet.encoders.base import unit_norm
from cliplet.encoders.onnx import OnnxEncoder
from cliplet.encoders.registry import load
from cliplet.export.inputs import compared_captions, compared_photos


def session(path: Any, exact: bool) -> Any:
    """A session with ONNX Runtime's own settings, or with 8-bit sums that cannot overflow."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def embeddings(encoder: OnnxEncoder, photos: list[Any], captions: list[str], exact: bool) -> list[Any]:
    """Unit vectors of photos and of captions, each embedded alone."""
    image, text = (session(encoder.folder / f"{side}.onnx", exact) for side in ("image", "text"))
    pixels = [encoder.prepare_image(photo)[None] for photo in photos]
    tokens = [np.array([ids], dtype=np.int64) for ids in encoder.tokenize(captions)[0]]
    return [
        unit_norm(np.concatenate([image.run(None, {"pixels": one})[0] for one in pixels])),
        unit_norm(np.concatenate(
            [text.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0] for ids in tokens]
        )),
    ]  # fmt: skip


def main() -> None:
    """Compare the two."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", help="folder or tar of photos")
    parser.add_argument("captions", help="captions file")
    parser.add_argument("--model", help="model folder (default: the packaged model)")
    parser.add_argument("--limit", type=int, default=200, help="photos, and five times as many captions")
    wanted = parser.parse_args()
    encoder = load(wanted.model)
    assert isinstance(encoder, OnnxEncoder), "give a model folder of ONNX files"
    photos = compared_photos(wanted.photos, wanted.limit)
    captions = compared_captions(wanted.captions, 5 * wanted.limit)
    (images, texts), (right_images, right_texts) = (
        embeddings(encoder, photos, captions, exact) for exact in (False, True)
    )
    for what, plain, right in (("image", images, right_images), ("text", texts, right_texts)):
        cosines = (plain * right).sum(axis=1)
        print(f"{what:<6} n={len(plain):<5} cosine to the right embedding: least {cosines.min():.3f}, "
              f"mean {cosines.mean():.3f}")  # fmt: skip
    gap = np.abs(images @ texts.T - right_images @ right_texts.T)
    print(f"score of a photo and a caption: off by up to {gap.max():.3f}, by {gap.mean():.3f} on average")


if __name__ == "__main__":
    main()
