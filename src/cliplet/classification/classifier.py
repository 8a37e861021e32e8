"""A classifier of photos: class texts or a few labelled photos on one side, any Encoder on the other."""

from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.classification.background import Background
from cliplet.classification.bank import TextBank, encode_texts
from cliplet.classification.coder import Rule, TextHead, make_head
from cliplet.classification.confidence import (
    STANDING,
    fit_cut,
    fit_several,
    fit_temperature,
    softmax,
    standing,
)
from cliplet.classification.ensemble import DEFAULT_TEMPLATES, check_templates
from cliplet.classification.fewshot import Settings, ShotHead, Shots, fit_shots
from cliplet.classification.folder import State, check_model, read, save
from cliplet.classification.photos import are_vectors, find_photos, given_vectors, of_length_1
from cliplet.classification.result import Classified
from cliplet.classification.texts import (
    ClassTexts,
    add_texts,
    check_classes,
    key_of,
    make_classes,
    read_labels,
)
from cliplet.data.images import ImageInput
from cliplet.data.text import shown
from cliplet.encoders.base import BaseEncoder, Embeddings, Encoder
from cliplet.encoders.embed import CHUNK, Progress, embed_photos, embed_texts
from cliplet.encoders.registry import load, placed
from cliplet.errors import InputError, ModelError
from cliplet.scoring.background import SENTENCES
from cliplet.statistics.kendall import Ints
from cliplet.versions import versions

Photos = str | Path | Sequence[ImageInput]
"""A photo, folder, tar or pattern, or a list of images."""


