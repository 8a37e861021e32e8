"""Five epochs of distillation: cliplet against open_clip's own trainer, on the same towers, batch, data and views.

    python -m benchmarks.distill_speed OUT PHOTOS CAPTIONS [--photos 128] [--turns 3]

Needs ``pip install 'open_clip_torch[training]'``, whose ``open_clip_train`` is the other side (``--distill-model``;
without the extra it lacks braceexpand and webdataset). Teacher ViT-B/32, student ViT-S-32, both with random weights
that both sides read from the same files; fp32; batches of 32; each photo with its first caption. The photos are cut to
the towers' 224 pixels beforehand and neither side crops, so both see the same fixed views. Both losses are those of
open_clip's trainer: contrastive, and cross-entropy from the teacher's similarities to the student's. Each side is a
process of its own from its start to its end, with one thread of PyTorch and one worker for data, checkpoints after each
epoch and the model at the end; the sides take turns.

Sides: ``open_clip``; ``cliplet``; ``anew``, which asks the teacher in every epoch instead of keeping its rows; and
``plain``, which multiplies as PyTorch does.

What differs: open_clip learns its logit scale, here it stays at its start; open_clip draws the order from PyTorch, here
from NumPy; betas and epsilon of AdamW are each side's usual ones. Both learn every parameter of both towers.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image

TEACHER, STUDENT, SIDE, BATCH, EPOCHS, LR, DECAY = "ViT-B-32", "ViT-S-32", 224, 32, 5, 1e-4, 0.1
SIDES = ("open_clip", "cliplet", "anew", "plain")

RECIPE = """
kind = "tune"
base = "open_clip:{student}/{out}/student.safetensors"
cpu = true
exclude_alike = false
[train]
captions = ["{out}/captions.jsonl"]
photos = ["{out}/photos"]
[student]
train = ["visual.*", "transformer.*", "token_embedding.*", "positional_embedding", "ln_final.*", "text_projection"]
temperature = 0.07
[student.weights]
image = 0.0
text = 0.0
contrastive = 1.0
[objectives.distill]
weight = 1.0
losses = {{ affinity = 1.0 }}
teacher_scale = {scale}
keep = {keep}
teacher.names = ["open_clip:{teacher}/{out}/teacher.safetensors"]
[student_stage]
epochs = {epochs}
batch_size = {batch}
accumulate = 1
lr = {lr}
weight_decay = {decay}
warmup = 0.0
clip = 0.0
"""

OPEN_CLIP = """
import sys, torch
torch.set_num_threads(1)
from cliplet.models.compat import prepare_torchvision
prepare_torchvision()
from open_clip_train.main import main
main(sys.argv[1:])
"""
CLIPLET = """
import sys, torch
torch.set_num_threads(1)
if sys.argv.pop(1) == "plain":
    from cliplet.models import quick_products
    quick_products.has_quick_fp32 = lambda: False
