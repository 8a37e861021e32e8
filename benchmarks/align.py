"""Aligned dual encoders on Flickr8k: each method and size against heads trained by contrast on the same pairs.

Photos and captions are encoded once and kept in --cache. Settings are chosen inside the train split; dev reports.
The comparator are two heads (linear, or a hidden layer) on the same frozen features, trained with InfoNCE; its shape,
rate and number of epochs are chosen on a fifth of the given pairs, then it is trained on all of them.

    python -m benchmarks.align --data flickr8k --images lite0         # one pair of encoders; minutes
    python -m benchmarks.align --data flickr8k --packaged             # does a map help the packaged model?
    python -m benchmarks.align --data flickr8k --gap                  # a space with a modality gap
    python -m benchmarks.align --tables                               # what is there, as Markdown
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.captioner_judge import flickr8k

import cliplet
from cliplet.encoders.base import Embeddings, unit_norm
from cliplet.encoders.fits import Fit, Pairs, fit_alignment, held_out, recall_at_1
from cliplet.files import write_atomically
from cliplet.training.pairs import PairSet

METHODS = ("procrustes", "robust", "ridge", "cca")
SIZES = (500, 1500, 0)
EPOCHS = 40
GRID = [(hidden, rate) for hidden in (0, 512) for rate in (1e-3, 3e-3)]
"""Width of the hidden layer (0: none) and learning rate of the comparator."""


@dataclass
class Split:
    """Encoded photos and captions, captions in the order of photos."""

    pairs: Pairs
    names: list[str]
    captions: list[list[str]]


def kept(file: Path, compute: Callable[[], Any]) -> np.ndarray:
    """Rows computed once."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file.with_suffix(".part.npy"), compute())
        file.with_suffix(".part.npy").rename(file)
    return np.load(file)


def encoded(data: Path, cache: Path, split: str, images: str, texts: str) -> Split:
    """A split's embeddings by two encoders (``packaged`` for both: the packaged model)."""
    found: PairSet = flickr8k(data, split)
    groups = found.captions_of()
    captions = [found.captions[i] for group in groups for i in group]
    owner = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    if images == "packaged":
        x = kept(cache / f"packaged-images-{split}.npy", lambda: cliplet.load().encode_images(found.photos))
        y = kept(cache / f"packaged-texts-{split}.npy", lambda: cliplet.load().encode_texts(captions))
    else:
        x = kept(
            cache / f"{images}-{split}.npy",
            lambda: cliplet.load(f"timm:{images}").encode_images(found.photos),
        )
        y = kept(cache / f"{texts}-{split}.npy", lambda: sentences(texts, captions))
    split_captions = [[found.captions[i] for i in group] for group in groups]
    return Split(Pairs(unit_norm(x), unit_norm(y), owner), list(found.names), split_captions)


def sentences(name: Any, captions: list[str]) -> Embeddings:
    from cliplet.models.pretrained import sentence_embeddings, sentence_model

    return sentence_embeddings(sentence_model(name), captions)


def some(train: Pairs, size: int) -> Pairs:
    """The first ``size`` photos of a fixed order; all for 0."""
    order = np.random.default_rng(0).permutation(len(train.images))
    return train.of(np.sort(order[: size or len(order)]))


def both_ways(fitted: tuple[Embeddings, Embeddings], dev: Pairs) -> dict[str, float]:
    """R@1 of text to image and image to text."""
    x, y = fitted
    best = (x @ y.T).argmax(axis=1)
    return {
        "text_to_image": 100 * recall_at_1(x, y, dev.owner),
        "image_to_text": 100 * float(np.mean(dev.owner[best] == np.arange(len(x)))),
    }


