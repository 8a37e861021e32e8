"""PyTorch encoders on devices and in precisions: autocast beside fp32, the choice of a device, batches by memory."""

import numpy as np
import pytest
import torch
from PIL import Image

import cliplet
from cliplet.encoders import _torch_common
from cliplet.encoders._torch_common import cast_copy, sized_batch, torch_device
from cliplet.encoders.cache import CachedEncoder, EmbeddingCache
from cliplet.encoders.onnx import OnnxEncoder
from cliplet.encoders.open_clip import OpenClipEncoder
from cliplet.encoders.transformers import TransformersEncoder
from cliplet.errors import DeviceMemoryError, InputError
from cliplet.models.dual import save_weights
from cliplet.scoring.scorer import Scorer
from tests.parity import local_models
from tests.training import make

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Transformers' own
CLOSE = 0.999
"""Least cosine of an embedding under bf16 to the one in fp32: 8 bits of each factor, in small towers."""
PHOTOS = [make.drawing(colour, shape, i) for i, colour in enumerate(make.COLOURS) for shape in make.SHAPES]
TEXTS = ["a red square on grey", "the picture of a blue bar", "big green corner", "small"]


def tiny_open_clip() -> OpenClipEncoder:
    import open_clip

    vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32}
    text = {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
    torch.manual_seed(0)
    clip = open_clip.CLIP(embed_dim=32, vision_cfg=vision, text_cfg=text)
    tokenizer = open_clip.get_tokenizer("ViT-B-32", context_length=12)
    return OpenClipEncoder(clip, open_clip.image_transform(32, is_train=False), tokenizer, name="tiny")


@pytest.fixture(scope="module", params=["own", "open_clip", "transformers"])
def encoder(request, tmp_path_factory, torchvision):
    if request.param == "own":
        return make.encoder()
    if request.param == "open_clip":
        return tiny_open_clip()
    folder = local_models.save_clip(tmp_path_factory.mktemp("hf"))
    return TransformersEncoder.from_name(str(folder))


def embedded(encoder) -> tuple[np.ndarray, np.ndarray]:
    return encoder.encode_images(PHOTOS), encoder.encode_texts(TEXTS)


def test_bf16_is_near_fp32_and_fp32_is_untouched(encoder):
    before = embedded(encoder)
    fingerprint = encoder.card.fingerprint
    assert (encoder.card.precision, encoder.numerics, encoder.provider) == ("fp32", "", "PyTorch")
    encoder.set_precision("bf16")
    half = embedded(encoder)
    assert (encoder.card.precision, encoder.numerics) == ("bf16", "cpu bf16")
    encoder.set_precision("fp32")
    again = embedded(encoder)
    for plain, rough, same in zip(before, half, again, strict=True):
        np.testing.assert_array_equal(plain, same)
        assert rough.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rough, axis=1), 1, atol=1e-6)
        cosines = (plain * rough).sum(axis=1)
        assert cosines.min() > CLOSE
        assert cosines.min() < 1 - 1e-7  # it does compute otherwise
    assert encoder.card.fingerprint == fingerprint
    assert next(encoder.model.parameters()).dtype == torch.float32


def test_the_copy_for_a_precision_shares_all_but_the_products(encoder):
    from torch import nn

    copied = cast_copy(encoder.model, torch.bfloat16)
    before = dict(encoder.model.named_parameters())
    assert {w.dtype for w in before.values()} == {torch.float32}
    cast = {name for name, weight in copied.named_parameters() if weight.dtype == torch.bfloat16}
    assert cast
    for name, weight in copied.named_parameters():
        assert name in cast or weight is before[name]
    kinds = {type(encoder.model.get_submodule(name.rpartition(".")[0])) for name in cast}
    assert all(issubclass(kind, nn.Linear | nn.Conv2d | nn.MultiheadAttention) for kind in kinds)


@pytest.mark.parametrize("batched", [True, False])
def test_attention_of_the_copy_gives_what_it_gave(batched):
    from torch import nn

    torch.manual_seed(0)
    attention = nn.Sequential()
    attention.inner = nn.MultiheadAttention(16, 2, batch_first=True).eval()
    copied = cast_copy(attention, torch.float32)
    assert not copied.inner.batch_first
    x = torch.randn(3, 5, 16) if batched else torch.randn(5, 16)
    mask = torch.full((5, 5), -1e9).triu(1)
    with torch.inference_mode():
        for given in ((x, x, x), (x, x + 1, x + 2)):
            expected, found = (
                m.inner(*given, attn_mask=mask, need_weights=False)[0] for m in (attention, copied)
            )
            torch.testing.assert_close(found, expected)
        named = {"query": x, "key": x, "value": x}
        expected, found = (m.inner(**named, need_weights=True) for m in (attention, copied))
        torch.testing.assert_close(found, expected)


