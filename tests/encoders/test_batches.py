"""Batches of processes that work side by side: the same whatever their threads."""

import io

import numpy as np
import pytest
from PIL import Image

from cliplet.encoders import batching
from cliplet.encoders.batching import limit_threads
from cliplet.encoders.onnx import OnnxEncoder
from tests.tiny_model import build_tiny_model


def photo(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("count", [9, 20, 70])
def test_batches_depend_on_the_photos_alone(tmp_path, monkeypatch, count):
    build_tiny_model(tmp_path / "tiny")
    monkeypatch.setattr(batching, "_limit", 0)
    photos, sizes = [photo(i) for i in range(count)], {}
    photos[3] = b"none"
    for threads in (1, 2, 4):
        encoder = OnnxEncoder(tmp_path / "tiny", threads=4)
        limit_threads(encoder, threads)
        seen, embed = [], encoder.embed_images

        def noted(prepared, seen=seen, embed=embed):
            seen.append(tuple(pixels.tobytes() for pixels in prepared))
            return embed(prepared)

        monkeypatch.setattr(encoder, "embed_images", noted)
        encoder.encode_images_safely(photos)
        sizes[threads] = sorted(seen)
    assert sizes[1] == sizes[2] == sizes[4]