def heads(
    train: Pairs, hidden: int, rate: float, epochs: int, check: Pairs | None, seed: int = 0
) -> tuple[Any, list]:
    """Two heads trained with InfoNCE, and text-to-image R@1 on ``check`` after every second epoch."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)

    def head(width: int) -> nn.Module:
        if not hidden:
            return nn.Linear(width, 256)
        return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.2), nn.Linear(hidden, 256))

    mean_x, mean_y = train.images.mean(axis=0), train.texts.mean(axis=0)
    spread = train.images.std(axis=0) + 1e-4

    def rows_of(pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.from_numpy(((pairs.images - mean_x) / spread).astype(np.float32))
        return x, torch.from_numpy(unit_norm(pairs.texts - mean_y) * np.float32(20))

    first, second = head(train.images.shape[1]), head(train.texts.shape[1])
    scale = nn.Parameter(torch.tensor(np.log(20.0)))
    parameters = [*first.parameters(), *second.parameters()]
    optimiser = torch.optim.AdamW(
        [{"params": parameters, "weight_decay": 0.1}, {"params": [scale], "weight_decay": 0.0}], lr=rate
    )
    x, y = rows_of(train)
    captions = [np.flatnonzero(train.owner == i) for i in range(len(train.images))]
    batch, curve = min(512, len(x) // 4), []  # several updates an epoch with few photos
    steps = max(1, len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=EPOCHS * steps, pct_start=0.1)

    def embed(pairs: Pairs) -> tuple[Embeddings, Embeddings]:
        first.eval(), second.eval()
        with torch.inference_mode():
            a, b = rows_of(pairs)
            found = unit_norm(first(a).numpy()), unit_norm(second(b).numpy())
        first.train(), second.train()
        return found

    for epoch in range(epochs):
        order = rng.permutation(len(x))
        for step in range(steps):
            rows = order[step * batch : (step + 1) * batch]
            chosen = [rng.choice(captions[i]) for i in rows]
            a = F.normalize(first(x[rows]), dim=-1)
            b = F.normalize(second(y[chosen]), dim=-1)
            scores = scale.exp().clamp(max=100) * a @ b.T
            target = torch.arange(len(rows))
            loss = (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        if check is not None and epoch % 2:
            curve.append((recall_at_1(*embed(check), check.owner), epoch + 1))
    return embed, curve


def contrast(train: Pairs) -> tuple[Any, dict[str, Any]]:
    """The comparator: chosen on a fifth of the pairs, trained on all."""
    inner, outer = held_out(len(train.images))
    rest, best = train.of(outer), (-1.0, 0, 0, 0.0)
    for hidden, rate in GRID:
        _, curve = heads(train.of(inner), hidden, rate, EPOCHS, rest)
        found, epochs = max(curve)
        best = max(best, (found, epochs, hidden, rate))
    _, epochs, hidden, rate = best
    started = time.process_time()
    embed, _ = heads(train, hidden, rate, epochs, None)
    alone = time.process_time() - started
    return embed, {"hidden": hidden, "rate": rate, "epochs": epochs, "one_training_s": alone}


def measure(
    train: Pairs,
    dev: Pairs,
    same: bool,
    methods: tuple[str, ...],
    heads_too: bool,
    sizes: tuple[int, ...] = SIZES,
) -> list[dict[str, Any]]:
    """Rows of the table, each with its CPU seconds after encoding (of one thread, with the choice of settings)."""
    rows = []
    for size in sizes:
        pairs = some(train, size)
        for method in methods:
            started = time.process_time()
            fit: Fit = fit_alignment(method, pairs, same)
            seconds = time.process_time() - started
            rows.append({"photos": len(pairs.images), "what": method, "seconds": seconds, "chosen": fit.settings,
                         **both_ways(fit.embed(dev.images, dev.texts), dev)})  # fmt: skip
            print(rows[-1], flush=True)
        if heads_too:
            started = time.process_time()
            embed, chosen = contrast(pairs)
            seconds = time.process_time() - started
            rows.append({"photos": len(pairs.images), "what": "heads trained by contrast", "seconds": seconds,
                         "chosen": chosen, **both_ways(embed(dev), dev)})  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def gap_case(train: Pairs, dev: Pairs) -> tuple[Pairs, Pairs]:
    """A dual encoder with a modality gap: one epoch of contrast on 1,500 pairs at a high temperature, from heads whose
    random starts lie in two narrow cones, as Liang et al. 2022 (arXiv 2203.02053) describe it."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.manual_seed(0)
    first, second = nn.Linear(train.images.shape[1], 128), nn.Linear(train.texts.shape[1], 128)
    with torch.no_grad():
        for head in (first, second):
            head.bias.normal_(std=0.15)
    rows = some(train, 1500)
    x, y, target = torch.from_numpy(rows.images), torch.from_numpy(rows.texts), np.arange(len(rows.images))
    captions = [np.flatnonzero(rows.owner == i) for i in target]
    optimiser = torch.optim.Adam([*first.parameters(), *second.parameters()], lr=1e-3)
    rng = np.random.default_rng(0)
    for _ in range(60):
        chosen = [rng.choice(own) for own in captions]
        scores = 30 * F.normalize(first(x), dim=-1) @ F.normalize(second(y[chosen]), dim=-1).T
        loss = (
            F.cross_entropy(scores, torch.arange(len(x))) + F.cross_entropy(scores.T, torch.arange(len(x)))
        ) / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def through(pairs: Pairs) -> Pairs:
        with torch.inference_mode():
            a, b = first(torch.from_numpy(pairs.images)), second(torch.from_numpy(pairs.texts))
        return Pairs(unit_norm(a.numpy()), unit_norm(b.numpy()), pairs.owner)

    return through(train), through(dev)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data/flickr8k"))
    parser.add_argument("--cache", type=Path, default=Path("runs/align/features"))
    parser.add_argument("--out", type=Path, default=Path("runs/align"))
    parser.add_argument("--images", default="lite0")
    parser.add_argument("--texts", default="minilm-l6")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="photos to fit on; 0 for all")
    parser.add_argument(
        "--setting", type=float, nargs=2, metavar=("HIDDEN", "RATE"), help="the heads' only one"
    )
    parser.add_argument("--only", choices=["maps", "heads"], help="leave out the other")
    parser.add_argument("--packaged", action="store_true")
    parser.add_argument("--gap", action="store_true")
    parser.add_argument("--tables", action="store_true")
    arguments = parser.parse_args()
    if not arguments.tables:
        import torch

        torch.set_num_threads(1)
        if arguments.setting:
            GRID[:] = [(int(arguments.setting[0]), arguments.setting[1])]
        images = "packaged" if arguments.packaged else arguments.images
        train, dev = (
            encoded(arguments.data, arguments.cache, s, images, arguments.texts).pairs
            for s in ("train", "dev")
        )
        name, methods, heads_too = f"{images}+{arguments.texts}", METHODS, True
        if arguments.packaged:
            name, methods, heads_too = "packaged model", (*METHODS, "normalise"), False
        if arguments.gap:
            name, methods, heads_too = "a space with a gap", (*METHODS, "normalise"), False
            train, dev = gap_case(train, dev)
        same = arguments.packaged or arguments.gap
        rows = []
        if same:
            gap = float(np.linalg.norm(dev.images.mean(axis=0) - dev.texts.mean(axis=0)))
            rows = [{"photos": 0, "what": "no map", "seconds": 0.0, "chosen": {"gap": round(gap, 3)},
                     **both_ways((dev.images, dev.texts), dev)}]  # fmt: skip
            print(rows[0])
        if arguments.only:
            methods, heads_too = (methods, False) if arguments.only == "maps" else ((), True)
        rows += measure(train, dev, same, methods, heads_too, tuple(arguments.sizes))
        arguments.out.mkdir(parents=True, exist_ok=True)
        file = arguments.out / f"{name}.json".replace(" ", "-")
        before = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
        merged = {(row["photos"], row["what"]): row for row in [*before, *rows]}
        content = {"name": name, "rows": sorted(merged.values(), key=lambda row: row["photos"])}
        write_atomically(file, json.dumps(content))
    for file in sorted(arguments.out.glob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        print(f"\n{content['name']}, dev (1,000 photos, 5,000 captions)\n")
        print(
            "| photos | method | text to image R@1 | image to text R@1 | CPU seconds |\n|---|---|---|---|---|"
        )
        for row in content["rows"]:
            print(f"| {row['photos']:,} | {row['what']} | {row['text_to_image']:.1f} | {row['image_to_text']:.1f} | "
                  f"{row['seconds']:.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()
