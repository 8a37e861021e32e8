"""What the bench measures of a tuned model: one value a question, so that arms are compared question by question."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cliplet.encoders.base import unit_norm
from cliplet.evaluation.benchmarks import find_benchmark, load_judgements
from cliplet.evaluation.comparison import I2T, T2I, Columns, retrieval_columns
from cliplet.evaluation.hard_negatives import KINDS, hard_negatives
from cliplet.evaluation.human import ScoreRequest, evaluate_ratings
from cliplet.evaluation.judgements import Ratings
from cliplet.evaluation.pairs import Quartet, blind_wins, both_wins
from cliplet.evaluation.quartets import quartet_columns, quartet_inputs
from cliplet.evaluation.retrieval import equal_caption_pairs, plain_words
from cliplet.statistics.resampling import pairwise_wins
from cliplet.training.config import DataConfig
from cliplet.training.dclip.data import Labelled
from cliplet.training.dclip.region_test import RegionTest
from cliplet.training.pairs import PairSet, read_pairs

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Model(Protocol):
    """A model as the bench sees it."""

    def images(self, photos: Sequence[Any]) -> Floats:
        """``[n, d]``, unit norm."""

    def texts(self, texts: Sequence[str]) -> Floats:
        """``[n, d]``, unit norm."""

    def phrases(self, test: RegionTest, photos: Sequence[Any]) -> tuple[NDArray[Any], Ints]:
        """Which phrases of boxes it tells from edited ones, and the photo of each."""


LEAST = 20
"""Questions of a kind without which it has no column."""
PROMPTS = {"flickr8k": "a photo of a {}.", "ucm": "an aerial photo of a {}."}


def retrieval(images: Floats, texts: Floats, photo_of: Ints, captions: Sequence[str]) -> Columns:
    """R@1 and average precision of each query, both ways, where captions of equal words count as the same.

    Args:
        images: ``[n, d]``, unit norm.
        texts: ``[m, d]``, unit norm.
        photo_of: photo of each caption ``[m]``.
        captions: ``[m]``.
    """
    found = retrieval_columns("", images, texts, photo_of, equal_caption_pairs(captions, photo_of))
    ways = {"T2I": T2I, "I2T": I2T}
    kept = {f"{w}|{m}": found[f"|{way}|{m}"] for w, way in ways.items() for m in ("R@1", "mAP", "photo")}
    first = np.unique([plain_words(c) for c in captions], return_index=True)[1]
    if len(first) < len(captions):
        kept |= {f"T2I distinct|{m}": kept[f"T2I|{m}"][first] for m in ("R@1", "photo")}
    return kept


def _ranked(cosines: Floats, relevant: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Whether the best answer to each query is right, and the average precision ``[queries]``; ties count as wrong."""
    order = np.lexsort((relevant, -cosines), axis=1)
    hits = np.take_along_axis(relevant, order, axis=1)
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    ap = (precision * hits).sum(axis=1) / np.maximum(hits.sum(axis=1), 1)
    return hits[:, 0].astype(np.float32), ap.astype(np.float32)


@dataclass(frozen=True)
class Detail:
    """Pairs of pictures with a statement each that fits one of them alone."""

    name: str
    """Of the set."""
    quartets: Sequence[Quartet]
    """The pairs."""
    photos: dict[str, Any]
    """Where to read each picture, by its name in the quartets."""
    bank: Sequence[str]
    """Other texts of this kind, which tell what a model makes of a picture whatever is said."""

    def columns(self, model: Model) -> Columns:
        """Whether both statements find their picture, with and without the model's preference of one picture."""
        names, texts = quartet_inputs(self.quartets)
        seen = dict(zip(names, model.images([self.photos[n] for n in names]), strict=True))
        said = dict(zip(texts, model.texts(texts), strict=True))
        return quartet_columns(self.name, self.quartets, seen, said, model.texts(self.bank))


