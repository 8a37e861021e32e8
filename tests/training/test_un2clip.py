"""un2CLIP: the codec, the denoiser, its losses, the decoder's training, the tower's learning through it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cliplet.errors import InputError
from cliplet.models.denoiser import Denoiser, DenoiserConfig, PatchCodec, patches
from cliplet.training.checkpoint import read_weights
from cliplet.training.dclip.config import DclipConfig, load_dclip
from cliplet.training.dclip.run import dclip
from cliplet.training.losses import denoising, flow
from cliplet.training.objectives import chosen_objectives
from cliplet.training.objectives.un2clip_decoder import DecoderTask, Pool, randomise
from cliplet.training.pairs import PairSet
from tests.training import make

SMALL = DenoiserConfig(size=16, patch=8, channels=6, condition=5, width=32, heads=2, blocks=1)


# ---------------------------------------------------------------- losses and modules
def test_losses_by_hand():
    prediction, noise = torch.tensor([[[1.0, -2.0]]]), torch.tensor([[[3.0, 0.0]]])
    assert denoising(prediction, noise).item() == 4.0  # (2^2 + 2^2) / 2
    clean = torch.tensor([[[2.0, 2.0]]])  # the direction is (1, -2)
    assert flow(prediction, clean, noise).item() == 0.0
    assert flow(torch.zeros(1, 1, 2), clean, noise).item() == 2.5


def test_the_flows_error_is_the_noises_error_weighed():
    torch.manual_seed(0)
    clean, noise, guess = torch.randn(3, 2, 4), torch.randn(3, 2, 4), torch.randn(3, 2, 4)
    t = 0.25
    noisy = (1 - t) * clean + t * noise
    assert denoising(noisy + (1 - t) * guess, noise).item() == pytest.approx(
        (1 - t) ** 2 * flow(guess, clean, noise).item(), rel=1e-5
    )


def test_the_codec_keeps_what_varies():
    torch.manual_seed(0)
    basis = torch.randn(6, 192)
    pixels = torch.randn(20, 4, 6) @ basis + 3.0  # patches of six dimensions
    pixels = torch.nn.functional.fold(pixels.transpose(1, 2), (16, 16), 8, stride=8)
    codec = PatchCodec(SMALL)
    codec.fit(pixels)
    latents = codec.encode(pixels)
    assert latents.shape == (20, 4, 6)
    assert latents.square().mean().item() == pytest.approx(1.0, rel=1e-3)
    assert torch.allclose(codec.decode(latents), pixels, atol=1e-3)
    variances = latents.var(dim=(0, 1))
    assert (variances[:-1] >= variances[1:]).all()
    few = PatchCodec(DenoiserConfig(**{**vars(SMALL), "channels": 3}))
    few.fit(pixels)
    rows = patches(pixels, 8).flatten(0, 1)
    lost = (few.decode(few.encode(pixels)) - pixels).square().sum()
    best = torch.linalg.svdvals(rows - rows.mean(0))[3:].square().sum()  # Eckart and Young
    assert lost.item() == pytest.approx(best.item(), rel=1e-3)


def test_the_denoiser_starts_at_nothing_and_then_depends_on_its_condition():
    torch.manual_seed(0)
    model = Denoiser(SMALL)
    inputs = torch.randn(3, 4, 6), torch.rand(3)
    condition = torch.randn(3, 5, requires_grad=True)
    assert not model(*inputs, condition).any()
    randomise(model)
    before = model(*inputs, condition)
    assert not torch.allclose(before, model(*inputs, condition.roll(1, 0)))
    assert not torch.allclose(before, model(inputs[0], inputs[1].roll(1), condition))
    before.sum().backward()
    assert condition.grad.abs().sum() > 0
    conditions = 4 * torch.randn(500, 5) + 7
    model.standardise(conditions)
    assert torch.allclose(model.centre, conditions.mean(0))
    assert torch.allclose(model.spread, conditions.std(0))


def test_the_deterministic_decoder_draws_nothing():
    torch.manual_seed(0)
    model = Denoiser(SMALL)
    randomise(model)
    clean, condition = torch.randn(2, 4, 6), torch.randn(2, 5)
    draws = [(torch.rand(2), torch.randn(2, 4, 6)) for _ in range(2)]
    same = [DecoderTask(model, True).loss(clean, condition, *draw).item() for draw in draws]
    other = [DecoderTask(model, False).loss(clean, condition, *draw).item() for draw in draws]
    assert same[0] == same[1]
    assert other[0] != other[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": 7}, "patch=7 does not divide size=16"),
        ({"channels": 193}, "more than the 192 colours"),
        ({"heads": 3}, "multiple of heads=3"),
        ({"blocks": 0}, "blocks=0 must be at least 1"),
    ],
)
def test_sizes_that_cannot_be_are_refused(change: dict[str, int], message: str):
    with pytest.raises(InputError, match=message):
        DenoiserConfig(**{**vars(SMALL), **change})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decoder": "difusion"}, "choose diffusion, deterministic, untrained, or diffusers:FOLDER"),
        ({"width": 40}, "multiple of 32"),
        ({"draws": 0}, "draws=0 must be at least 1"),
        ({"condition": "shuffled", "photos": 1}, "photos=2 or more"),
        ({"condition": "other"}, "condition"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        chosen_objectives({"un2clip": settings})


class Numbered:
    """Photos whose kept maps are their numbers."""

    def __init__(self, first: int) -> None:
        self.first = first

    def batch(self, rows: np.ndarray, views: np.ndarray) -> dict[str, torch.Tensor]:
        assert not views.any()
        return {"maps": torch.from_numpy(self.first + rows).half()[:, None]}


@pytest.mark.parametrize("captioned", [2, 5])
def test_photos_of_both_kinds_come_in_one_order(captioned: int):
    photos = [f"photo {i}" for i in range(7)]
    setup: Any = SimpleNamespace(
        learner=None, folder=None, train=PairSet(photos=photos[:captioned]), bare=PairSet(photos=photos[captioned:]),
        photos=Numbered(0), look=lambda bare: Numbered(captioned),
    )  # fmt: skip
    pool = Pool(setup)
    rows = np.array([6, 0, 3, 3, 1])
    found = pool.inputs(rows)["maps"][:, 0].tolist()
    assert [photos[int(i)] for i in found] == [pool.photos[i] for i in rows]
    every = SimpleNamespace(**{**vars(setup), "train": PairSet(photos=photos[::-1]), "bare": PairSet()})
    assert Pool(every).key == pool.key  # the same photos, however they are captioned


# ---------------------------------------------------------------- in a recipe
@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("un2clip")
    make.dataset(folder / "train", 96)
    make.model_folder(folder / "base")
    return folder


def recipe(data: Path, out: Path, *changes: str) -> DclipConfig:
    file = data / "recipe.toml"
    file.write_text(f"""
