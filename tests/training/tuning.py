"""A small tuning recipe with every objective turned on, each as a variant."""

import json
from pathlib import Path

from cliplet.training.dclip.config import DclipConfig, load_dclip
from tests.training import make

WAYS = {
    "plain": "student.weights.contrastive=1.0",
    "sr": "objectives.sr=1.0",
    "negclip": 'objectives.negclip={words = "all", fluent = false}',
    "triplet": 'objectives.triplet={words = "all", fluent = false}',
    "sclip": "objectives.sclip=1.0",
    "pseudo": "objectives.pseudo=1.0",
    "nclip": "objectives.nclip={clusters = 8, width = 16, keep = 0.5}",
    "un2clip": "objectives.un2clip={size = 16, photos = 4, width = 32, blocks = 1, channels = 8, epochs = 1, "
    "batch_size = 8}",
    "sigmoid": "objectives.sigmoid=1.0",
    "multi_text": "objectives.multi_text={texts = 2}",
    "regions": "objectives.regions={least = 4, hard = 2}",
    "long_texts": "objectives.long_texts={least = 4}",
    "distill": 'objectives.distill.teacher.names=["DATA/base"]',
}
"""A line of a recipe for each objective, by its name, and one without any."""
BOXES = {"square": [8, 8, 24, 24], "bar": [0, 12, 32, 20], "corner": [0, 0, 12, 12], "frame": [0, 0, 32, 32]}


def write_data(folder: Path, photos: int = 40) -> Path:
    """Drawings with two captions each, a box on each, and a base model of our own."""
    make.dataset(folder, photos)
    boxes = [
        {"image": f"{i:03}.png", "box": BOXES[shape], "label": shape, "score": 0.9}
        for i, shape in ((i, make.SHAPES[i // 4 % 4]) for i in range(photos))
    ]
    (folder / "boxes.jsonl").write_text("\n".join(map(json.dumps, boxes)))
    make.model_folder(folder / "base")
    return folder


def write_recipe(data: Path, out: Path, ways: tuple[str, ...] = tuple(WAYS)) -> Path:
    """The recipe file, beside the run's folder."""
    lines = {way: WAYS[way].replace("DATA", str(data)) for way in ways}
    variants = "".join(f"[[variants]]\nname = {way!r}\nset = [{line!r}]\n" for way, line in lines.items())
    file = out.with_suffix(".toml")
    file.write_text(f"""
kind = "tune"
out = "{out}"
base = "{data}/base"
cpu = true
resamples = 20
exclude_alike = false
held_out = 8
captioned = 16
save_every = 2
{variants}
[train]
captions = ["{data}/captions.jsonl"]
photos = ["{data}/photos"]
[regions]
proposer = "{data}/boxes.jsonl"
[augment]
views = 2
[student]
train = ["image.*", "text.head.*"]
[student.weights]
image = 0.0
text = 0.0
[student_stage]
epochs = 2
batch_size = 4
accumulate = 1
lr = 1e-3
""")
    return file


def recipe(data: Path, out: Path, way: str, *changes: str) -> DclipConfig:
    """The recipe with one objective."""
    return load_dclip(write_recipe(data, out, (way,)), changes)