def test_weights_of_a_folder_are_loaded_in_a_precision(tmp_path):
    made = make.encoder()
    save_weights(made.model, tmp_path)
    make.tokenizer().save(str(tmp_path / "tokenizer.json"))
    made.card.save(tmp_path)
    encoder = cliplet.load(tmp_path, "auto" if not torch.cuda.is_available() else "cpu", "bf16")
    result = Scorer(encoder).score(PHOTOS[:2], TEXTS[:2])
    facts = result.provenance
    assert (facts["precision"], facts["device"], facts["provider"]) == ("bf16", "cpu", "PyTorch")
    plain = Scorer(tmp_path).score(PHOTOS[:2], TEXTS[:2])
    assert 0 < np.abs(result.cosine - plain.cosine).max() < 0.02
    assert plain.provenance["fingerprint"] == facts["fingerprint"]


def test_precisions_share_no_kept_embedding(tmp_path):
    encoder = make.encoder()
    encoder.card.__dict__["fingerprint"] = "0123456789abcdef"
    plain = encoder.encode_texts(TEXTS)
    cache = EmbeddingCache(tmp_path)
    np.testing.assert_array_equal(CachedEncoder(encoder, cache).encode_texts(TEXTS), plain)
    cached = CachedEncoder(encoder, cache)
    cached.set_precision("bf16")
    cached.card.__dict__["fingerprint"] = "0123456789abcdef"
    assert cached.card.precision == "bf16"
    assert (cached.encode_texts(TEXTS) != plain).any()


@pytest.mark.parametrize(
    ("precision", "message"), [("int8", "cliplet export MODEL OUT"), ("fp16", "fp16 is for GPUs")]
)
def test_what_pytorch_does_not_compute_on_a_cpu_is_refused(encoder, precision, message):
    with pytest.raises(InputError, match=message):
        encoder.set_precision(precision)
    with pytest.raises(InputError, match=message):
        Scorer(encoder, precision=precision)


def test_a_folder_in_fp16_is_near_fp32(tmp_path):
    from cliplet.export import export

    made = make.encoder()
    folders = {}
    for precision in ("fp32", "fp16"):
        export(made, tmp_path / precision, precision)
        folders[precision] = cliplet.load(tmp_path / precision, "cpu", precision)
    assert isinstance(folders["fp16"], OnnxEncoder)
    for plain, half in zip(embedded(folders["fp32"]), embedded(folders["fp16"]), strict=True):
        assert (plain * half).sum(axis=1).min() > 0.9999


# ---------------------------------------------------------------- the choice
class Machine:
    """Stands for a machine with GPUs, as PyTorch tells of them."""

    def __init__(self, monkeypatch, cuda: int = 0, mps: bool = False, built: str | None = "13.0") -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.version, "cuda", built)


@pytest.mark.parametrize(
    ("machine", "asked", "place"),
    [
        ({}, "auto", "cpu"), ({"cuda": 2}, "auto", "cuda:0"), ({"mps": True}, "auto", "mps"),
        ({"cuda": 2}, "cuda", "cuda:0"), ({"cuda": 2}, "cuda:1", "cuda:1"), ({"mps": True}, "mps", "mps"),
        ({"cuda": 2}, "cpu", "cpu"), ({"cuda": 2}, None, "cpu"),
    ],
)  # fmt: skip
def test_a_device_is_chosen(monkeypatch, machine, asked, place):
    Machine(monkeypatch, **machine)
    assert torch_device(asked) == place


@pytest.mark.parametrize(
    ("machine", "asked", "message"),
    [
        ({"built": None}, "cuda", "is built without CUDA"), ({}, "cuda:0", "finds no GPU here"),
        ({"cuda": 2}, "cuda:3", "give cuda:0 to cuda:1, auto or cpu"), ({"cuda": 1}, "cuda:1", "give cuda:0, auto or"),
        ({}, "mps", "finds no GPU of Apple"), ({}, "openvino", "is for model folders"), ({}, "gpu", "device 'gpu'"),
    ],
)  # fmt: skip
def test_a_missing_device_is_said_before_weights_are_loaded(
    monkeypatch, torchvision, tmp_path, machine, asked, message
):
    Machine(monkeypatch, **machine)
    for name in ("open_clip:ViT-B-32/no-such-tag", "hf:" + str(tmp_path), "torch:" + str(tmp_path)):
        with pytest.raises(InputError, match=message) as error:
            cliplet.load(name, asked)
        assert "\n" not in str(error.value)


