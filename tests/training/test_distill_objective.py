"""Distillation from another CLIP in a tuning recipe, and texts of open_clip at their own length."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cliplet.errors import InputError
from cliplet.models.dual import load_weights
from cliplet.models.open_clip_text import encode_short
from cliplet.training.dclip.run import dclip
from cliplet.training.objectives import chosen_objectives
from tests.training import make
from tests.training.test_dclip import recipe, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_data(tmp_path_factory.mktemp("data"))
    make.model_folder(folder / "teacher", seed=5)
    return folder


def lines(run):
    file = run / "dclip-seed0" / "log.jsonl"
    return [one for one in map(json.loads, file.read_text().splitlines()) if one["kind"] == "train"]


def learn(data, out, *changes):
    weights = "student.weights={contrastive=1.0, image=0.0, text=0.0}"
    distill = f'objectives.distill.teacher.names=["{data}/teacher"]'
    dclip(
        recipe(
            data,
            out,
            weights,
            "student.train=['image.*', 'text.*']",
            distill,
            f"features={out}-features",
            *changes,
        )
    )
    return lines(out)


def test_kept_rows_are_what_the_teacher_sees(data, tmp_path):
    kept = learn(data, tmp_path / "kept", "augment.views=2")
    anew = learn(data, tmp_path / "anew", "augment.views=2", "objectives.distill.keep=false")
    assert "distill" in kept[0]
    assert "distill.affinity" in kept[0]
    for a, b in zip(kept, anew, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    assert list((tmp_path / "kept-features").glob("images-*-1.npy"))
    tuned = [load_weights(tmp_path / n / "dclip-seed0" / "model").state_dict() for n in ("kept", "anew")]
    for name, value in tuned[0].items():
        assert torch.allclose(value, tuned[1][name], atol=1e-4)


def test_the_loss_by_hand(data, tmp_path):
    """The first step's, from the base model's and the teacher's own embeddings: one batch of all photos."""
    from cliplet.encoders.torch import TorchEncoder
    from cliplet.training.config import DataConfig
    from cliplet.training.pairs import read_pairs

    first = learn(
        data, tmp_path / "run", "augment.views=1", "student_stage.batch_size=32", "student_stage.epochs=1",
        "objectives.distill.losses={affinity = 1.0, cosine = 0.5}", "objectives.distill.teacher_scale=30.0",
    )[0]  # fmt: skip
    pairs = read_pairs(DataConfig((f"{data}/train/captions.jsonl",), (f"{data}/train/photos",)))
    order = np.random.default_rng([0, 0]).permutation(32)
    photos, rng = np.sort(order), np.random.default_rng([0, 0, 0])
    texts = [pairs.captions[rng.choice(pairs.captions_of()[p])] for p in photos]
    student, teacher = (
        [
            torch.from_numpy(x)
            for x in (e.encode_images([pairs.photos[p] for p in photos]), e.encode_texts(texts))
        ]
        for e in (TorchEncoder.from_folder(data / "base"), TorchEncoder.from_folder(data / "teacher"))
    )
    s, t = 20.0 * student[0] @ student[1].T, 30.0 * teacher[0] @ teacher[1].T
    cross = [-(b.softmax(1) * a.log_softmax(1)).sum(1).mean() for a, b in ((s, t), (s.T, t.T))]
    assert first["distill.affinity"] == pytest.approx(float(sum(cross)) / 2, rel=1e-3)
    cosine = sum((1 - F.cosine_similarity(a, b)).mean() for a, b in zip(student, teacher, strict=True))
    assert first["distill.cosine"] == pytest.approx(float(cosine), rel=1e-3)
    total = first["distill.affinity"] + 0.5 * first["distill.cosine"]
    assert first["distill"] == pytest.approx(total, rel=1e-5)
    assert first["loss"] == pytest.approx(first["contrastive"] + total, rel=1e-5)


def test_settings_are_checked(data, tmp_path):
    with pytest.raises(InputError, match=r"objectives\.distill has no teacher"):
        dclip(recipe(data, tmp_path / "run", "objectives.distill=1.0"))
    with pytest.raises(InputError, match="teacher_scale=0"):
        chosen_objectives({"distill": {"teacher_scale": 0.0}})
    with pytest.raises(InputError, match="gives no loss a weight"):
        chosen_objectives({"distill": {"losses": {"affinity": 0.0}}})


@pytest.mark.parametrize("custom", [False, True])
def test_texts_of_open_clip_cost_their_own_length(custom, torchvision):
    open_clip = pytest.importorskip("open_clip")
    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
    text = {"context_length": 12, "vocab_size": 60, "width": 16, "heads": 2, "layers": 2}
    torch.manual_seed(0)
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    model = kind(embed_dim=8, vision_cfg=vision, text_cfg=text).eval()
    ids = torch.randint(1, 50, (4, 12))
    for row, end in enumerate((3, 5, 2, 6)):
        ids[row, end], ids[row, end + 1 :] = 59, 0
    lengths = []
    hook = (model.text if custom else model).transformer.register_forward_hook(
        lambda *call: lengths.append(call[2].shape[1])
    )
    full, short = model.encode_text(ids), encode_short(model, ids)
    hook.remove()
    assert lengths == [12, 7]
    assert torch.allclose(full, short, atol=1e-6)
    ids[0, -1] = 60 - 1  # the first place of the largest number counts
    ids[1, 5], ids[1, -1] = 4, 59
    assert torch.allclose(encode_short(model, ids), model.encode_text(ids), atol=1e-6)
