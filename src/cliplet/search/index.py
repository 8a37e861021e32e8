"""Finding photos by words, by a photo, or by both: an index of embeddings that any Encoder made."""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cliplet.data.images import ImageInput
from cliplet.data.photos import PhotoTar, TarPhoto
from cliplet.encoders.base import BaseEncoder, Encoder
from cliplet.encoders.registry import load, placed
from cliplet.errors import InputError
from cliplet.search.store import Maker, Row, Store, Vectors
from cliplet.search.update import Changes, Progress, tar_of, update

ANN_ABOVE = 2_000_000
"""Photos above which an approximate index is made, since their vectors no longer fit into memory."""
ALIKE = 0.99
"""Cosine from which two photos count as one."""
BLOCK = 64
"""Scores of which only the largest is looked at first."""
FRESH = 1.0
"""Seconds for which a search does not ask whether another process has changed the table."""
WITHOUT = 0.5
"""How much of the cosine with an unwanted text is taken off."""


@dataclass(frozen=True)
class Hit:
    """A photo that was found."""

    path: str
    """Its absolute path; in a tar ``/folder/shard.tar:member``."""
    score: float
    """Cosine with the query, -1 to 1; with an unwanted text half of its cosine is taken off."""
    also: list[str]
    """Photos with the same content, or so alike that they would only repeat it."""


@dataclass(frozen=True)
class _Loaded:
    """The vectors of one version of the table."""

    version: int
    paths: list[str]
    hashes: list[str]
    matrix: Vectors


