"""What a model folder's embeddings are in a program that leaves ONNX Runtime's settings alone, on this processor.

On x86 without VNNI the sums of 8-bit products of folders of older exports overflow there;
``session.x64quantprecision`` = 1 makes them exact, and cliplet sets it. Such a processor can be emulated::

    qemu-x86_64-static -cpu Haswell $(which python) benchmarks/plain_onnxruntime.py PHOTOS.tar CAPTIONS

``--keep FILE`` keeps the plain embeddings, and ``--beside FILE`` compares with those that another processor gave.
``floats`` is the same graph with products of fp32 numbers.
"""

import argparse
from typing import Any

import numpy as np
import onnx
import onnxruntime

from cliplet.encoders.base import unit_norm
from cliplet.encoders.floats import in_floats
from cliplet.encoders.onnx import OnnxEncoder
from cliplet.encoders.registry import load
from cliplet.encoders.saturation import integer_products
from cliplet.export.inputs import compared_captions, compared_photos


def session(path: Any, how: str) -> Any:
    """A session with ONNX Runtime's own settings, with exact 8-bit sums, or with products of floats."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    model = onnx.load(path)
    if how == "exact":
        options.add_session_config_entry("session.x64quantprecision", "1")
    if how == "floats":
        in_floats(model)
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def embeddings(encoder: OnnxEncoder, photos: list[Any], captions: list[str], how: str) -> list[Any]:
    """Unit vectors of photos and of captions, each embedded alone."""
    image, text = (session(encoder.folder / f"{side}.onnx", how) for side in ("image", "text"))
    pixels = [encoder.prepare_image(photo)[None] for photo in photos]
    tokens = [np.array([ids], dtype=np.int64) for ids in encoder.tokenize(captions)[0]]
    return [
        unit_norm(np.concatenate([image.run(None, {"pixels": one})[0] for one in pixels])),
        unit_norm(np.concatenate(
            [text.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0] for ids in tokens]
        )),
    ]  # fmt: skip


def compare(name: str, plain: list[Any], right: list[Any]) -> None:
    """Print how near the embeddings of photos and captions, and their cosines, are to the right ones."""
    for what, found, expected in zip(("image", "text"), plain, right, strict=True):
        cosines = (found * expected).sum(axis=1)
        print(f"{name:<7} {what:<6} n={len(found):<5} cosine: least {cosines.min():.6f}, mean {cosines.mean():.6f}, "
              f"below 0.999: {(cosines < 0.999).sum()}, same: {(found == expected).all(axis=1).sum()}")  # fmt: skip
    gap = np.abs(plain[0] @ plain[1].T - right[0] @ right[1].T)
    print(
        f"{name:<7} score of a photo and a caption: off by up to {gap.max():.4f}, by {gap.mean():.5f} on average"
    )


def main() -> None:
    """Compare the two."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", help="folder or tar of photos")
    parser.add_argument("captions", help="captions file")
    parser.add_argument("--model", help="model folder (default: the packaged model)")
    parser.add_argument("--limit", type=int, default=200, help="photos, and five times as many captions")
    parser.add_argument("--keep", metavar="FILE", help="keep the plain embeddings (.npz)")
    parser.add_argument("--beside", metavar="FILE", help="embeddings of another processor to compare with")
    parser.add_argument("--no-floats", action="store_true", help="leave the products of floats out")
    wanted = parser.parse_args()
    encoder = load(wanted.model)
    assert isinstance(encoder, OnnxEncoder), "give a model folder of ONNX files"
    photos = compared_photos(wanted.photos, wanted.limit)
    captions = compared_captions(wanted.captions, 5 * wanted.limit)
    print(f"{encoder.card.name}: integer products {integer_products(encoder.folder)}")
    plain = embeddings(encoder, photos, captions, "plain")
    if wanted.keep:
        np.savez(wanted.keep, images=plain[0], texts=plain[1])
    compare("exact", plain, embeddings(encoder, photos, captions, "exact"))
    if wanted.beside:
        compare("beside", plain, list(np.load(wanted.beside).values()))
    if not wanted.no_floats:
        compare("floats", plain, embeddings(encoder, photos, captions, "floats"))


if __name__ == "__main__":
    main()
