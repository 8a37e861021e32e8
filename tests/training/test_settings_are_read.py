"""Every setting that a kind of recipe lists is read by something: small runs of each kind, configurations watched.

A setting fails here when no run reads it. Reading it to check it, to copy it or to write it down does not count. If
yours is read only under some condition, add a run that meets the condition.
"""

import dataclasses
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from cliplet.captioner import Captioner, DecodeConfig
from cliplet.encoders.open_clip import OpenClipEncoder
from cliplet.models.config import DualConfig, TimmConfig, from_dict, to_dict
from cliplet.models.dual import save_weights
from cliplet.training.captioner.config import CaptionRecipe
from cliplet.training.captioner.train import train_captioner
from cliplet.training.config import DistillConfig
from cliplet.training.dclip.config import DclipConfig
from cliplet.training.dclip.run import dclip
from cliplet.training.distill import distill
from cliplet.training.distill.teacher import Teacher
from cliplet.training.recipes import KINDS
from diffclip_houston.recipe import RECIPE as DIFFCLIP
from lclip_everyday.recipe import RECIPE
from lclip_everyday.run import Run
from tests.captioner import make as captioners
from tests.tiny_model import build_tiny_model
from tests.training import make
from tests.training.parts import use_stand_ins, write_yolox

pytestmark = pytest.mark.usefixtures("torchvision")
COPIES = ("dataclasses.py", "models/config.py", "<string>")
"""Code that compares, prints, copies and writes down configurations."""


def classes(kind: Any) -> Iterator[type]:
    """The dataclasses inside an annotation, and inside their fields."""
    if dataclasses.is_dataclass(kind):
        yield kind  # type: ignore[misc]
        for hint in typing.get_type_hints(kind).values():
            yield from classes(hint)
    elif typing.get_origin(kind) is not typing.Literal:
        for part in typing.get_args(kind):
            yield from classes(part)


def is_no_use(frame: FrameType | None) -> bool:
    """Whether a configuration is only checked, copied or written down here."""
    if frame is None or frame.f_code.co_filename.endswith(COPIES):
        return True
    while frame is not None:
        if frame.f_code.co_name == "__post_init__":
            return True
        frame = frame.f_back
    return False


class Watch:
    """Notes which fields of some dataclasses are read."""

    def __init__(self, patch: pytest.MonkeyPatch, settings: type) -> None:
        self.classes = list(dict.fromkeys(classes(settings)))
        self.read: set[tuple[type, str]] = set()
        for cls in self.classes:
            patch.setattr(cls, "__getattribute__", self._watched())

    def _watched(self) -> Any:
        def get(config: Any, name: str) -> Any:
            if (type(config), name) not in self.read and not is_no_use(sys._getframe(1)):
                self.read.add((type(config), name))
            return object.__getattribute__(config, name)

        return get

    def unread(self) -> list[str]:
        """Fields that nothing has read; ``kind`` of a choice of tables is read where the choice is made."""
        chosen = {cls for cls in self.classes if "kind" in vars(cls) and cls is not self.classes[0]}
        return [
            f"{cls.__name__}.{field.name}"
            for cls in self.classes
            for field in dataclasses.fields(cls)
            if (cls, field.name) not in self.read and not (field.name == "kind" and cls in chosen)
        ]


def pairs(folder: Path, name: str = "data") -> dict[str, list[str]]:
    """The data of a folder of drawings, made when it is not there."""
    captions, photos = folder / name / "captions.jsonl", folder / name / "photos"
    if not captions.exists():
        make.dataset(folder / name, 16, seed=sum(map(ord, name)))
        for photo in photos.iterdir():
            photo.rename(photo.with_name(name + photo.name))
        captions.write_text(captions.read_text().replace('"image": "', f'"image": "{name}'))
    return {"captions": [str(captions)], "photos": [str(photos)]}