class Index:
    """Photos in a table at ``photos.lance``, each with its embedding.

    Search is exact: one product with all vectors, kept in memory as float32 and read again when the table has changed
    (what another process changes is seen within a second).
    Above two million photos an approximate index takes its place (:meth:`recall` says how much it finds). Safe to read
    from several threads.

    Example:
        >>> from cliplet import Index
        >>> index = Index.make("photos.lance")  # doctest: +SKIP
        >>> index.update(["holidays/"])  # doctest: +SKIP
        >>> [hit.path for hit in index.search("a red bicycle", top=3)]  # doctest: +SKIP
    """

    def __init__(self, store: Store, encoder: BaseEncoder, ann_above: int = ANN_ABOVE) -> None:
        """Use :meth:`open` or :meth:`make`."""
        self.store, self.encoder, self.ann_above = store, encoder, ann_above
        self._loaded: _Loaded | None = None
        self._asked = -FRESH  # when the table's version was asked for
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls,
        path: str | Path,
        model: Encoder | str | Path | None = None,
        options: dict[str, str] | None = None,
        ann_above: int = ANN_ABOVE,
        device: str | None = None,
        precision: str | None = None,
    ) -> "Index":
        """Open an index that is there.

        Args:
            path: ``photos.lance``, or an address of object storage such as ``s3://bucket/photos.lance``.
            model: the model that made it: an Encoder, or what :func:`cliplet.load` takes; default the packaged one.
            options: of the object storage, as LanceDB takes them.
            ann_above: number of photos above which search is approximate.
            device: where the model computes, as :func:`cliplet.load` takes it. The index holds for all devices.
            precision: in which precision, likewise.

        Raises:
            InputError: there is none, or another model made it; or this machine has no such device.
            MissingExtraError: LanceDB is not installed (``pip install 'cliplet[search]'``).
        """
        store = Store(path, options)
        maker, encoder = store.open(), _encoder(model, device, precision)
        own = Maker.of(encoder.card)
        if maker != own:
            raise InputError(
                f"{path} was made by {maker.model} ({maker.fingerprint}), not by {own.model} ({own.fingerprint}): "
                f"give that model with --model, or make it anew with cliplet index --rebuild"
            )
        return cls(store, encoder, ann_above)

    @classmethod
    def make(
        cls,
        path: str | Path,
        model: Encoder | str | Path | None = None,
        options: dict[str, str] | None = None,
        ann_above: int = ANN_ABOVE,
        rebuild: bool = False,
        device: str | None = None,
        precision: str | None = None,
    ) -> "Index":
        """Open an index, or make an empty one; with ``rebuild`` always an empty one. Arguments as in :meth:`open`."""
        store = Store(path, options)
        if store.exists() and not rebuild:
            return cls.open(path, model, options, ann_above, device, precision)
        encoder = _encoder(model, device, precision)
        with store.locked():
            store.create(Maker.of(encoder.card))
        return cls(store, encoder, ann_above)

    # ---------------------------------------------------------------- what is in it
    @property
    def photos(self) -> int:
        """How many photos can be found."""
        return len(self.store)

    def __len__(self) -> int:
        return self.photos

    def update(self, places: Sequence[str | Path], progress: Progress | None = None) -> Changes:
        """Add the photos of folders, tars and files, renew changed ones, drop those that are gone from these places.

        A run that is stopped keeps what it has done; the next goes on there.

        Args:
            places: folders (searched with their subfolders), tars and photos.
            progress: called with (photos done, photos to do).

        Returns:
            What was done, with the photos that could not be used.

        Raises:
            InputError: a place is not there, or another run writes the index.
        """
        with self.store.locked():
            done = update(self.store, self.encoder, places, progress)
            if len(self.store) > self.ann_above and (done.added or done.changed or not self.store.has_ann()):
                self.store.make_ann()
        self._asked = -FRESH
        return done

    def remove(self, paths: Sequence[str | Path]) -> list[str]:
        """Take photos out, for good: an update does not bring them back (:meth:`restore` lets it).

        Args:
            paths: photos, or folders for all photos in them.

        Returns:
            The paths that were taken out.

        Raises:
            InputError: none of a path's photos is in the index.
        """
        with self.store.locked():
            rows = self._meant(paths, hidden=False)
            gone = [Row(r.path, r.hash, r.size, r.modified, r.width, r.height, hidden=True) for r in rows]
            self.store.put(gone, np.zeros((len(gone), self.encoder.card.embedding_dim), dtype=np.float32))
        self._asked = -FRESH
        return [row.path for row in gone]

    def restore(self, paths: Sequence[str | Path]) -> list[str]:
        """Forget that photos were taken out; the next update reads them again. As :meth:`remove`."""
        with self.store.locked():
            rows = self._meant(paths, hidden=True)
            self.store.delete([row.path for row in rows])
        return [row.path for row in rows]

    def _meant(self, paths: Sequence[str | Path], hidden: bool) -> list[Row]:
        rows = self.store.rows()
        found: dict[str, Row] = {}
        for given in paths:
            key = os.path.abspath(given)
            own = [
                row
                for path, row in rows.items()
                if row.hidden == hidden and (path == key or path.startswith((key + os.sep, key + ":")))
            ]
            if not own:
                what = "taken out" if hidden else "in the index"
                raise InputError(f"{given}: no photo of that name is {what}")
            found |= {row.path: row for row in own}
        return list(found.values())

    # ---------------------------------------------------------------- search
    def search(
        self,
        text: str | None = None,
        photo: ImageInput | None = None,
        without: str | None = None,
        top: int = 20,
    ) -> list[Hit]:
        """The photos nearest to a text, to a photo, or to both (the mean of both vectors).

        Args:
            text: what they should show.
            photo: a photo that they should be like.
            without: what they should not show.
            top: how many to give, at least 1.

        Returns:
            The nearest first; equals by path. Photos that repeat a better one stand in its ``also``.

        Raises:
            InputError: neither text nor photo, a text that is empty, a photo that cannot be read, or ``top`` below 1.
        """
        wanted = []
        if text is not None:
            wanted.append(self._text(text))
        if photo is not None:
            wanted.append(self.encoder.encode_images([photo])[0])
        if not wanted:
            raise InputError("give a text or a photo to search for")
        vector = np.mean(wanted, axis=0)
        vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
        return self.search_vector(vector, top, None if without is None else self._text(without))

    def search_vector(self, vector: Vectors, top: int = 20, without: Vectors | None = None) -> list[Hit]:
        """As :meth:`search` for unit vectors ``[d]`` of this index's model."""
        if top < 1:
            raise InputError(f"top must be at least 1, not {top}")
        dim = self.encoder.card.embedding_dim
        for given in (vector, without):
            if given is not None and (given.shape != (dim,) or not np.isfinite(given).all()):
                raise InputError(f"a query must be {dim} finite numbers; it has the shape {given.shape}")
        query = np.asarray(vector, dtype=np.float32)
        if without is not None:
            query = query - np.float32(WITHOUT) * np.asarray(without, dtype=np.float32)
        loaded = self._loaded
        if loaded is None and len(self.store) > self.ann_above and self.store.has_ann():
            found = self.store.ann(query, 2 * top + 20)
            vectors = self.store.vectors_of([hash_ for _, hash_, _ in found])
            near = [(path, hash_, score, vectors[hash_]) for path, hash_, score in found]
            return _grouped(sorted(near, key=lambda n: (-n[2], n[0])), top)
        if loaded is None or time.monotonic() - self._asked > FRESH:
            loaded = self.refresh()
        scores = loaded.matrix @ query if loaded.paths else np.zeros(0, dtype=np.float32)
        count = min(2 * top + 20, len(scores))
        while True:
            hits = _grouped(
                [
                    (loaded.paths[i], loaded.hashes[i], float(scores[i]), loaded.matrix[i])
                    for i in _first(scores, count)
                ],
                top,
            )
            if len(hits) == top or count == len(scores):
                return hits
            count = min(4 * count, len(scores))  # many repeat each other

    def refresh(self) -> _Loaded:
        """The vectors in memory, read again where the table has changed; a search does so once a second."""
        version = self.store.version
        self._asked = time.monotonic()
        loaded = self._loaded
        if loaded is None or loaded.version != version:
            with self._lock:
                if self._loaded is None or self._loaded.version != version:
                    self._loaded = _Loaded(*self.store.vectors())
                loaded = self._loaded
        return loaded

    def recall(self, top: int = 10, queries: int = 100, seed: int = 0) -> float:
        """Share of the exact nearest photos that the approximate index finds, with photos of the index as queries.

        Args:
            top: how many nearest.
            queries: how many photos, drawn by ``seed``.
        """
        loaded = _Loaded(*self.store.vectors())
        drawn = np.random.default_rng(seed).permutation(len(loaded.paths))[:queries]
        shares = []
        for i in drawn:
            query = loaded.matrix[i]
            exact = {loaded.paths[k] for k in _first(loaded.matrix @ query, top)}
            shares.append(len(exact & {path for path, _, _ in self.store.ann(query, top)}) / len(exact))
        return float(np.mean(shares))

    def _text(self, text: str) -> Vectors:
        if not text.strip():
            raise InputError("the text to search for is empty")
        prefix = self.encoder.card.text.prompt_prefix
        return self.encoder.encode_texts([prefix + text])[0]


