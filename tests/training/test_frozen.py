"""The frozen part of an image tower as a function of arrays."""

import numpy as np
import pytest
import torch
from torch import nn

from cliplet.export import frozen as module
from cliplet.export.frozen import frozen, frozen_encoder
from tests.training import make


def test_on_onnx_runtime_as_in_pytorch(tmp_path, torchvision):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    body = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()  # its padding depends on the size
    early = nn.Sequential(body.conv_stem, body.bn1, *body.blocks[:2])
    pixels = np.random.default_rng(0).normal(size=(3, 3, 48, 48)).astype(np.float32)
    file = tmp_path / "early.onnx"
    with torch.no_grad():
        expected = early(torch.from_numpy(pixels)).numpy()
    for _ in range(2):  # written, then read
        assert np.abs(frozen(early, 48, file)(pixels) - expected).max() < 1e-4
        assert file.is_file()


def test_what_has_no_onnx_form_runs_as_it_is(tmp_path, monkeypatch):
    def refuse(*_):
        raise ImportError

    monkeypatch.setattr(module, "_on_onnx_runtime", refuse)
    layer = nn.Conv2d(3, 2, 1).eval()
    pixels = np.ones((1, 3, 4, 4), np.float32)
    out = frozen(layer, 4, tmp_path / "none.onnx")(pixels)
    assert np.allclose(out, layer(torch.from_numpy(pixels)).detach().numpy(), atol=1e-6)


def test_without_a_file_the_graph_is_kept_nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layer = nn.Conv2d(3, 2, 1).eval()
    pixels = np.ones((1, 3, 4, 4), np.float32)
    expected = layer(torch.from_numpy(pixels)).detach().numpy()
    assert np.allclose(frozen(layer, 4)(pixels), expected, atol=1e-6)
    assert not list(tmp_path.iterdir())


def test_an_encoder_of_our_own_is_copied_once(tmp_path):
    encoder = make.encoder()
    photos = [make.drawing("red", "bar", 1)]
    copy = frozen_encoder(encoder, tmp_path, photos, ["a red bar"])
    assert np.abs(copy.encode_images(photos) - encoder.encode_images(photos)).max() < 1e-3
    (folder,) = tmp_path.iterdir()
    stamp = (folder / "card.json").stat().st_mtime_ns
    assert frozen_encoder(encoder, tmp_path, photos, ["a red bar"]) is not None
    assert (folder / "card.json").stat().st_mtime_ns == stamp
