"""Captions by retrieval on Flickr8k's dev photos: nearest, consensus, and the self-improving loop with its controls.

The store holds the captions of the train split. The number of neighbours is chosen on 500 train photos whose captions
are taken out of the store. The loop's bare photos are half of the train photos, whose captions it does not see.
CIDEr-D has the document frequencies of the captions under test, as benchmarks/captioner_rewards.py.

    python -m benchmarks.recap --data flickr8k --images lite2 --choose  # the number of neighbours, on train photos
    python -m benchmarks.recap --data flickr8k --images lite2           # one pair of encoders, aligned by cca
    python -m benchmarks.recap --data flickr8k --packaged               # the packaged model, without a map
    python -m benchmarks.recap --data flickr8k --images lite2 --loop    # the loop and its controls, from half of train
    python -m benchmarks.recap --data flickr8k --captioner runs/caption_recap/model     # a trained captioner's folder
    python -m benchmarks.recap --tables
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.align import Split, encoded, flickr8k

import cliplet
from cliplet.captioner import Captioner
from cliplet.captioner.augment import CONTROLS, LoopConfig, augment
from cliplet.captioner.recap import Recap
from cliplet.captioner.store import CaptionStore
from cliplet.encoders.base import BaseEncoder, Embeddings
from cliplet.encoders.card import ModelCard
from cliplet.encoders.fits import Fit, Pairs, fit_alignment, recall_at_1
from cliplet.files import write_atomically
from cliplet.metrics.registry import find_metrics, reference_scores
from cliplet.statistics.alignment import AffineMap

NEIGHBOURS = (5, 10, 20, 40)
HELD_OUT = 500


class Rows(BaseEncoder):
    """Stands for an encoder whose embeddings are known."""

    def __init__(self, width: int) -> None:
        self.card = ModelCard("rows", width)


def flat(groups: list[list[str]]) -> list[str]:
    return [caption for group in groups for caption in group]


def written(store: CaptionStore, photos: Embeddings, fusion: str, k: int) -> list[str]:
    recap = Recap(Rows(photos.shape[1]), store, fusion, k)
    return [one.captions[0] for one in recap.of_embeddings(photos)]


def measured(
    captions: list[str], references: list[list[str]], packaged: Embeddings | None
) -> dict[str, float]:
    """Metrics of one caption a photo; with the packaged model's photos L-CLIPScore and R@1 too."""
    found = reference_scores(captions, references, None, find_metrics(["bleu", "rouge", "cider", "meteor"]))
    values = {name: found.statistics[name].corpus() for name in ("BLEU-4", "METEOR", "CIDEr-D", "ROUGE-L")}
    words = [caption.lower().split() for caption in captions]
    values["words"] = float(np.mean([len(w) for w in words]))
    values["different captions"] = len(set(captions))
    if packaged is not None:
        encoder = cliplet.load()
        texts = encoder.encode_texts([encoder.card.text.prompt_prefix + c for c in captions])
        cosine = np.einsum("nd,nd->n", packaged, texts)
        values["L-CLIPScore"] = float((encoder.card.score.w * np.maximum(cosine, 0)).mean())
        values["R@1"] = recall_at_1(packaged, texts, np.arange(len(captions)))
    return values


def store_of(fit: Fit, pairs: Pairs, captions: list[str]) -> CaptionStore:
    return CaptionStore(captions, fit.embed(pairs.images[:1], pairs.texts)[1], pairs.owner, "", "")


def chosen_neighbours(train: Split) -> int:
    """The number of neighbours with the highest CIDEr-D on photos whose captions are not in the store."""
    order = np.random.default_rng(2).permutation(len(train.pairs.images))
    out, rest = np.sort(order[:HELD_OUT]), np.sort(order[HELD_OUT:])
    fit = fit_alignment("cca", train.pairs.of(rest), False)
    store = store_of(fit, train.pairs.of(rest), flat([train.captions[i] for i in rest]))
    photos = fit.embed(train.pairs.images[out], train.pairs.texts[:1])[0]
    references = [train.captions[i] for i in out]
    found = {}
    for k in NEIGHBOURS:
        captions = written(store, photos, "consensus", k)
        scores = reference_scores(captions, references, None, find_metrics(["cider"]))
        found[k] = scores.statistics["CIDEr-D"].corpus()
    print("CIDEr-D on held-out train photos by neighbours:", found, flush=True)
    return max(found, key=found.__getitem__)


def retrieval(
    train: Split, dev: Split, fit: Fit, packaged: Embeddings, name: str, k: int
) -> list[dict[str, Any]]:
    """The nearest caption and the consensus."""
    store = store_of(fit, train.pairs, flat(train.captions))
    photos = fit.embed(dev.pairs.images, train.pairs.texts[:1])[0]
    rows = []
    for fusion, n in (("nearest", 1), ("consensus", k)):
        captions = written(store, photos, fusion, n)
        what = f"{name}, {fusion}{f' of {n}' if n > 1 else ''}"
        rows.append({"what": what, **measured(captions, dev.captions, packaged)})
        print(rows[-1], flush=True)
    return rows