def photo_of(path: str) -> Path | TarPhoto:
    """The photo of a hit: its file, or the file inside a tar.

    Raises:
        InputError: the tar is gone, or has no such photo.
    """
    tar = None if os.path.exists(path) else tar_of(path)
    return Path(path) if tar is None else PhotoTar(tar).get(path[len(tar) + 1 :])


def _encoder(
    model: Encoder | str | Path | None, device: str | None = None, precision: str | None = None
) -> BaseEncoder:
    if model is None or isinstance(model, (str, Path)):
        return load(model, device, precision)
    return placed(model, device, precision)


def _first(scores: Vectors, count: int) -> list[int]:
    """The places of the largest, the largest first; equals by place, which is by path."""
    count = min(count, len(scores))
    if not count:
        return []
    full = len(scores) // BLOCK * BLOCK
    largest = np.append(scores[:full].reshape(-1, BLOCK).max(axis=1, initial=-np.inf), scores[full:])
    if (
        len(largest) > count
    ):  # as many blocks as wanted have one at least this large: all that are wanted are so large
        chosen = np.flatnonzero(scores >= np.partition(largest, -count)[-count])
    else:
        chosen = np.arange(len(scores))
    return chosen[np.lexsort((chosen, -scores[chosen]))][:count].tolist()  # type: ignore[no-any-return]


def _grouped(near: Sequence[tuple[str, str, float, Vectors]], top: int) -> list[Hit]:
    """The first ``top`` photos, each with those after it that repeat it."""
    hits: list[Hit] = []
    hashes: dict[str, int] = {}
    kept: list[Vectors] = []
    for path, hash_, score, vector in near:
        place = hashes.get(hash_)
        if place is None and kept:
            cosines = np.stack(kept) @ vector
            place = int(cosines.argmax()) if cosines.max() >= ALIKE else None
        if place is not None:
            hits[place].also.append(path)
        elif len(hits) < top:
            hashes[hash_] = len(hits)
            hits.append(Hit(path, score, []))
            kept.append(vector)
    return hits