class Classifier:
    """Says which of some classes photos show.

    Args:
        classes: a file of classes (:func:`~cliplet.classification.texts.read_labels`), a list of names, of lists of a
            name and its synonyms, or of :class:`~cliplet.classification.texts.ClassTexts`, which are taken as they are.
        model: an Encoder, or what :func:`cliplet.load` takes; default: the packaged model.
        texts: more texts of the classes, as :func:`~cliplet.classification.texts.add_texts` takes them.
        templates: prompts with ``{}`` for a class's name and synonyms.
        rule: how the texts count.
        unlabelled: photos that the texts are standardised by; any photos of the kind that will be classified.
        cache: keeps the vectors of class texts on disk, by the model's fingerprint: True for the user's cache folder,
            a folder, or False. Photos are not kept.
        progress: called with (done, total) while texts or photos are embedded.
        device, precision: where and how the model computes, as of :func:`cliplet.load`.

    Raises:
        InputError: no such device or precision; no classes, one without a name, or texts of another form.

    Example:
        >>> classifier = Classifier(["cat", "dog"])
        >>> classifier.classify(["photo.jpg"]).answers       # doctest: +SKIP
        [['cat']]
    """

    def __init__(
        self,
        classes: str | Path | Sequence[Any],
        model: Encoder | str | Path | None = None,
        *,
        texts: str | Path | dict[str, Any] | None = None,
        templates: Sequence[str] = DEFAULT_TEMPLATES,
        rule: Rule | None = None,
        unlabelled: Photos | Embeddings | None = None,
        cache: bool | str | Path = True,
        progress: Progress | None = None,
        device: str | None = None,
        precision: str | None = None,
    ) -> None:
        self.notes: list[str] = []
        """What was merged or left out among the classes."""
        self.templates, self.rule = check_templates(templates), rule or Rule()
        if isinstance(classes, (str, Path)):
            self.classes, self.notes = read_labels(classes)
        elif classes and all(isinstance(own, ClassTexts) for own in classes):
            self.classes = check_classes([own for own in classes if isinstance(own, ClassTexts)])
        else:
            self.classes, self.notes = make_classes(classes)
        if texts is not None:
            self.classes = add_texts(self.classes, texts, self.notes)
        self.encoder, self.model = _encoder(model, device, precision)
        self.cache = cache
        self.progress = progress
        self.unlabelled = None if unlabelled is None else Background(self.embed(unlabelled))
        """The unlabelled photos; a loaded classifier has none, their part in the scores is kept."""
        self.head: TextHead | ShotHead = make_head(self.bank, self.rule, self.unlabelled)
        """What scores photos."""
        self.temperature, self.calibrated = self.head.temperature, False
        self.none_cut: float | None = None
        """Best evidence below which a photo shows none of the classes; None: not fitted."""
        self.several_cut: float | None = None
        """Evidence from which on a photo shows a class; None: not fitted."""
        self.about: dict[str, Any] = {}
        """How it was made, for the card."""
        if self.unlabelled is not None:
            self.about["unlabelled photos"] = len(self.unlabelled.vectors)

    # ------------------------------------------------------------ texts
    @cached_property
    def bank(self) -> TextBank:
        """The vectors of all class texts."""
        return encode_texts(
            _with_cache(self.encoder, self.cache), self.classes, self.templates, self.progress
        )

    @cached_property
    def background(self) -> Embeddings:
        """[b, d] vectors of the everyday sentences that a class must stand above."""
        return embed_texts(_with_cache(self.encoder, self.cache), SENTENCES)

    @property
    def names(self) -> list[str]:
        """The classes' names, in the order of their numbers."""
        return [own.name for own in self.classes]

    def numbers(self, labels: Sequence[Any]) -> Ints:
        """Class numbers of labels: names or synonyms in any case, with spaces or underscores; or numbers.

        Raises:
            InputError: a label that is no class.
        """
        place = {key_of(s): i for i, own in enumerate(self.classes) for s in own.synonyms}
        place |= {key_of(own.name): i for i, own in reversed(list(enumerate(self.classes)))}
        found = []
        for label in labels:
            if isinstance(label, (int, np.integer)) and not isinstance(label, bool):
                number = int(label) if 0 <= label < len(self.classes) else None
            else:
                number = place.get(key_of(str(label)))
            if number is None:
                raise InputError(f"label {shown(label)} is not among the {len(self.classes)} classes")
            found.append(number)
        return np.array(found, dtype=np.int64)

    # ------------------------------------------------------------ photos
    def embed(self, photos: Photos | Embeddings) -> Embeddings:
        """Unit vectors [n, d] of photos, those that cannot be read left out; an array of vectors stays as it is."""
        if are_vectors(photos, self.encoder.card.embedding_dim):
            return given_vectors(photos)
        found = find_photos(photos)  # type: ignore[arg-type]
        return embed_photos(self.encoder, found.photos, found.names, self.progress, found.reasons).embeddings

    def scores(self, vectors: Embeddings) -> NDArray[np.float32]:
        """[n, C] for photos' unit vectors [n, d]: cosines, or what the rule or the adapter makes of them."""
        return self.head.scores(np.asarray(vectors, dtype=np.float32))

    def evidence(self, vectors: Embeddings, scores: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """[n, C] how much speaks for each class by itself, whatever the others are.

        By texts: how many standard deviations the best of a class's names stands above the photo's cosines to everyday
        sentences (:func:`~cliplet.classification.confidence.standing`). By labelled photos: the scores.
        """
        if isinstance(self.head, ShotHead):
            return self.scores(vectors) if scores is None else scores
        cosines = vectors @ self.bank.names.T
        if len(self.bank.names) > len(self.classes):
            starts = np.searchsorted(self.bank.name_class, np.arange(len(self.classes)))
            cosines = np.maximum.reduceat(cosines, starts, axis=1)
        return np.asarray(standing(cosines, vectors @ self.background.T), dtype=np.float32)

    def classify(
        self,
        photos: Photos,
        top: int = 5,
        *,
        several: bool = False,
        none_of_these: bool = False,
        progress: Progress | None = None,
    ) -> Classified:
        """Classes of photos.

        Args:
            photos: a photo, folder, tar or pattern, or a list of images.
            top: best classes to keep of each photo.
            several: say every class whose evidence reaches :attr:`several_cut` (unfitted: 3 standard deviations).
            none_of_these: say none where no class's evidence reaches :attr:`none_cut` (unfitted: the same).
            progress: called with (done, total).

        Raises:
            InputError: no photo there, or evidence without a cut: labelled photos must calibrate it first.
        """
        if top < 1:
            raise InputError(f"top must be at least 1, not {top}")
        if are_vectors(photos, self.encoder.card.embedding_dim) and of_length_1(photos):
            raise InputError("these are vectors, not photos: their scores are what scores(vectors) gives")
        several_cut, none_cut = self._cuts(several, none_of_these)
        found = find_photos(photos)
        joined = _Joined(len(found.names), min(top, len(self.classes)), several_cut, none_cut)
        present = [i for i, photo in enumerate(found.photos) if photo is not None]
        missing = {i: found.reasons[name] for i, name in enumerate(found.names) if found.photos[i] is None}
        joined.reasons |= missing
        for start in range(0, len(present), CHUNK):
            rows = present[start : start + CHUNK]
            vectors, wrong = self.encoder.encode_images_safely([found.photos[i] for i in rows])  # type: ignore[misc]
            joined.reasons |= {rows[n]: why for n, why in wrong.items()}
            good = np.array([n for n in range(len(rows)) if n not in wrong], dtype=np.int64)
            self._join(joined, np.array(rows, dtype=np.int64)[good], vectors[good])
            if progress is not None:
                progress(start + len(rows), len(present))
        return Classified(
            found.names, self.names, joined.top, joined.scores, joined.confidence, joined.evidence,
            joined.said, self.calibrated, joined.reasons, found.photos,
            self.facts(several_cut, none_cut), [*self.notes, *found.notes],
        )  # fmt: skip

    __call__ = classify

    def _join(self, joined: "_Joined", rows: Ints, vectors: Embeddings) -> None:
        """Score a block of photos into its rows."""
        if not len(rows):
            return
        scores = self.scores(vectors)
        best = _best(scores, joined.top.shape[1])
        joined.top[rows] = best
        joined.scores[rows] = np.take_along_axis(scores, best, axis=1)
        joined.confidence[rows] = np.take_along_axis(softmax(scores, self.temperature), best, axis=1)
        evidence = None if joined.evidence is None else self.evidence(vectors, scores)
        joined.say(rows, best, evidence, self.names)

    def _cuts(self, several: bool, none_of_these: bool) -> tuple[float | None, float | None]:
        unfitted = None if isinstance(self.head, ShotHead) else STANDING
        cuts = []
        for wanted, cut, what, which in (
            (several, self.several_cut, "several classes a photo", " of which some show several"),
            (none_of_these, self.none_cut, "none of these", ""),
        ):
            cut = unfitted if cut is None else cut
            if wanted and cut is None:
                raise InputError(
                    f"{what} needs a cut that this classifier has not: calibrate it with held-out labelled photos"
                    f"{which} (--held-out)"
                )
            cuts.append(cut if wanted else None)
        return cuts[0], cuts[1]

    # ------------------------------------------------------------ labelled photos
    def learn(
        self,
        photos: Photos | Embeddings,
        labels: Sequence[Any],
        adapter: str | None = None,
        settings: Settings | None = None,
    ) -> "Classifier":
        """Learn the classes from labelled photos too; confidence and cuts are as before :meth:`calibrate`.

        Args:
            photos: labelled photos, or their unit vectors [n, d].
            labels: names or numbers of their classes.
            adapter: a name in :data:`cliplet.classification.fewshot.ADAPTERS`; default: ``soft-kmeans`` where there
                are unlabelled photos, else ``probe``.
            settings: of the adapter; those left out are chosen by cross-validation inside these photos.

        Raises:
            InputError: an unknown label or adapter, a class without photos, or a photo that cannot be read.
        """
        vectors, numbers = self._labelled(photos, self.numbers(labels))
        # a loaded classifier has no unlabelled photos: their part is in its head
        text = self.head if isinstance(self.head, TextHead) else self.head.text
        text = text or make_head(self.bank, self.rule, self.unlabelled)
        shots = Shots(vectors, numbers, len(self.classes), self.unlabelled, text, self.bank)
        self.head = fit_shots(shots, adapter, settings, self.names)
        self.temperature, self.calibrated = self.head.temperature, False
        self.none_cut = self.several_cut = None
        self.about["labelled photos"] = len(vectors)
        return self

    def calibrate(self, photos: Photos | Embeddings, labels: Sequence[Any]) -> "Classifier":
        """Fit the confidence and the cuts to labelled photos that nothing else was fitted to.

        Args:
            photos: labelled photos, or their unit vectors [n, d].
            labels: a class of each, by name or number; or a list of classes of each, which fits the cut of
                :attr:`several_cut` too, and the confidence to those with one class.
        """
        many = [list(one) if isinstance(one, (list, tuple, set)) else [one] for one in labels]
        flat = self.numbers([label for one in many for label in one])
        ends = np.cumsum([len(one) for one in many])
        truth = np.zeros((len(many), len(self.classes)), dtype=bool)
        truth[np.repeat(np.arange(len(many)), np.diff(ends, prepend=0)), flat] = True
        vectors, kept = self._labelled(photos, np.arange(len(many)))
        truth = truth[kept]
        scores = self.scores(vectors)
        alone = np.flatnonzero(truth.sum(axis=1) == 1)
        if len(alone):
            self.temperature = fit_temperature(scores[alone], truth[alone].argmax(axis=1))
            self.calibrated = True
        evidence = self.evidence(vectors, scores)
        some = truth.any(axis=1)
        if some.any():
            self.none_cut = fit_cut(evidence[some].max(axis=1))
        if any(len(one) != 1 for one in many) and some.any():
            self.several_cut = fit_several(evidence, truth)
        self.about["held-out photos"] = len(vectors)
        return self

    def _labelled(self, photos: Photos | Embeddings, numbers: Ints) -> tuple[Embeddings, Ints]:
        if are_vectors(photos, self.encoder.card.embedding_dim):
            vectors = given_vectors(photos)
            _check_count(len(vectors), len(numbers))
            kept = np.arange(len(vectors))
        else:
            found = find_photos(photos)  # type: ignore[arg-type]
            _check_count(len(found.names), len(numbers))
            embedded = embed_photos(self.encoder, found.photos, found.names, self.progress, found.reasons)
            vectors, kept = embedded.embeddings, embedded.kept
            self.notes += [f"labelled photo left out: {why}" for why in embedded.failures.values()]
        return vectors, numbers[kept]

    # ------------------------------------------------------------ the card and the folder
    def facts(self, several_cut: float | None = None, none_cut: float | None = None) -> dict[str, Any]:
        """What identifies this classifier: model, classes, rule or adapter, calibration, versions."""
        card = self.encoder.card
        how: dict[str, Any] = {
            "by": "texts",
            "rule": vars(self.rule) | {"standardised": "unlabelled photos" in self.about},
        }
        if isinstance(self.head, ShotHead):
            how = {"by": "labelled photos", "adapter": self.head.adapter, "settings": self.head.settings}
        return {
            "model": card.name,
            "fingerprint": card.fingerprint,
            "classes": len(self.classes),
            "templates": list(self.templates),
            **how,
            **self.about,
            "temperature": self.temperature,
            "calibrated": self.calibrated,
            "several_cut": several_cut,
            "none_cut": none_cut,
            "versions": self._versions,
        }

    @cached_property
    def _versions(self) -> dict[str, str]:
        return versions()  # reading them takes longer than a photo

    def save(self, folder: str | Path) -> None:
        """Write it as a folder: card, texts, vectors and settings (:mod:`cliplet.classification.folder`).

        Raises:
            InputError: the folder cannot be written, or holds something else.
        """
        card = self.encoder.card
        named = {f.name: getattr(self, f.name) for f in fields(State) if f.name not in _OF_MODEL}
        save(State(card.name, card.fingerprint, self.model, **named), folder)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        model: Encoder | str | Path | None = None,
        device: str | None = None,
        precision: str | None = None,
    ) -> "Classifier":
        """The classifier of a folder.

        Args:
            folder: what :meth:`save` has written.
            model: the model; default: the name that it was made with.
            device, precision: where and how it computes, as of :func:`cliplet.load`.

        Raises:
            ModelError: no such folder, a damaged one, or a model with another fingerprint.
        """
        state = read(folder)
        found = cls.__new__(cls)
        try:
            found.encoder, found.model = _encoder(
                state.model_source if model is None else model, device, precision
            )
        except ModelError as error:
            if model is not None:
                raise
            raise ModelError(
                f"{folder} was made with the model {state.model}, which cannot be loaded ({error}): give that model"
            ) from error
        check_model(state, found.encoder.card, folder)
        found.cache, found.progress = True, None
        for field in fields(State):
            if field.name not in _OF_MODEL:
                setattr(found, field.name, getattr(state, field.name))
        found.unlabelled = None
        return found