kind = "dclip"
out = "{out}"
features = "{out.parent}/features"
base = "{data}/base"
cpu = true
resamples = 20
exclude_alike = false
held_out = 8
captioned = 16
[[variants]]
name = "un2clip"
[train]
captions = ["{data}/train/captions.jsonl"]
photos = ["{data}/train/photos"]
[student]
train = ["image.transformer.*", "image.head.*"]
[student.weights]
image = 0.0
text = 0.0
contrastive = 0.0
[student_stage]
epochs = 2
batch_size = 4
accumulate = 1
lr = 1e-3
[objectives.un2clip]
size = 16
photos = 8
width = 32
blocks = 1
channels = 8
epochs = 6
batch_size = 8
""")
    return load_dclip(file, changes)


def lines(file: Path, kind: str) -> list[dict[str, Any]]:
    return [one for one in map(json.loads, file.read_text().splitlines()) if one["kind"] == kind]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return read_weights(run / "un2clip-seed0" / "best.safetensors")


def test_photos_alone_teach_the_image_tower(data, tmp_path, capsys):
    dclip(recipe(data, tmp_path / "run", "objectives.un2clip.draws=2", "objectives.un2clip.anchor=0.1"))
    assert "diffusion decoder, loss on held-out photos by condition" in capsys.readouterr().err
    decoder = next((tmp_path / "features").glob("un2clip-decoder-*"))
    known = lines(decoder / "log.jsonl", "dev")[-1]
    assert known["right"] < min(known["shuffled"], known["mean"])
    log = lines(tmp_path / "run" / "un2clip-seed0" / "log.jsonl", "train")
    assert log[-1]["un2clip.moved"] > 0
    assert log[-1]["loss"] == pytest.approx(
        log[-1]["un2clip.denoising"] + 0.2 * log[-1]["un2clip.moved"], rel=1e-4
    )
    learnt = weights(tmp_path / "run")
    assert all(name.startswith("image.") for name in learnt)
    start = read_weights(data / "base" / "model.safetensors")
    assert any(not torch.equal(learnt[name], start[name]) for name in learnt)

    made = (
        (decoder / "best.safetensors").stat().st_mtime_ns
    )  # other captions of the same photos: the same decoder
    dclip(recipe(data, tmp_path / "more", "captioned=1.0"))
    assert len(list((tmp_path / "features").glob("un2clip-decoder-*"))) == 1
    assert (decoder / "best.safetensors").stat().st_mtime_ns == made


@pytest.mark.parametrize("decoder", ["deterministic", "untrained"])
def test_controls(data, tmp_path, decoder, capsys):
    dclip(recipe(data, tmp_path / "run", f"objectives.un2clip.decoder={decoder}"))
    assert f"un2clip's {decoder} decoder" in capsys.readouterr().err
    assert bool(list((tmp_path / "features").glob("un2clip-decoder-*"))) == (decoder == "deterministic")
    assert weights(tmp_path / "run")


def test_an_interrupted_run_ends_with_the_same_weights(data, tmp_path, monkeypatch):
    from cliplet.training import loop

    changes = ["objectives.un2clip.condition=shuffled", "save_every=3"]
    dclip(recipe(data, tmp_path / "a" / "run", *changes))
    step = loop.train_step
    for stop in (20, 47):  # in the decoder's training, then in the student's
        left = iter(range(stop))

        def stopping(*args: Any, left: Any = left) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return step(*args)

        monkeypatch.setattr(loop, "train_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            dclip(recipe(data, tmp_path / "b" / "run", *changes))
    assert list((tmp_path / "b" / "features").glob("un2clip-decoder-*/best.safetensors"))
    monkeypatch.undo()
    dclip(recipe(data, tmp_path / "b" / "run", *changes))
    one, two = weights(tmp_path / "a" / "run"), weights(tmp_path / "b" / "run")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_is_missing_is_said(data, tmp_path):
    with pytest.raises(InputError, match="un2clip has 88 photos for batches of 99"):
        dclip(recipe(data, tmp_path / "a", "objectives.un2clip.photos=99"))
    with pytest.raises(InputError, match=r"its decoder needs at least 96: give"):
        dclip(recipe(data, tmp_path / "b", "objectives.un2clip.batch_size=88"))
    with pytest.raises(InputError, match="of which nothing learns"):
        dclip(recipe(data, tmp_path / "c", 'student.train=["text.head.*"]'))
