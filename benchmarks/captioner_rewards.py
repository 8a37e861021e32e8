"""Which reward should a captioner be trained with? The experiment of docs/captioner.md, on Flickr8k.

For each seed: cross-entropy, then from its best weights one self-critical run for each reward: CIDEr-D alone,
L-CLIPScore alone, and mixtures. Settings are those of recipes/caption_rewards.toml, with half its updates. Captions of
the judged photos are scored by n-gram metrics, by L-CLIPScore, and by a judge that was nobody's reward
(captioner_judge.py).

    python -m benchmarks.captioner_rewards --seeds 0 1 2    # trains and scores what is missing, prints tables
    python -m benchmarks.captioner_rewards --tables           # only the tables and plots, from what is there
    python -m benchmarks.captioner_rewards --choose           # beam and length penalty on dev, for cross-entropy

Two processes may share the work: give them different --seeds or --only.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.captioner_judge import Judge, flickr8k
from benchmarks.captioner_tables import print_tables

from cliplet.captioner.decoding import DecodeConfig
from cliplet.encoders.base import Encoder, unit_norm
from cliplet.encoders.registry import load
from cliplet.files import write_atomically
from cliplet.metrics.diversity import self_retrieval
from cliplet.metrics.registry import reference_scores, word_scores
from cliplet.models.captioner import load_decoder
from cliplet.training.captioner.config import CaptionRecipe, RewardWeight, load_caption_recipe
from cliplet.training.captioner.data import CaptionSplit, Reader
from cliplet.training.captioner.evaluate import decode_split
from cliplet.training.captioner.features import kept_grids
from cliplet.training.captioner.shape import shape_of
from cliplet.training.captioner.student import CaptionModel
from cliplet.training.captioner.train import CaptionRun
from cliplet.training.computed import computed
from cliplet.training.pairs import PairSet, fingerprint

RECIPE = Path("recipes/caption_rewards.toml")
DATA = Path("data/flickr8k")
FIRST = "cross-entropy"
EPOCHS = 6
"""Of 40 updates each, in every self-critical run: half of the recipe's, so that many fit."""
VARIANTS: dict[str, dict[str, float]] = {
    FIRST: {},
    "CIDEr-D": {"cider": 1.0, "lclipscore": 0.0},
    "L-CLIPScore": {"cider": 0.0, "lclipscore": 1.0},
    "CIDEr-D + 0.5 L-CLIPScore": {"cider": 1.0, "lclipscore": 0.5},
    "CIDEr-D + L-CLIPScore": {"cider": 1.0, "lclipscore": 1.0},
}
"""Weights of the rewards; each is divided by its running spread. A weight of 0 only measures."""