_OF_MODEL = ("model", "fingerprint", "model_source")


class _Joined:
    """Rows of a result while blocks come in."""

    def __init__(self, count: int, top: int, several_cut: float | None, none_cut: float | None) -> None:
        self.several_cut, self.none_cut = several_cut, none_cut
        self.top = np.zeros((count, top), dtype=np.int64)
        self.scores, self.confidence = (np.full((count, top), np.nan, dtype=np.float32) for _ in range(2))
        wanted = several_cut is not None or none_cut is not None
        self.evidence = np.full((count, top), np.nan, dtype=np.float32) if wanted else None
        self.said: list[list[str]] = [[] for _ in range(count)]
        self.reasons: dict[int, str] = {}

    def say(self, rows: Ints, best: Ints, evidence: NDArray[np.float32] | None, names: list[str]) -> None:
        """The classes said of a block of photos."""
        if self.evidence is not None and evidence is not None:
            self.evidence[rows] = np.take_along_axis(evidence, best, axis=1)
        for n, row in enumerate(rows.tolist()):
            said = [int(best[n, 0])]
            if self.several_cut is not None and evidence is not None:
                above = np.flatnonzero(evidence[n] >= self.several_cut)
                said = above[np.argsort(-evidence[n, above], kind="stable")].tolist() or said
            if self.none_cut is not None and evidence is not None and evidence[n].max() < self.none_cut:
                said = []
            self.said[row] = [names[c] for c in said]


