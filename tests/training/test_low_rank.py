"""Low-rank adapters: on our towers, open_clip's and Transformers', in recipes from start to resume."""

import json

import pytest
import torch
from torch import nn

from cliplet.encoders.open_clip import OpenClipEncoder
from cliplet.encoders.registry import load
from cliplet.errors import InputError
from cliplet.evaluation.retrieval import recall_at_k
from cliplet.models.dual import load_weights
from cliplet.training.checkpoint import read_weights
from cliplet.training.dclip.config import LowRankSettings, StudentSettings, StudentWeights
from cliplet.training.dclip.cost import describe
from cliplet.training.dclip.inputs import Learner
from cliplet.training.dclip.low_rank import LowRank, adapter_size, is_matrix
from cliplet.training.dclip.run import dclip
from cliplet.training.dclip.student import DclipStudent
from cliplet.training.dclip.trainable import TrainableDual, TrainableOpenClip, TrainableTransformers
from cliplet.training.pairs import read_pairs
from tests.training import make
from tests.training.test_dclip import recipe, write_data

PLAIN = "student.weights={contrastive = 1.0, image = 0.0, text = 0.0}"


def own():
    return TrainableDual(make.encoder()), ["image.transformer.*", "image.head.*", "text.head.*"]


def of_open_clip():
    open_clip = pytest.importorskip("open_clip")
    vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32}
    text = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    torch.manual_seed(0)
    clip = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)
    clip.visual.preprocess_cfg = {"size": (32, 32), "mean": (0.48, 0.46, 0.41), "std": (0.27, 0.26, 0.28)}
    tokenizer = open_clip.get_tokenizer("ViT-B-32", context_length=12)
    encoder = OpenClipEncoder(clip, open_clip.image_transform(32, is_train=False), tokenizer, name="tiny")
    return TrainableOpenClip(encoder, "ViT-B-32"), ["released", "transformer.*", "text_projection"]


def of_transformers():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={
            **sizes, "vocab_size": 20, "max_position_embeddings": 6, "bos_token_id": 1, "eos_token_id": 2,
        },
        vision_config={**sizes, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )  # fmt: skip
    torch.manual_seed(0)

    class Tiny(TrainableTransformers):
        def __init__(self):
            self.model = transformers.CLIPModel(config).eval()
            self._masked = True

        def tokens(self, texts):
            ids = torch.tensor([[1, 3 + len(t) % 9, 2, 2] for t in texts])
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

        def pixels(self, images):
            return torch.stack([torch.full((3, 32, 32), i.getpixel((16, 16))[0] / 99) for i in images])

    return Tiny(), ["*self_attn*", "visual_projection.weight", "text_model.encoder.*"]


LIBRARIES = [own, of_open_clip, of_transformers]


def student_of(clip, patterns, rank=2, alpha=4.0):
    weights = StudentWeights(image=0.0, text=0.0, l2_sp=0.1)
    settings = StudentSettings(weights=weights, low_rank=LowRankSettings(rank, alpha))
    return DclipStudent(Learner(clip, patterns, matrices=rank > 0), settings, None)