class Experiment:
    """Trains and scores what is missing below ``out``."""

    def __init__(
        self, out: Path, changes: list[str], starts: int = 3, recipe: Path = RECIPE, data: Path = DATA
    ) -> None:
        self.out, self.starts, self.changes = out, starts, [f"cache={out}/cache", f"data={data}", *changes]
        self.path, self.data = recipe, data
        self._judge: Judge | None = None
        self._photos: dict[str, Any] = {}
        self.encoder: Encoder = load()
        self.judged = flickr8k(data, "judged")
        self.references = [[self.judged.captions[row] for row in rows] for rows in self.judged.captions_of()]

    def recipe(self, variant: str, seed: int) -> CaptionRecipe:
        """The recipe of one run."""
        base = load_caption_recipe(self.path, self.changes)
        begun = seed if variant == FIRST else seed % self.starts
        first = self.out / f"{slug(FIRST)}-seed{begun}"
        if variant == FIRST:
            return dataclasses.replace(base, seed=seed, out=str(first), stages=base.stages[:1])
        rewards = tuple(RewardWeight(name, weight) for name, weight in VARIANTS[variant].items())
        stage = dataclasses.replace(base.stages[1], rewards=rewards, epochs=EPOCHS)
        return dataclasses.replace(
            base, seed=seed, out=str(self.out / f"{slug(variant)}-seed{seed}"), stages=(stage,),
            start=str(first / f"0-{base.stages[0].name}/best"), tokenizer=str(first / "tokenizer.json"),
        )  # fmt: skip

    def run(self, variant: str, seed: int) -> None:
        """Train and score one, unless that is done."""
        recipe = self.recipe(variant, seed)
        done = Path(recipe.out) / "judged.json"
        if done.exists():
            return
        run = CaptionRun(recipe)
        run.train()
        # cross-entropy overfits in the end, so its best epoch counts; a reward is shown where it leads
        kept = "best" if variant == FIRST else "last"
        run.decoder.load_state_dict(load_decoder(run._folder(0) / kept).state_dict())
        self.judge(run, done.parent, {"variant": variant, "seed": seed, "start": seed % self.starts})

    def judge(self, run: CaptionRun, folder: Path, facts: dict[str, Any]) -> None:
        """Caption the judged photos with the run's weights; ``captions.json`` and ``judged.json`` in ``folder``."""
        texts, ended = self.captions(run, self.judged, run.recipe.decode)
        folder.mkdir(exist_ok=True)
        captions = dict(zip(self.judged.names, texts, strict=True))
        write_atomically(folder / "captions.json", json.dumps(captions))
        values = {**self.scores(texts), **shape_of(texts, ended)}
        model = f"{self.encoder.card.name} {self.encoder.card.fingerprint}"
        content = {**facts, "values": values, "reward_model": model}
        write_atomically(folder / "judged.json", json.dumps(content, indent=1))
        print(*facts.values(), {k: round(float(v), 4) for k, v in values.items()}, flush=True)

    def captions(self, run: CaptionRun, pairs: PairSet, config: DecodeConfig) -> tuple[list[str], list[bool]]:
        """Captions of a split's photos, and whether each ended."""
        read = Reader(kept_grids(run.tower, pairs.photos, run.cache))
        found = decode_split(CaptionModel(run.decoder), read, len(pairs.photos), run.limits, config)
        return run.say([f.tokens[0] for f in found]), [f.ended[0] for f in found]

    def scores(self, texts: list[str]) -> dict[str, float]:
        """All measures of captions of the judged photos."""
        found = reference_scores(texts, self.references, self.judged.names)
        values = {name: found.statistics[name].corpus() for name in found.statistics}
        if self._judge is None:
            self._judge = Judge(flickr8k(self.data, "train"), Path(self.recipe(FIRST, 0).cache))
        judges = {
            "L-CLIPScore": self._by_encoder(texts),
            "judge": (self._judge.photos(self.judged.photos), self._judge.texts(texts)),
        }
        for name, (photos, captions) in judges.items():
            cosine = (photos * captions).sum(axis=1)
            w = self.encoder.card.score.w if name == "L-CLIPScore" else 1.0
            values[name] = float(w * np.maximum(cosine, 0 if name == "L-CLIPScore" else -1).mean())
            values[f"R@1 by {name}"] = self_retrieval(photos, captions)
        return values

    def _by_encoder(self, texts: list[str]) -> tuple[Any, Any]:
        def compute(start: int, stop: int) -> Any:
            return self.encoder.encode_images(self.judged.photos[start:stop])

        name = f"photos-{fingerprint(self.judged.photos)}-{self.encoder.card.fingerprint}.npy"
        photos = computed(Path(self.recipe(FIRST, 0).cache) / name, len(texts), compute, 16)
        prefix = self.encoder.card.text.prompt_prefix
        return unit_norm(np.asarray(photos)), self.encoder.encode_texts([prefix + text for text in texts])

    def people(self) -> None:
        """What the measures say of people: each photo's first caption, against its other four."""
        done = self.out / "people.json"
        if done.exists():
            return
        references, self.references = self.references, [group[1:] for group in self.references]
        split = CaptionSplit.of(self.judged)
        texts = [group[0] for group in split.captions]
        values = {**self.scores(texts), **shape_of(texts, [True] * len(texts))}
        self.references = references
        write_atomically(done, json.dumps({"variant": "people", "seed": 0, "values": values}, indent=1))

    def choose(self, seed: int) -> None:
        """Beam and length penalty of the cross-entropy captioner, on dev."""
        run = CaptionRun(self.recipe(FIRST, seed))
        run.decoder.load_state_dict(load_decoder(run._folder(0) / "best").state_dict())
        dev = CaptionSplit.of(flickr8k(self.data, "dev")).first(run.recipe.dev_photos)
        pairs = dataclasses.replace(flickr8k(self.data, "dev"), photos=dev.photos)
        words = [[caption.split() for caption in group] for group in dev.captions]
        print("| beam | length penalty | CIDEr-D | BLEU-4 | words |\n|---|---|---|---|---|")
        for beam, penalty in ((1, 0.0), (3, 0.0), (5, 0.0), (3, 0.7), (5, 0.7), (3, 1.0), (5, 1.0)):
            texts, _ = self.captions(run, pairs, DecodeConfig(beam=beam, length_penalty=penalty))
            found = word_scores([text.split() for text in texts], words, ("bleu", "cider"))
            cider, bleu = (found.statistics[name].corpus() for name in ("CIDEr-D", "BLEU-4"))
            length = np.mean([len(text.split()) for text in texts])
            print(f"| {beam} | {penalty} | {cider:.3f} | {100 * bleu:.1f} | {length:.1f} |")


def slug(variant: str) -> str:
    """A variant's name as a folder."""
    return variant.lower().replace(" + ", "+").replace(" ", "x").replace("-", "")


def experiment_parser(
    description: str | None, out: str, recipe: Path, variants: Sequence[str]
) -> argparse.ArgumentParser:
    """The arguments that experiments with captioners share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--recipe", type=Path, default=recipe)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of Flickr8k (docs/data.md)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--only", nargs="+", default=list(variants), choices=list(variants), help="variants by name"
    )
    parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch; 0: all cores")
    parser.add_argument("--tables", action="store_true", help="only print the tables")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="changes of the recipe")
    return parser


def main() -> None:
    parser = experiment_parser(__doc__, "runs/captioner_rewards", RECIPE, list(VARIANTS))
    parser.add_argument(
        "--starts", type=int, default=3, help="cross-entropy models; seed s starts from number s %% this"
    )
    parser.add_argument("--choose", action="store_true", help="only compare beams on dev")
    parser.add_argument("--images", type=Path, default=Path("docs/images"), help="folder of the plots")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if not arguments.tables:
        experiment = Experiment(
            arguments.out, arguments.changes, arguments.starts, arguments.recipe, arguments.data
        )
        if arguments.choose:
            experiment.choose(arguments.seeds[0])
            return
        for seed in arguments.seeds:
            for variant in arguments.only:
                if variant != FIRST or seed < arguments.starts:
                    experiment.run(variant, seed)
        experiment.people()
    print_tables(arguments.out, {name: slug(name) for name in VARIANTS}, arguments.images)


if __name__ == "__main__":
    main()
