"""An image-text judge that is no captioner's reward: EfficientNet-Lite2 photos mapped to MiniLM-L6 sentences.

It is a ridge regression from a photo's pooled features to the mean embedding of its captions, fitted on the train split
in seconds. What it shares with the packaged model (the reward): both saw Flickr8k's training pairs, and the packaged
model's teacher was made, among others, of these two encoders. What it does not share: the image tower (Lite2 here, a
Lite0 trained further there), the text tower (MiniLM-L6 here, a tower grown from MiniLM-L3 there), and every weight.

    python -m benchmarks.captioner_judge            # agreement of the judge with people, on the judged photos
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.encoders.base import unit_norm
from cliplet.evaluation.benchmarks import find_benchmark, load_judgements
from cliplet.evaluation.human import evaluate_ratings
from cliplet.metrics.diversity import self_retrieval
from cliplet.models.captioner_config import GridConfig
from cliplet.models.pretrained import sentence_embeddings, sentence_model
from cliplet.training.captioner.features import grid_session, pixels_of
from cliplet.training.captioner.towers import GridTower
from cliplet.training.computed import computed
from cliplet.training.config import DataConfig
from cliplet.training.pairs import PairSet, fingerprint, read_pairs
from cliplet.training.teacher_space import ridge

Floats = NDArray[np.float32]
PENALTY = 5e3
GRID = GridConfig(towers=("efficientnet_lite2",))


def flickr8k(data: Path, split: str) -> PairSet:
    """A split with its captions as they stand in the file."""
    files = {"captions": (str(data / "Flickr8k.token.txt"),), "photos": (str(data / f"images_{split}.tar"),)}
    return read_pairs(DataConfig(**files, names=str(data / f"split_{split}.txt")))


class Judge:
    """The judge; embeddings are computed once and kept in ``cache``."""

    def __init__(self, train: PairSet, cache: Path) -> None:
        self.cache = cache
        self._sentences: Any = None
        self._session: Any = None
        photos = self._pooled(train.photos)
        captions = self._embedded(train.captions)
        self.photo_mean, self.photo_spread = photos.mean(axis=0), photos.std(axis=0) + 1e-6
        self.text_mean = captions.mean(axis=0)
        target = np.stack([captions[rows].mean(axis=0) for rows in train.captions_of()]) - self.text_mean
        self.map = ridge(self._standard(photos), target, PENALTY)

    def photos(self, photos: list[Any]) -> Floats:
        """Unit embeddings ``[n, 384]``."""
        return unit_norm(self._standard(self._pooled(photos)) @ self.map)

    def texts(self, captions: list[str]) -> Floats:
        """Unit embeddings ``[n, 384]``."""
        return unit_norm(self._encode(captions) - self.text_mean)

    def _standard(self, photos: Floats) -> Floats:
        return (photos - self.photo_mean) / self.photo_spread  # type: ignore[no-any-return]

    def _pooled(self, photos: list[Any]) -> Floats:
        def compute(start: int, stop: int) -> Floats:
            self._session = self._session or grid_session(GridTower(GRID))
            pixels = pixels_of(photos[start:stop], GRID)
            return self._session.run(["grid"], {"pixels": pixels})[0].mean(axis=1)  # type: ignore[no-any-return]

        file = self.cache / f"judge-photos-{fingerprint(photos)}.npy"
        return np.asarray(computed(file, len(photos), compute, 16, np.float16), dtype=np.float32)

    def _embedded(self, captions: list[str]) -> Floats:
        file = self.cache / f"judge-captions-{fingerprint(captions)}.npy"
        kept = computed(file, len(captions), lambda a, b: self._encode(captions[a:b]), 16, np.float16)
        return np.asarray(kept, dtype=np.float32)

    def _encode(self, captions: list[str]) -> Floats:
        self._sentences = self._sentences or sentence_model("minilm-l6")
        return unit_norm(sentence_embeddings(self._sentences, captions))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data/flickr8k"), help="folder of Flickr8k")
    parser.add_argument(
        "--captions", type=Path, help="score this file of captions of the judged photos instead"
    )
    parser.add_argument("--cache", type=Path, default=Path("runs/captioner_rewards/cache"))
    arguments = parser.parse_args()
    judge = Judge(flickr8k(arguments.data, "train"), arguments.cache)
    judged = flickr8k(arguments.data, "judged")
    if arguments.captions:
        texts = json.loads(arguments.captions.read_text(encoding="utf-8"))
        images, captions = judge.photos(judged.photos), judge.texts([texts[name] for name in judged.names])
        print(
            f"judge {float((images * captions).sum(axis=1).mean()):.3f}, R@1 {self_retrieval(images, captions):.3f}"
        )
        return
    photos = dict(zip(judged.names, judge.photos(judged.photos), strict=True))

    def scorer(request: Any) -> dict[str, Any]:
        rows = np.stack([photos[name] for name in request.images])
        return {"cosine": (rows * judge.texts(list(request.captions))).sum(axis=1).astype(np.float64)}

    for name in ("flickr8k-expert", "flickr8k-cf"):
        ratings, _ = load_judgements(name, arguments.data)
        found = evaluate_ratings(name, ratings, scorer, find_benchmark(name).protocol).metrics[0].interval
        print(
            f"judge, {name}, judged photos: tau {100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
        )


if __name__ == "__main__":
    main()