def batch_of(student):
    clip = student.learner.clip
    photos = [make.drawing(colour, "square", i) for i, colour in enumerate(make.COLOURS)]
    texts = [f"a {colour} square" for colour in make.COLOURS]
    batch = {"pixels": clip.pixels(photos), **clip.tokens(texts)}
    if student.learner.text_mode == "head":
        batch["text_states"] = torch.from_numpy(clip.pooled_text(texts))
    return batch


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda f: f.__name__)
def test_starts_as_the_base_and_merged_is_unmerged(library, torchvision):
    clip, patterns = library()
    before = {k: v.clone() for k, v in clip.model.state_dict().items()}
    student = student_of(clip, patterns).train()
    batch = batch_of(student)
    with torch.no_grad():
        base = student.images(batch), student.texts(batch)
        with student.adapters.in_place(student.adapters.merged()):
            assert torch.equal(student.images(batch), base[0])
            assert torch.equal(student.texts(batch), base[1])
    names = [n for n, p in student.named_parameters() if p.requires_grad]
    assert all(n.startswith("adapters.") for n in names)
    assert len(names) == 2 * len(student.learner.names)
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.02)
    losses = []
    for _ in range(8):
        terms = student(batch)
        optimizer.zero_grad()
        terms["loss"].backward()
        losses.append(terms["loss"].item())
        optimizer.step()
    assert losses[-1] < losses[0]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in student.adapters.b.values())
    for name, value in clip.model.state_dict().items():  # nothing of the model itself has moved
        assert torch.equal(value, before[name]), name
    with torch.no_grad(), student.adapters.in_place(student.adapters.merged()):
        unmerged = student.images(batch), student.texts(batch)
    student.weights()
    with torch.no_grad():
        torch.testing.assert_close(student.images(batch), unmerged[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(student.texts(batch), unmerged[1], atol=1e-5, rtol=0)
    assert not torch.allclose(unmerged[0], base[0], atol=1e-3)
    moved = {n for n, v in clip.model.state_dict().items() if not torch.equal(v, before[n])}
    assert moved == set(student.learner.names)
    for name in moved:  # by no more than the rank, of each of three stacked matrices
        change = clip.model.state_dict()[name] - before[name]
        for part in change.chunk(3) if name.endswith(("in_proj_weight", "qkv.weight")) else [change]:
            assert torch.linalg.matrix_rank(part, atol=1e-5) <= 2


def test_by_hand():
    linear = nn.Linear(3, 2, bias=False)
    low = LowRank(nn.Sequential(linear), ["0.weight"], rank=1, alpha=2.0)
    with torch.no_grad():
        low.a["0/weight"].copy_(torch.tensor([[[1.0, 0, -1]]]))
        low.b["0/weight"].copy_(torch.tensor([[[3.0], [4]]]))
    expected = linear.weight + 2 * torch.tensor([[3.0, 0, -3], [4, 0, -4]])
    assert torch.equal(low.merged()["0.weight"], expected)
    assert sum(p.numel() for p in low.parameters()) == adapter_size("0.weight", linear.weight, 1) == 5
    assert adapter_size("attn.in_proj_weight", torch.zeros(12, 4), 2) == 3 * 2 * (4 + 4)


def test_a_tied_matrix_has_its_adapter_everywhere():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    low = LowRank(model, ["0.weight"], 1, 1.0)
    nn.init.ones_(low.b["0/weight"])
    merged = low.merged()
    x = torch.randn(2, 3)
    with low.in_place(merged):
        assert torch.equal(model(x), x @ merged["0.weight"].T @ merged["0.weight"].T)
    assert torch.equal(model(x), x @ model[0].weight.T @ model[0].weight.T)


def test_what_is_no_matrix_needs_another_choice():
    clip, _ = own()
    with pytest.raises(InputError, match="names none"):
        Learner(clip, ["image.transformer.*norm*"], matrices=True)
    with pytest.raises(InputError, match="rank=-1"):
        LowRankSettings(-1)


# ---------------------------------------------------------------- recipes
@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("low_rank"))


def low_rank_recipe(data, out, *changes):
    return recipe(
        data, out, PLAIN, "student.low_rank.rank=2", 'student.train=["image.transformer.*", "text.head.*"]',
        "zeroshot.photos=''", *changes,
    )  # fmt: skip


def test_a_recipe_saves_a_model_like_the_base(data, tmp_path):
    config = low_rank_recipe(data, tmp_path / "run", "student_stage.ema=0.5")
    dclip(config)
    folder = tmp_path / "run" / "dclip-seed0"
    base, tuned = (dict(load_weights(f).named_parameters()) for f in (data / "base", folder / "model"))
    moved = {n for n in base if not torch.equal(base[n], tuned[n])}
    assert moved
    assert all(base[n].ndim == 2 for n in moved)
    assert all(n.startswith("image.transformer") or n == "text.head.weight" for n in moved)
    best = read_weights(folder / "best.safetensors")
    assert all(torch.equal(best[n], tuned[n]) for n in moved)
    # what was measured on dev while it learnt is what the saved model gives
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    scores = [line["score"] for line in log if line["kind"] == "dev"]
    dev, encoder = read_pairs(config.dev), load(folder / "model")
    embedded = encoder.encode_images(dev.photos), encoder.encode_texts(dev.captions)
    values = recall_at_k(*embedded, dev.photo_of, ks=(1,)).values()
    assert max(scores) == pytest.approx(sum(values) / 2, abs=0.01)


def test_an_interrupted_run_ends_the_same(data, tmp_path, monkeypatch):
    dclip(low_rank_recipe(data, tmp_path / "whole", "save_every=1"))
    from cliplet.training.dclip import student

    forward, calls = student.DclipStudent.forward, []

    def stops(self, batch):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return forward(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(student.DclipStudent, "forward", stops)
        with pytest.raises(KeyboardInterrupt):
            dclip(low_rank_recipe(data, tmp_path / "cut", "save_every=1"))
    checkpoint = tmp_path / "cut" / "dclip-seed0" / "checkpoint"
    assert checkpoint.exists()
    dclip(low_rank_recipe(data, tmp_path / "cut", "save_every=1"))
    one, two = (read_weights(tmp_path / n / "dclip-seed0" / "best.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(one[n], two[n]) for n in one)


def test_a_dry_run_says_what_adapters_take(data, tmp_path):
    rows = dict(describe(low_rank_recipe(data, tmp_path / "run")))
    own_parameters = dict(load_weights(data / "base").named_parameters())
    names = [
        n for n, p in own_parameters.items()
        if p.ndim == 2 and (n.startswith("image.transformer") or n == "text.head.weight")
    ]  # fmt: skip
    adapters = sum(adapter_size(n, own_parameters[n], 2) for n in names)
    assert f"adapters of rank 2 with {adapters:,} do, on {len(names)} matrices" in rows["base model"]
    assert f"{12 * adapters / 1e6:.1f} MB" in rows["memory of learning"]


def test_a_convolution_over_single_places_is_a_matrix():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 6, 1, groups=6))
    assert [is_matrix(layer.weight) for layer in model] == [True, False, False]
    adapters = LowRank(model, ["0.weight"], 2, 4.0)
    with torch.no_grad():
        adapters.b["0/weight"].normal_()
    x = torch.randn(2, 4, 5, 5)
    with adapters.in_place(adapters.merged()):
        wanted = model(x)
    adapters.merge()
    assert torch.allclose(model(x), wanted, atol=1e-5)