# ---------------------------------------------------------------- memory
def test_pytorchs_lack_of_memory_halves_the_batch(monkeypatch):
    encoder = make.encoder()
    expected = encoder.encode_images(PHOTOS)
    seen = []
    real = encoder.model.encode_image

    def limited(pixels):
        seen.append(len(pixels))
        if len(pixels) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
        return real(pixels)

    monkeypatch.setattr(encoder.model, "encode_image", limited)
    np.testing.assert_allclose(encoder.encode_images(PHOTOS), expected, atol=1e-6)
    assert seen == [16, 8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    monkeypatch.setattr(encoder.model, "encode_image", lambda pixels: limited(pixels.repeat(4, 1, 1, 1)))
    vectors, reasons = encoder.encode_images_safely(PHOTOS[:2])
    assert np.isnan(vectors).all()
    assert reasons[0] == (
        "one image alone does not fit the memory of cpu: CUDA out of memory. Tried to allocate 2.00 GiB."
    )


@pytest.mark.parametrize(
    "error", [ValueError("bad shape"), RuntimeError("mat1 and mat2 cannot be multiplied")]
)
def test_other_errors_are_no_lack_of_memory(error):
    encoder = make.encoder()
    with pytest.raises(type(error)), encoder.computing():
        raise error
    with pytest.raises(DeviceMemoryError), encoder.computing():
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")


@pytest.mark.parametrize(
    ("free", "each", "batch"),
    [(80e9, 30e6, 256), (2e9, 30e6, 32), (1e9, 30e6, 16), (40e6, 30e6, 1), (1e6, 30e6, 1), (8e9, 0, 256)],
)
def test_a_batch_takes_a_share_of_the_free_memory(free, each, batch):
    assert sized_batch(free, each) == batch


def test_batches_on_cuda_are_sized_once(monkeypatch):
    """With a GPU that is told of but not there: the weights stay where they are."""
    Machine(monkeypatch, cuda=1)
    encoder = make.encoder()
    asked = []
    monkeypatch.setattr(type(encoder), "device", "cuda:0")
    monkeypatch.setattr(type(encoder.model), "to", lambda self, place: asked.append(place) or self)
    encoder.to("cuda")
    assert asked == ["cuda:0"]
    monkeypatch.setattr(encoder, "embed_images", lambda prepared: np.ones((len(prepared), 16)))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda place: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda place: 1e9)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda place: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda place: 1e9 + 8 * 50e6)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda place: (16e9, 24e9))
    encoder.encode_images(PHOTOS)
    assert encoder.batch_size == 128
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda place: (1e9, 24e9))
    encoder.encode_images(PHOTOS)
    assert encoder.batch_size == 128


def test_photos_are_decoded_beside_the_model(monkeypatch):
    """While a batch is computed the next ones are read: with a model that waits, as for a GPU."""
    import time

    encoder = make.encoder()
    encoder.batch_size = 4
    working, beside = False, 0
    prepare, embed = encoder.prepare_image, encoder.embed_images

    def slow_prepare(source):
        nonlocal beside
        time.sleep(0.005)
        beside += working
        return prepare(source)

    def slow_embed(prepared):
        nonlocal working
        working = True
        time.sleep(0.05)
        working = False
        return embed(prepared)

    monkeypatch.setattr(encoder, "prepare_image", slow_prepare)
    monkeypatch.setattr(encoder, "embed_images", slow_embed)
    encoder.encode_images(PHOTOS * 2)
    assert beside >= len(PHOTOS)


def test_a_recipe_says_where_its_teachers_compute(tmp_path):
    from cliplet.models.config import from_dict
    from cliplet.training.config import DistillConfig
    from cliplet.training.distill.teacher import Teacher

    made = make.encoder()
    save_weights(made.model, tmp_path / "model")
    make.tokenizer().save(str(tmp_path / "model" / "tokenizer.json"))
    made.card.save(tmp_path / "model")
    prints = []
    for more in ({}, {"precision": "fp32"}, {"precision": "bf16"}):
        config = from_dict(DistillConfig, {"teacher": {"names": [str(tmp_path / "model")], **more}})
        teacher = Teacher.from_config(config.teacher)
        prints.append(teacher.fingerprint)
    assert teacher.encoders[0].numerics == "cpu bf16"
    assert prints[0] == prints[1] != prints[2]
    wrong = from_dict(DistillConfig, {"teacher": {"names": [str(tmp_path / "model")], "device": "gpu"}})
    with pytest.raises(InputError, match="device 'gpu'"):
        Teacher.from_config(wrong.teacher)


def test_an_image_larger_than_its_share_is_still_embedded():
    assert make.encoder().encode_images([Image.new("RGB", (64, 64))]).shape == (1, 16)
    assert _torch_common.PROBED < _torch_common.LARGEST_BATCH