def _best(scores: NDArray[np.float32], top: int) -> Ints:
    """[n, top] the best classes of each row, the best first; of equal ones the lower number, as argmax has it."""
    best = np.argpartition(-scores, top - 1, axis=1)[:, :top]
    first = scores.argmax(axis=1)
    lost = ~(best == first[:, None]).any(axis=1)  # among more equals than there is room for
    best[lost, -1] = first[lost]
    values = np.take_along_axis(scores, best, axis=1)
    return np.take_along_axis(best, np.lexsort((best, -values), axis=1), axis=1)


def _check_count(photos: int, labels: int) -> None:
    if photos != labels:
        raise InputError(f"{photos} labelled photos have {labels} labels")


def model_source(name: str) -> str:
    """What a saved classifier says of its model: a folder's whole path, so that it is found from anywhere."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _encoder(
    model: Encoder | str | Path | None, device: str | None, precision: str | None
) -> tuple[BaseEncoder, str | None]:
    """The encoder, and the name by which it can be loaded again."""
    if model is None or isinstance(model, (str, Path)):
        encoder = load(model, device, precision)
        return encoder, model_source(encoder.card.name if model is None else str(model))
    return placed(model, device, precision), None


def _with_cache(encoder: BaseEncoder, cache: bool | str | Path) -> BaseEncoder:
    """The encoder with texts kept on disk, where that is possible; a cache that was not asked for never fails."""
    from cliplet.encoders.cache import CachedEncoder, EmbeddingCache

    if not cache or encoder.keeps or encoder.card.fingerprint == "unknown":
        return encoder
    try:
        return CachedEncoder(encoder, EmbeddingCache(None if cache is True else cache))
    except InputError:
        if cache is True:
            return encoder
        raise
