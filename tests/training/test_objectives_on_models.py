"""Every objective on models of open_clip and Transformers, from pixels, with the text tower learning and without."""

import json

import pytest
import torch

from cliplet.encoders.registry import load
from cliplet.errors import InputError
from cliplet.training.checkpoint import read_weights
from cliplet.training.dclip.config import load_dclip
from cliplet.training.dclip.run import dclip
from cliplet.training.dclip.trainable import open_trainable
from tests.parity import local_models
from tests.training import tuning
from tests.training.test_low_rank import of_open_clip

TEXTS = ["a red bar", "the picture of a yellow frame"]
SMALL = (
    "student_stage.epochs=1",
    "captioned=8",
    "augment.views=1",
    "resamples=5",
)


@pytest.mark.parametrize("text", [[], ["transformer.*", "ln_final.*", "text_projection"]])
def test_open_clip(tmp_path, torchvision, text):
    data = tuning.write_data(tmp_path / "data", 24)
    recipe = tuning.write_recipe(data, tmp_path / "run")
    model, _ = of_open_clip()
    base = {k: v.clone() for k, v in model.model.state_dict().items()}
    # another context length than the architecture's is written with the weights, so that the folder can be opened
    changes = [
        "student.context_length=20", f"student.train={json.dumps(['released', *text])}",
        *SMALL,
    ]  # fmt: skip
    dclip(load_dclip(recipe, changes), model)
    for way in tuning.WAYS:
        folder = tmp_path / "run" / f"{way}-seed0"
        learnt = read_weights(folder / "best.safetensors")
        assert all(torch.isfinite(value).all() for value in learnt.values()), way
        parts = {name.split(".")[0] for name in learnt if not torch.equal(learnt[name], base[name])}
        assert "visual" in parts, way
        assert bool(text) == ("transformer" in parts), way
    tuned = load(json.loads((folder / "model" / "dclip.json").read_text())["load"])
    assert tuned.encode_texts(TEXTS).shape == (2, 16)


@pytest.mark.parametrize("text", [[], ["text_model.*", "text_projection.*"]])
def test_transformers(tmp_path, torchvision, text):
    pytest.importorskip("transformers")
    (tmp_path / "clip").mkdir()
    clip = local_models.save_clip(tmp_path / "clip")
    data = tuning.write_data(tmp_path / "data", 24)
    ways = tuple(way for way in tuning.WAYS if way != "regions")
    recipe = tuning.write_recipe(data, tmp_path / "run", ways)
    train = f"student.train={json.dumps(['released', *text])}"
    changes = [f"base=hf:{clip}", train, *SMALL]
    dclip(load_dclip(recipe, changes))
    before = dict(open_trainable(str(clip)).model.named_parameters())
    for way in ways:
        learnt = read_weights(tmp_path / "run" / f"{way}-seed0" / "best.safetensors")
        assert all(torch.isfinite(value).all() for value in learnt.values()), way
        parts = {name.split(".")[0] for name in learnt if not torch.equal(learnt[name], before[name])}
        assert "vision_model" in parts, way
        assert bool(text) == ("text_model" in parts), way
    assert load(tmp_path / "run" / "plain-seed0" / "model").encode_texts(TEXTS).shape == (2, 48)
    with pytest.raises(InputError, match=r"leave objectives\.regions out"):
        dclip(
            load_dclip(
                tuning.write_recipe(data, tmp_path / "regions", ("regions",)), [f"base=hf:{clip}", *SMALL[:3]]
            )
        )
