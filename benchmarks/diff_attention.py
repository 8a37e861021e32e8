"""Differential attention against its controls: small towers from random weights on Flickr8k, R@1 on dev.

Command: python -m benchmarks.diff_attention --data FOLDER --out FOLDER [--arms ...] [--seeds 0 1 2] [--steps 460]
Needs: FOLDER with Flickr8k.token.txt, images_train.tar and images_dev.tar (docs/data.md).

Arms of equal size but for lambda's few vectors: (a) standard attention, 4 heads; (b) standard, 2 heads; (c) like b,
each head's output through an RMSNorm times 0.2; (d) differential attention with 4 heads as coded, and as written; both
also with lambda0 by depth. d-coded shows something about the difference only where it is above c, d-written where it is
above a. Both towers are transformers of width 128, the photos small squares, the loss contrastive; all arms see the
same batches. An arm that is done is read, one that was interrupted goes on.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cliplet.data.images import open_image, to_rgb
from cliplet.encoders.card import ImageSpec, ModelCard, TextSpec
from cliplet.files import whole, write_atomically
from cliplet.models.config import from_dict
from cliplet.models.multiplexed import Difference
from cliplet.training.config import DataConfig, DistillConfig, TeacherConfig
from cliplet.training.distill.run import distill
from cliplet.training.distill.teacher import Teacher
from cliplet.training.pairs import read_pairs

DIFFERENTIAL = {"heads": 4, "attention": "differential"}
ARMS: dict[str, dict[str, Any]] = {
    "a": {"heads": 4},
    "b": {"heads": 2},
    "c": {"heads": 2, "head_norm": True},
    "d-coded": {**DIFFERENTIAL, "differential": "coded"},
    "d-written": {**DIFFERENTIAL, "differential": "written"},
    "d-coded-depth": {**DIFFERENTIAL, "differential": "coded", "lambda_start": "depth"},
    "d-written-depth": {**DIFFERENTIAL, "differential": "written", "lambda_start": "depth"},
}
USUAL = ("a", "b", "c", "d-coded", "d-written")
SIDE, PATCH, BATCH = 96, 16, 64
TOWER = {"width": 128, "repeats": 1, "mixers": False, "qkv_bias": True, "embedding_dim": 128}
DIRECTIONS = ("text-to-image R@1", "image-to-text R@1")


class NoTeacher:
    """A recipe of distillation has a teacher; the contrastive loss does not ask it."""

    card = ModelCard("none", 2, ImageSpec(SIDE, "squash"), TextSpec(77, ""), fingerprint_of=lambda: "none")

    def encode_images(self, images: Any) -> np.ndarray:
        """The same for every photo ``[n, 2]``."""
        return np.tile(np.float32([[1, 0]]), (len(images), 1))

    encode_texts = encode_images


def small_photos(data: Path, out: Path, name: str) -> Path:
    """A folder of a split's photos as squares, made once."""
    folder = out / f"{name}-{SIDE}"
    if not folder.exists():
        pairs = read_pairs(
            DataConfig(
                captions=(str(data / "Flickr8k.token.txt"),), photos=(str(data / f"images_{name}.tar"),)
            )
        )
        with whole(folder) as part:
            part.mkdir(parents=True)
            for photo, file in zip(pairs.photos, pairs.names, strict=True):
                image = to_rgb(open_image(photo))
                edge = min(image.size)
                left, top = (image.width - edge) // 2, (image.height - edge) // 2
                square = image.resize(
                    (SIDE, SIDE), Image.Resampling.BICUBIC, (left, top, left + edge, top + edge)
                )
                square.save(part / Path(file).name, quality=95)
    return folder