@dataclass
class Bench:
    """The questions of one domain."""

    domain: str
    """Its name."""
    test: PairSet
    """Photos and captions that are reported on."""
    labelled: Labelled | None
    """Photos of ImageNet classes."""
    classes: dict[str, str] = field(default_factory=dict)
    """Prefix of a photo's name to the class's name."""
    probe: PairSet | None = None
    """Photos that the linear probe learns from; their captions are not used."""
    kinds: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None
    """Which of the detector's kinds are on the probe's photos and on the test's ``[photos, kinds]``."""
    words_seed: int = 0
    """Of the split of word pairs, as in training."""
    phrases: RegionTest | None = None
    """Boxes of the test's photos that their captions name, and edited phrases."""
    details: tuple[Detail, ...] = ()
    """Pairs of pictures that differ in one thing."""

    def columns(self, model: Model) -> Columns:
        """Everything about a model."""
        images, texts = model.images(self.test.photos), model.texts(self.test.captions)
        found = retrieval(images, texts, self.test.photo_of, self.test.captions)
        found |= self._wrong_words(model, images)
        if self.classes:
            found |= self._named(model, images)
        if self.labelled is not None:
            known = self.labelled
            photos, prompts = model.images(known.photos), model.texts(known.prompts)
            guess = (
                photos @ unit_norm(prompts.reshape(known.classes, -1, prompts.shape[1]).mean(axis=1)).T
            ).argmax(1)
            found["imagenet500|top-1"] = (guess == known.labels).astype(np.float32)
        if self.probe is not None:
            found |= self._probed(model.images(self.probe.photos), images)
        if self.phrases is not None:
            right, photo = model.phrases(self.phrases, self.test.photos)
            found |= {"phrases|right": right.astype(np.float32), "phrases|photo": photo}
        for detail in self.details:
            found |= detail.columns(model)
        found |= self._long(model, images)
        return found

    def _long(self, model: Model, images: Floats) -> Columns:
        """R@1 of each photo's captions joined to one long text."""
        own = self.test.captions_of()
        rows = np.array([i for i, several in enumerate(own) if len(several) > 1], dtype=np.int64)
        if not len(rows):
            return {}
        texts = model.texts([" ".join(self.test.captions[c] for c in own[i]) for i in rows])
        return {
            "long T2I|R@1": ((texts @ images.T).argmax(1) == rows).astype(np.float32),
            "long T2I|photo": rows,
        }

    # ------------------------------------------------------------ wrong words
    @cached_property
    def wrong(self) -> list[Any]:
        """Captions with one wrong word, of word pairs that training does not use, as likely as the true ones."""
        of: dict[str, list[str]] = {}
        for caption, photo in zip(self.test.captions, self.test.photo_of, strict=True):
            of.setdefault(self.test.names[photo], []).append(caption)
        return hard_negatives(of, words="test", words_seed=self.words_seed, fluent=True, balanced=True)

    @cached_property
    def also(self) -> list[str]:
        """Another true caption of each one's photo, in other words; nothing where there is none."""
        of: dict[str, list[str]] = {}
        for caption, photo in zip(self.test.captions, self.test.photo_of, strict=True):
            of.setdefault(self.test.names[photo], []).append(caption)
        found = []
        for one in self.wrong:
            others = [c for c in of[one.image] if c != one.true and c != one.false]
            found.append(
                others[zlib.crc32(one.true.encode("utf-8", "replace")) % len(others)] if others else ""
            )
        return found

    def blind(self) -> dict[str, float]:
        """How often guessers that see no photo tell the caption with the wrong word."""
        wins = blind_wins([w.pair() for w in self.wrong]) if self.wrong else {}
        return {name: float(np.mean(won)) for name, won in wins.items()}

    def _wrong_words(self, model: Model, images: Floats) -> Columns:
        photo = {name: i for i, name in enumerate(self.test.names)}
        rows = np.array([photo[w.image] for w in self.wrong], dtype=np.int64)
        if not len(rows):
            return {}
        texts = model.texts([t for w in self.wrong for t in (w.true, w.false)]).reshape(len(rows), 2, -1)
        cosines = np.einsum("nd,nkd->nk", images[rows], texts)
        right = pairwise_wins(cosines[:, 0], cosines[:, 1]).astype(np.float32)
        found: Columns = {"wrong word|all": right, "wrong word|photo": rows}
        for kind in KINDS:
            of = np.array([w.category == kind for w in self.wrong])
            if of.sum() >= LEAST:
                found |= {f"wrong {kind}|right": right[of], f"wrong {kind}|photo": rows[of]}
        two = np.flatnonzero([bool(also) for also in self.also])
        if len(two) >= LEAST:
            second = np.einsum("nd,nd->n", images[rows[two]], model.texts([self.also[i] for i in two]))
            both = both_wins(right[two].astype(np.float64), pairwise_wins(second, cosines[two, 1]))
            found |= {"both true|right": both.astype(np.float32), "both true|photo": rows[two]}
        return found

    # ------------------------------------------------------------ classes
    @cached_property
    def class_names(self) -> list[str]:
        """The classes, in the order of their numbers."""
        return list(dict.fromkeys(self.classes.values()))

    def labels(self, pairs: PairSet) -> Ints:
        """The class of each photo, by the longest prefix of its name."""
        number = {prefix: self.class_names.index(name) for prefix, name in self.classes.items()}
        longest = sorted(number, key=len, reverse=True)
        stems = [Path(name).name for name in pairs.names]
        return np.array([next(number[p] for p in longest if s.startswith(p)) for s in stems], dtype=np.int64)

    def _named(self, model: Model, images: Floats) -> Columns:
        template = PROMPTS.get(self.domain, "a photo of a {}.")
        texts = model.texts([template.format(n) for n in self.class_names])
        return {
            "class by name|top-1": ((images @ texts.T).argmax(1) == self.labels(self.test)).astype(np.float32)
        }

    # ------------------------------------------------------------ linear probe
    def _probed(self, seen: Floats, images: Floats) -> Columns:
        """A ridge on the embeddings: the class where photos have one, else average precision of the kinds on them."""
        assert self.probe is not None
        if self.classes:
            labels = self.labels(self.probe)
            scores = linear_probe(seen, np.eye(len(self.class_names), dtype=np.float32)[labels], images)
            return {"probe|top-1": (scores.argmax(1) == self.labels(self.test)).astype(np.float32)}
        if self.kinds is None:
            return {}
        there, wanted = self.kinds
        often = (there.sum(0) >= 10) & (wanted.sum(0) >= 5)
        scores = linear_probe(seen, there[:, often].astype(np.float32), images)
        _, precision = _ranked(scores.T, wanted[:, often].T)
        return {"probe of kinds|mAP": precision}


