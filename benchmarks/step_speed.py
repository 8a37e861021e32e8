"""Seconds of a training step in the second epoch: two builds of cliplet, in turns, on the same recipes.

    git worktree add --detach ../before a461d2b
    python -m benchmarks.step_speed OUT PHOTOS CAPTIONS BASE --trees ../before . [--turns 3] [--recipes dclip distill]

Recipes: ``dclip`` tunes the last stage of BASE (a model folder whose image tower is an EfficientNet-Lite0, such as the
one that recipes/dclip_flickr8k makes) on kept maps, two views a photo, batches of 128. ``distill`` teaches both towers
of an L-CLIP of half the published width from pixels and captions, batches of 64, taught by the packaged model.
Each run is a process of its own with one thread; the time of a step is from the beginning of a step of the second epoch
to that of the next, data included. Wall and processor time, medians over the turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

DCLIP = """
kind = "dclip"
base = "{base}"
cpu = true
seeds = [0]
evaluate_every = 10
{one}
[train]
captions = ["{captions}"]
photos = ["{photos}"]
names = "{names}"
[augment]
views = 2
colour = 0.25
[student]
train = ["image.body.blocks.6.*.conv_*", "image.body.blocks.6.*.bn*.bias", "image.body.conv_head.*",
    "image.body.bn2.bias", "image.head.*", "text.head.*"]
dropout = 0.5
[student.weights]
image = 0.0
text = 0.0
contrastive = 1.0
[student_stage]
epochs = 2
batch_size = 128
accumulate = 1
lr = 4e-4
weight_decay = 0.02
warmup = 0.1
clip = 1.0
"""
DISTILL = """
{kind}
cpu = true
tokenizer = "train"
tokenizer_size = 2000
export = "none"
[model.image]
kind = "multiplexed"
width = 384
heads = 12
blocks = 3
repeats = 2
patch_size = 32
embedding_dim = 256
[model.text]
kind = "multiplexed"
width = 256
heads = 8
blocks = 2
repeats = 2
embedding_rank = 64
vocab_size = 0
mask = "padding"
embedding_dim = 256
[teacher]
names = ["packaged"]
cache = "{out}/rows"
[train]
captions = ["{captions}"]
photos = ["{photos}"]
names = "{names}"
[augment]
views = 2
colour = 0.25
[[stages]]
name = "both"
towers = ["image", "text"]
epochs = 2
batch_size = 64
lr = 1e-3
warmup = 0.1
losses = {{ l1 = 0.5, cosine = 0.5, sr = 0.33333 }}
"""
RECIPES = {"dclip": (DCLIP, 1000), "distill": (DISTILL, 384)}
"""Text, and how many photos."""
DRIVER = """
import json, sys, time
import torch
torch.set_num_threads(1)
from cliplet.training import loop
from cliplet.cli.main import main
stamps, at = [], loop._Plan.at
def stamped(self, epoch, batch):
    if epoch == 1:
        stamps.append((time.perf_counter(), time.process_time()))
    return at(self, epoch, batch)
loop._Plan.at = stamped
out, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = "cliplet"
try:
    code = main()
except SystemExit as stop:
    code = stop.code
steps = len(stamps) - 1
values = [(stamps[-1][i] - stamps[0][i]) / steps for i in (0, 1)]
json.dump({"wall": values[0], "processor": values[1], "steps": steps}, open(out, "w"))
sys.exit(code)
"""


def main() -> None:
    """Let the trees take turns, print each time and the ratios of the medians."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("out", "photos", "captions", "base"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--names", type=Path, help="file with the photos' names, one a line; else all")
    parser.add_argument(
        "--trees", type=Path, nargs=2, required=True, help="the earlier build and the later one"
    )
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    args = parser.parse_args()
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    for recipe in args.recipes:
        found: list[list[dict[str, float]]] = [[], []]
        for turn in range(args.turns):
            for place, tree in enumerate(args.trees):
                found[place].append(run(args, recipe, tree.resolve(), place, turn))
                print(f"{recipe}, turn {turn + 1}, {tree}: {found[place][-1]}", flush=True)
        for key in ("wall", "processor"):
            before, after = (statistics.median(one[key] for one in runs) for runs in found)
            print(
                f"{recipe}, {key}: {before:.3f} -> {after:.3f} s a step, {before / after:.2f} times",
                flush=True,
            )


def run(args: argparse.Namespace, recipe: str, tree: Path, place: int, turn: int) -> dict[str, float]:
    """One training in a process of its own."""
    text, count = RECIPES[recipe]
    out = args.out / f"tree{place}"  # what is computed once is kept for each tree
    out.mkdir(exist_ok=True)
    names = args.out / f"names-{count}.txt"
    names.write_text("\n".join(wanted(args, count)) + "\n", encoding="utf-8")
    earlier = not (tree / "src/cliplet/training/recipes.py").exists()
    values = {key: str(Path(getattr(args, key)).resolve()) for key in ("photos", "captions", "base")}
    values |= {"names": str(names), "out": str(out), "one": 'controls = ["dclip"]' if earlier else ""}
    file = out / f"{recipe}.toml"
    file.write_text(text.format(**values, kind="" if earlier else 'kind = "distill"'), encoding="utf-8")
    result, name = out / f"{recipe}-{turn}.json", f"out={out}/{recipe}-{os.getpid()}-{turn}"
    changes = [name, f"features={out}/features"] if recipe == "dclip" else [name]
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree / "src"),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    with (out / f"{recipe}-{turn}.log").open("w", encoding="utf-8") as log:
        command = [sys.executable, "-c", DRIVER, str(result), "distill", str(file), *changes]
        ended = subprocess.run(
            command, cwd=tree, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False
        )
    if ended.returncode:
        raise SystemExit(f"{tree} ended with {ended.returncode}; see {log.name}")
    values_found: dict[str, float] = json.loads(result.read_text())
    return values_found


def wanted(args: argparse.Namespace, count: int) -> list[str]:
    """Names of the first photos."""
    from cliplet.training.config import DataConfig
    from cliplet.training.pairs import read_pairs

    if args.names:
        return args.names.read_text().split("\n")[:count]  # type: ignore[no-any-return]
    return read_pairs(DataConfig((str(args.captions),), (str(args.photos),))).names[:count]


if __name__ == "__main__":
    main()