def recipe(arm: str, seed: int, data: Path, out: Path, steps: int) -> DistillConfig:
    """The run of an arm: whole epochs, at least one, of about ``steps`` batches in all."""
    captions = [str(data / "Flickr8k.token.txt")]
    train, dev = (small_photos(data, out, name) for name in ("train", "dev"))
    epochs = max(1, round(steps / max(1, len(list(train.iterdir())) // BATCH)))
    image = {**TOWER, **ARMS[arm], "blocks": 6, "image_size": SIDE, "patch_size": PATCH}
    text = {
        **TOWER, **ARMS[arm], "blocks": 4, "vocab_size": 0, "context_length": 32, "embedding_rank": 0,
        "mask": "causal", "pooling": "eot",
    }  # fmt: skip
    stage = {
        "epochs": epochs, "batch_size": BATCH, "lr": 1e-3, "weight_decay": 0.1, "warmup": 0.1,
        "losses": {"contrastive": 1.0},
    }  # fmt: skip
    settings = {
        "name": arm, "out": str(out / f"{arm}-seed{seed}-{epochs}epochs"), "seed": seed,
        "cpu": not torch.cuda.is_available(),
        "model": {"image": image, "text": text}, "tokenizer": "train", "tokenizer_size": 4000, "resize": "squash",
        "train": {"captions": captions, "photos": [str(train)]}, "dev": {"captions": captions, "photos": [str(dev)]},
        "stages": [stage], "export": "none", "evaluate_every": epochs, "log_every": 20, "save_every": 50,
        "teacher": {"names": ["none"], "cache": str(out / "teacher")},
    }  # fmt: skip
    return from_dict(DistillConfig, settings)


def run(arm: str, seed: int, data: Path, out: Path, steps: int) -> dict[str, Any]:
    """One arm's R@1 on dev, its parameters and seconds; kept in ``result.json`` of its folder."""
    config = recipe(arm, seed, data, out, steps)
    file = Path(config.out) / "result.json"
    if file.exists():
        return json.loads(file.read_text())  # type: ignore[no-any-return]
    start = time.perf_counter()
    folder = distill(config, Teacher([NoTeacher()], TeacherConfig(names=("none",))))
    from cliplet.encoders.torch import TorchEncoder

    model = TorchEncoder.from_folder(folder).model
    lines = map(json.loads, (Path(config.out) / "log.jsonl").read_text().splitlines())
    last = [line for line in lines if line["kind"] == "dev"][-1]
    lambdas = [float(m().detach()) for m in model.modules() if isinstance(m, Difference)]
    found = {
        "arm": arm, "seed": seed, "epochs": config.stages[0].epochs, **{k: last[k] for k in DIRECTIONS},
        "parameters": sum(p.numel() for p in model.parameters()), "lambdas": [round(x, 3) for x in lambdas],
        "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip
    write_atomically(file, json.dumps(found) + "\n")
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Mean over seeds of each arm, with the seeds' standard deviation."""
    heads = "arm", "parameters", "dev T2I R@1 %", "dev I2T R@1 %", "lambda after", "seconds (last call)"
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        cells = []
        for direction in DIRECTIONS:
            values = 100 * np.array([row[direction] for row in own])
            spread = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.2f}{spread}")
        lambdas = [x for row in own for x in row["lambdas"]]
        seen = f"{min(lambdas):.2f} to {max(lambdas):.2f}" if lambdas else ""
        seconds = np.mean([row["seconds"] for row in own])
        lines.append(
            f"| {arm} | {own[0]['parameters']:,} | {cells[0]} | {cells[1]} | {seen} | {seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Every arm with every seed, and the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of Flickr8k")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=USUAL)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--steps", type=int, default=460, help="batches of 64 in all, rounded to whole epochs"
    )
    asked = parser.parse_args()
    if asked.steps < 1 or not math.isfinite(asked.steps):
        parser.error("--steps must be at least 1")
    rows = [run(arm, seed, asked.data, asked.out, asked.steps) for seed in asked.seeds for arm in asked.arms]
    print(table(rows), end="")


if __name__ == "__main__":
    main()