JUDGEMENTS = {"flickr8k-expert": "Expert tau-c", "flickr8k-cf": "CF tau-b"}
"""Benchmarks of agreement with people, and their heads."""


def agreement(model: Model, folder: Path, photos: str) -> dict[str, dict[str, float]]:
    """How cosines of photos and judged captions agree with people's ratings, without references, in [-1, 1].

    Args:
        model: the model.
        folder: the judgements and Flickr8k's captions.
        photos: folder or tar of the judged photos.

    Returns:
        For each benchmark ``value``, and ``low`` and ``high`` of its interval, photos resampled.
    """
    there = read_pairs(DataConfig(photos=(photos,)))
    row = {Path(name).name: i for i, name in enumerate(there.names)}
    images = model.images(there.photos)

    def cosines(request: ScoreRequest) -> dict[str, NDArray[np.float64]]:
        rows = np.array([row.get(Path(name).name, -1) for name in request.images])
        found = np.einsum("nd,nd->n", images[rows], model.texts(request.captions)).astype(np.float64)
        return {"cosine": np.where(rows < 0, np.nan, found)}

    found = {}
    for name, head in JUDGEMENTS.items():
        data, _ = load_judgements(name, folder)
        protocol = find_benchmark(name).protocol
        assert isinstance(data, Ratings)
        assert protocol is not None
        one = evaluate_ratings(name, data, cosines, protocol).metrics[0].interval
        found[head] = {"value": one.value, "low": one.low, "high": one.high}
    return found


def linear_probe(seen: Floats, target: Floats, images: Floats, penalty: float = 1.0) -> Floats:
    """Scores of photos by a ridge regression from embeddings to targets, both centred: ``[n, targets]``.

    Args:
        seen: embeddings that it is fitted on ``[m, d]``, unit norm.
        target: ``[m, targets]``.
        images: ``[n, d]``.
        penalty: of the squared weights.
    """
    mean, middle = seen.mean(0), target.mean(0)
    x = seen - mean
    weight = np.linalg.solve(
        x.T @ x + penalty * np.eye(x.shape[1], dtype=np.float32), x.T @ (target - middle)
    )
    return ((images - mean) @ weight + middle).astype(np.float32)