# ---------------------------------------------------------------- small runs
def run_distill(folder: Path) -> None:
    """A multiplexed student of a model folder; then one of timm and Transformers towers, and one that inherits."""
    image = {"width": 32, "heads": 4, "blocks": 1, "image_size": 32, "patch_size": 16, "embedding_dim": 16}
    text = {
        "width": 32,
        "heads": 4,
        "blocks": 1,
        "embedding_rank": 8,
        "context_length": 12,
        "embedding_dim": 16,
    }
    stage = {"epochs": 1, "batch_size": 8, "losses": {"l1": 1.0, "contrastive": 1.0, "affinity": 1.0}}
    settings = {"cpu": True, "tokenizer": "train", "train": pairs(folder), "dev": pairs(folder), "export": "none",
                "augment": {"views": 2}, "stages": [stage]}  # fmt: skip
    teacher = {"names": [str(make.model_folder(folder / "teacher"))], "cache": f"{folder}/cache"}
    bert = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 32, "vocab_size": 200}  # fmt: skip
    others = {"image": {"kind": "timm", "name": "test_efficientnet", "image_size": 32, "embedding_dim": 16},
              "text": {"kind": "transformers", "config": bert, "context_length": 12, "embedding_dim": 16}}  # fmt: skip
    read = KINDS["distill"].configuration
    distill(
        read({**settings, "out": f"{folder}/a", "teacher": teacher, "model": {"image": image, "text": text}})
    )
    distill(read({**settings, "out": f"{folder}/b", "teacher": teacher, "model": others}))
    twin = {"kind": "twin", "name": "test_efficientnet", "first_stage": 2, "classes": 10, "image_size": 32,
            "embedding_dim": 16}  # fmt: skip
    model = {"image": twin, "text": text}
    distill(read({**settings, "out": f"{folder}/d", "teacher": teacher, "model": model}))
    inherit = {"image_parts": ["patch"], "freeze": True}
    model = {"image": {**image, "width": 64, "heads": 2}, "text": text}
    config = read({**settings, "out": f"{folder}/c", "inherit": inherit, "model": model})
    distill(config, Teacher([tiny_open_clip()], config.teacher))


def tiny_open_clip() -> OpenClipEncoder:
    import open_clip

    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32}
    text = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    torch.manual_seed(0)
    clip = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)
    tokenizer = open_clip.get_tokenizer("ViT-B-32", context_length=12)
    return OpenClipEncoder(clip, open_clip.image_transform(32, is_train=False), tokenizer, name="tiny")


def run_dclip(folder: Path) -> None:
    """The whole text tower and kept early stages of the image tower, all losses, labelled photos, a test set."""
    image = TimmConfig(name="test_efficientnet", image_size=32, embedding_dim=16)
    made = make.encoder(DualConfig(image=image, text=make.CONFIG.text))
    save_weights(made.model, folder / "base")
    make.tokenizer().save(str(folder / "base" / "tokenizer.json"))
    made.card.save(folder / "base")
    for i, colour in enumerate(make.COLOURS):
        (folder / "classes" / colour).mkdir(parents=True)
        make.drawing(colour, "square", i).save(folder / "classes" / colour / f"{i}.png")
    (folder / "names.txt").write_text("\n".join(make.COLOURS))
    stage = {"epochs": 1, "batch_size": 8}
    student = {
        "train": ["image.body.blocks.2.*", "image.head.*", "text.*"], "prompt_names": f"{folder}/names.txt",
        "anchors": pairs(folder, "more"), "weights": {"anchor": 1.0, "prompts": 1.0, "relation": 1.0},
    }  # fmt: skip
    config = {
        "out": f"{folder}/run", "base": f"{folder}/base", "cpu": True, "train": pairs(folder),
        "dev": pairs(folder, "dev"), "exclude_alike": False, "teacher_stage": stage, "student_stage": stage,
        "tests": [{"name": "test", **pairs(folder, "test")}], "zeroshot": {"photos": f"{folder}/classes"},
        "augment": {"views": 2}, "student": student, "resamples": 20,
        "rewrites": {"sources": ["rules", "eda", "retrieved"], "captions": 1},
    }  # fmt: skip
    dclip(KINDS["dclip"].configuration(config))