from cliplet.cli.main import main
sys.argv[0] = "cliplet"
sys.exit(main())
"""


def main() -> None:
    """Make the data, let the sides take turns, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="folder for data and runs")
    parser.add_argument("source", type=Path, help="folder or tar of photos")
    parser.add_argument("captions", type=Path, help="their captions, in any form that cliplet reads")
    parser.add_argument("--photos", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    args = parser.parse_args()
    args.out = args.out.resolve()
    prepare(args.out, args.source, args.captions, args.photos)
    found: dict[str, list[dict[str, float]]] = {side: [] for side in args.sides}
    for turn in range(args.turns):
        for side in args.sides:
            found[side].append(run(args.out, side, args.epochs, turn))
            print(f"turn {turn + 1}, {side}: {found[side][-1]}", flush=True)
    report(found, args.photos // BATCH * BATCH * args.epochs)


def prepare(out: Path, source: Path, captions: Path, count: int) -> None:
    """Photos of the towers' size, a table for each side, and both models' weights."""
    import torch
    from safetensors.torch import save_file

    from cliplet.data.images import load_rgb
    from cliplet.models.compat import prepare_torchvision
    from cliplet.training.config import DataConfig
    from cliplet.training.pairs import read_pairs

    (out / "photos").mkdir(parents=True, exist_ok=True)
    pairs = read_pairs(DataConfig((str(captions),), (str(source),)))
    rows = [(i, own[0]) for i, own in enumerate(pairs.captions_of()) if len(own)][:count]
    table, lines = ["filepath\ttitle"], []
    for number, (photo, caption) in enumerate(rows):
        file = out / "photos" / f"{number:05d}.jpg"
        image = load_rgb(pairs.photos[photo])
        left, top = (image.width - min(image.size)) // 2, (image.height - min(image.size)) // 2
        square = image.crop((left, top, left + min(image.size), top + min(image.size)))
        square.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, quality=92)
        text = " ".join(pairs.captions[caption].replace('"', " ").split())
        table.append(f"{file}\t{text}")
        lines.append(json.dumps({"image": file.name, "caption": text}))
    (out / "train.tsv").write_text("\n".join(table) + "\n", encoding="utf-8")
    (out / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    prepare_torchvision()
    import open_clip

    for seed, (architecture, name) in enumerate(((TEACHER, "teacher"), (STUDENT, "student"))):
        torch.manual_seed(seed)
        state = open_clip.create_model(architecture).state_dict()
        save_file({k: v.contiguous().clone() for k, v in state.items()}, out / f"{name}.safetensors")


def command(out: Path, side: str, epochs: int, name: str) -> list[str]:
    """What a side's process runs."""
    if side == "open_clip":
        options = {
            "train-data": out / "train.tsv", "dataset-type": "csv", "model": STUDENT, "distill-model": TEACHER,
            "pretrained": out / "student.safetensors", "distill-pretrained": out / "teacher.safetensors",
            "batch-size": BATCH, "epochs": epochs, "lr": LR, "wd": DECAY, "warmup": 0, "workers": 1, "device": "cpu",
            "precision": "fp32", "logs": out / "runs", "name": name, "log-every-n-steps": 10,
        }  # fmt: skip
        flags = [text for key, value in options.items() for text in (f"--{key}", str(value))]
        return [sys.executable, "-c", OPEN_CLIP, *flags, "--aug-cfg", "scale=(1.0, 1.0)"]
    recipe = out / f"{side}.toml"
    scale = 1 / 0.07  # of both models at their start
    text = RECIPE.format(
        out=out, teacher=TEACHER, student=STUDENT, epochs=epochs, batch=BATCH, lr=LR, decay=DECAY, scale=scale,
        keep="false" if side == "anew" else "true",
    )  # fmt: skip
    recipe.write_text(text, encoding="utf-8")
    return [sys.executable, "-c", CLIPLET, side, "distill", str(recipe), f"out={out / 'runs' / name}"]


def run(out: Path, side: str, epochs: int, turn: int) -> dict[str, float]:
    """One side's whole process: wall and processor seconds, its workers' included, and its own peak memory in MB."""
    name = f"{side}-{os.getpid()}-{turn}"
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    log = (out / f"{name}.log").open("w", encoding="utf-8")
    with subprocess.Popen(command(out, side, epochs, name), stdout=log, stderr=subprocess.STDOUT) as process:
        peak = watch(process)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise SystemExit(f"{side} ended with {process.returncode}; see {log.name}")
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": time.perf_counter() - began, "processor": processor, "memory": peak}


def watch(process: "subprocess.Popen[Any]") -> float:
    """The most memory in MB that a process and its workers held together, what they share counted once."""
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, sum(map(held, family(process.pid))))
        time.sleep(0.2)
    return peak


def family(pid: int) -> list[int]:
    """A process and those below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [one for child in task.read_text().split() for one in family(int(child))]
        except OSError:
            continue
    return found


def held(pid: int) -> float:
    """Proportional set size without what is only mapped from files, in MB."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
    return (sizes.get("Pss_Anon", 0) + sizes.get("Pss_Shmem", 0)) / 1024


def report(found: dict[str, list[dict[str, float]]], samples: int) -> None:
    """Medians, and ratios to open_clip."""
    middle = {
        side: {key: statistics.median(one[key] for one in runs) for key in runs[0]}
        for side, runs in found.items()
    }
    other = middle.get("open_clip")
    print(f"{samples} samples a run; medians of {len(next(iter(found.values())))} turns")
    for side, one in middle.items():
        rates = {key: samples / one[key] for key in ("wall", "processor")}
        text = f"{side:10} {rates['wall']:7.2f} samples/s of wall time, {rates['processor']:7.2f} of processor time, "
        text += f"{one['memory']:6.0f} MB at most"
        if other is not None and side != "open_clip":
            ratios = [other[key] / one[key] for key in ("wall", "processor")]
            text += f"; {ratios[0]:.2f} and {ratios[1]:.2f} times open_clip's, "
            text += f"{one['memory'] / other['memory']:.2f} of its memory"
        print(text)


if __name__ == "__main__":
    main()