def decoded(folder: Path, data: Path, dev: Split, packaged: Embeddings) -> list[dict[str, Any]]:
    """The captions of a trained captioner."""
    found = Captioner(folder).caption(list(flickr8k(data, "dev").photos))
    captions = [one.captions[0] for one in found]
    rows = [{"what": str(folder), **measured(captions, dev.captions, packaged)}]
    print(rows[0], flush=True)
    return rows


def loop(
    train: Split,
    dev: Split,
    packaged: Embeddings,
    name: str,
    k: int,
    controls: list[str],
    rounds: int,
    most: int,
) -> list[dict[str, Any]]:
    """From half of the pairs: the loop and its controls on the other half's photos; and all pairs as the ceiling."""
    order = np.random.default_rng(3).permutation(len(train.pairs.images))
    half, bare = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    bare = bare[:most]
    pairs, captions = train.pairs.of(half), flat([train.captions[i] for i in half])
    known = dict(zip(flat(train.captions), train.pairs.texts, strict=True))

    def embed(found: Any) -> Embeddings:  # every caption that the loop takes is one of train's
        return np.stack([known[text] for text in found])

    rows = []
    for control in controls:
        steps = augment(pairs, captions, train.pairs.images[bare], embed,
                        LoopConfig(rounds=rounds, neighbours=k, control=control))  # fmt: skip
        for i, step in enumerate(steps):
            if not i and control:
                continue
            photos = step.fit.embed(dev.pairs.images, dev.pairs.texts)
            said = written(step.store, photos[0], "consensus", k)
            what = (
                f"{name}, half of train"
                + (f", loop round {i}" if i else "")
                + (f", {control}" if control else "")
            )
            rows.append({"what": what, "joined": step.joined, "threshold": step.threshold,
                         "text to image R@1": recall_at_1(*photos, dev.pairs.owner),
                         **measured(said, dev.captions, packaged)})  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data/flickr8k"))
    parser.add_argument("--cache", type=Path, default=Path("runs/align/features"))
    parser.add_argument("--out", type=Path, default=Path("runs/recap"))
    parser.add_argument("--images", default="lite2")
    parser.add_argument("--texts", default="minilm-l6")
    parser.add_argument("--neighbours", type=int, default=40, help="captions retrieved")
    parser.add_argument("--bare", type=int, default=3000, help="photos without captions of the loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--controls", nargs="+", default=CONTROLS, help="of the loop; an empty one is the loop itself"
    )
    parser.add_argument("--captioner", type=Path, help="the folder of a trained captioner")
    for flag in ("--packaged", "--choose", "--loop", "--tables"):
        parser.add_argument(flag, action="store_true")
    arguments = parser.parse_args()
    if not arguments.tables:
        import torch

        torch.set_num_threads(1)
        images = "packaged" if arguments.packaged or arguments.captioner else arguments.images
        train, dev = (
            encoded(arguments.data, arguments.cache, s, images, arguments.texts) for s in ("train", "dev")
        )
        judge = encoded(arguments.data, arguments.cache, "dev", "packaged", "").pairs.images
        name = "packaged model" if arguments.packaged else f"{images} + {arguments.texts}"
        if arguments.choose:
            chosen_neighbours(train)
            return
        if arguments.captioner:
            rows = decoded(arguments.captioner, arguments.data, dev, judge)
        elif arguments.loop:
            rows = loop(
                train,
                dev,
                judge,
                name,
                arguments.neighbours,
                arguments.controls,
                arguments.rounds,
                arguments.bare,
            )
        else:
            whole = (
                AffineMap(np.zeros(train.pairs.images.shape[1])),
                AffineMap(np.zeros(train.pairs.texts.shape[1])),
            )
            fit = Fit(*whole) if arguments.packaged else fit_alignment("cca", train.pairs, False)
            rows = retrieval(train, dev, fit, judge, name, arguments.neighbours)
        arguments.out.mkdir(parents=True, exist_ok=True)
        file = f"{'captioner' if arguments.captioner else images}{'-loop' * arguments.loop}.json"
        before = (
            json.loads((arguments.out / file).read_text("utf-8")) if (arguments.out / file).exists() else []
        )
        merged = {row["what"]: row for row in [*before, *rows]}
        write_atomically(arguments.out / file, json.dumps(list(merged.values())))
    shown = ("CIDEr-D", "BLEU-4", "METEOR", "ROUGE-L", "L-CLIPScore", "R@1", "words", "different captions")
    for file in sorted(arguments.out.glob("*.json")):
        rows = json.loads(file.read_text(encoding="utf-8"))
        extra = [key for key in ("joined", "threshold", "text to image R@1") if key in rows[0]]
        print(f"\n| captions | {' | '.join((*shown, *extra))} |\n{'|---' * (1 + len(shown) + len(extra))}|")
        for row in rows:
            cells = [f"{row[key]:.3f}" if row[key] < 15 else f"{row[key]:,.0f}" for key in (*shown, *extra)]
            print(f"| {row['what']} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