def run_captioner(folder: Path) -> None:
    """Both kinds of stage, a reward that sees photos; the finished captioner with each way of decoding."""
    stages = (captioners.cross_entropy(), captioners.self_critical("cider", "lclipscore"))
    model = str(build_tiny_model(folder / "reward"))
    for decode in (DecodeConfig("beam", 2), DecodeConfig("nucleus"), DecodeConfig("greedy")):
        recipe = captioners.recipe(folder, stages, reward_model=model, decode=decode)
        captioner = Captioner(train_captioner(recipe))
        captioner.caption([folder / "data" / "photos" / "000.png"], captioner.card.decode)


def run_lclip(folder: Path) -> None:
    """All stages with YOLOX-Nano of random weights, which takes part in the image tower too."""
    detector = write_yolox(folder / "detector.onnx")
    stage = {"epochs": 1, "batch_size": 8}
    settings = {
        "out": str(folder / "run"), "train": pairs(folder), "dev": pairs(folder), "sentence_models": ["minilm-l3"],
        "ensemble": [0], "space": 24, "dim": 12, "layers": [0], "vocabulary": 200, "rank": 8, "first_stage": 6,
        "augment": {"views": 2}, "text_stage": stage, "image_stage": stage, "relu_stage": stage,
        "detector": str(detector), "detector_layers": ["/backbone/C3_n4/conv3/Mul_output_0"], "detector_inside": 32,
        "near_names": 0.1, "trunk": 0, "processes": 1,
        "short_texts": False,
        "bare": {"photos": pairs(folder, "bare")["photos"]}, "bare_left_out": 2,
    }  # fmt: skip
    Run(RECIPE.configuration(settings)).run()


def run_diffclip(folder: Path) -> None:
    """Windows and pixels, of both families of networks; described first, as ``--dry-run`` does."""
    from tests.training.test_diffclip_recipe import PIXELS, WINDOWS, open_small

    for window, shape in ((False, PIXELS), (True, WINDOWS)):
        changes = (
            *shape,
            "sentences=minilm-l3",
            f"out={folder / str(window)}",
            "model.pool=mean",
            "shots=[1]",
            "draws=1",
        )
        _, how, config = open_small(folder, *changes, 'tune.loss="contrast"', window=window)
        how.describe(config)
        how.run(config, False)


RUNS = {
    "diffclip_houston": (DIFFCLIP.settings, run_diffclip),
    "distill": (DistillConfig, run_distill),
    "dclip": (DclipConfig, run_dclip),
    "captioner": (CaptionRecipe, run_captioner),
    "lclip_everyday": (RECIPE.settings, run_lclip),
}


@pytest.mark.parametrize("kind", RUNS)
def test_every_setting_is_read(kind, tmp_path, monkeypatch):
    settings, run = RUNS[kind]
    use_stand_ins(monkeypatch, tmp_path / "parts")
    monkeypatch.setattr("cliplet.export.export", lambda *_, **__: None)  # writes the model, reads no recipe
    watch = Watch(monkeypatch, settings)
    run(tmp_path)
    assert not watch.unread(), ", ".join(watch.unread())


@dataclasses.dataclass(frozen=True)
class Inner:
    used: int = 1
    dead: int = 2


@dataclasses.dataclass(frozen=True)
class Outer:
    tables: tuple[Inner, ...] = (Inner(),)
    checked: int = 3
    copied: int = 4

    def __post_init__(self) -> None:
        self._refuse("checked")

    def _refuse(self, name: str) -> None:
        assert getattr(self, name) > 0


def test_a_setting_that_is_only_checked_copied_or_written_down_is_unread(monkeypatch):
    watch = Watch(monkeypatch, Outer)
    config = dataclasses.replace(from_dict(Outer, {"tables": [{"used": 5}], "copied": 6}), checked=7)
    assert to_dict(config)["copied"] == 6
    assert config == dataclasses.replace(config)
    assert "dead=2" in repr(config)
    assert config.tables[0].used == 5
    assert watch.unread() == ["Outer.checked", "Outer.copied", "Inner.dead"]
