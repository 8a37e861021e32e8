"""Captions by retrieval: the captions nearest to a photo in an aligned space, and one made of them.

Source: ReCap (arXiv 2307.05591), where a large language model writes from the retrieved captions. Here the caption is
the one on which the retrieved ones agree most (consensus by CIDEr-D: Devlin et al. 2015, arXiv 1505.04467), or what a
function of your own writes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.captioner.decoding import DecodeConfig
from cliplet.captioner.model import PhotoCaptions
from cliplet.captioner.store import CaptionStore
from cliplet.data.images import ImageInput
from cliplet.data.plugins import resolve
from cliplet.encoders.base import Embeddings, Encoder, adapt
from cliplet.errors import InputError
from cliplet.rewards.cider import CiderReward
from cliplet.rewards.references import References

Writer = Callable[[list[str], str], str | list[str]]
"""The retrieved captions, nearest first and each once, and the prompt -> a caption, or several to be ranked."""
FUSIONS = ("consensus", "nearest")
"""Ways to make one caption of the retrieved ones, beside your own ``module:attribute``."""
NEIGHBOURS = 40
PROMPT = "Similar images show:\n{captions}\nOne sentence that describes this image:"
"""What a function of your own is given; ``{captions}`` stands for the retrieved captions, one a line."""
BATCH = 64


class Recap:
    """A captioner without training: an encoder, a store of captions and a way to fuse those that are nearest.

    Args:
        encoder: embeds photos; the model that embedded the store, normally an aligned one.
        store: the captions.
        fusion: ``consensus``, ``nearest``, a function, or its name as ``module:attribute``.
        neighbours: captions retrieved for a photo.
        prompt: for a function; ``{captions}`` is replaced.

    Example::

        store = CaptionStore.build(encoder, captions_of_each_photo)
        Recap(encoder, store).caption(["dog.jpg"])[0].captions      # ['a dog runs on the beach']
    """

    def __init__(
        self,
        encoder: Encoder,
        store: CaptionStore,
        fusion: str | Writer = "consensus",
        neighbours: int = NEIGHBOURS,
        prompt: str = PROMPT,
    ) -> None:
        if neighbours < 1:
            raise InputError(f"neighbours must be at least 1, not {neighbours}")
        if store.embeddings.shape[1] != encoder.card.embedding_dim:
            raise InputError(
                f"the store's embeddings have {store.embeddings.shape[1]} dimensions, those of {encoder.card.name} "
                f"{encoder.card.embedding_dim}: make the store again with this model"
            )
        if store.fingerprint and store.fingerprint != encoder.card.fingerprint:
            raise InputError(
                f"the store was embedded by {store.model} ({store.fingerprint}), not by {encoder.card.name} "
                f"({encoder.card.fingerprint}): make the store again with this model"
            )
        self.encoder, self.store = adapt(encoder), store
        self.neighbours, self.prompt = neighbours, prompt
        self.fusion: str = fusion if isinstance(fusion, str) else getattr(fusion, "__name__", "a function")
        self.writer: Writer | None = None
        if not isinstance(fusion, str) or fusion not in FUSIONS:
            self.writer = _writer(fusion)

    @property
    def name(self) -> str:
        """What it is called in outputs."""
        return f"recap of {self.encoder.card.name}, {self.fusion} of {self.neighbours}"

    @property
    def device(self) -> str:
        """Where the encoder computes, such as ``cpu``."""
        return self.encoder.device

    @property
    def fingerprint(self) -> str:
        """The encoder's: 16 hexadecimal digits."""
        return self.encoder.card.fingerprint

    def caption(
        self,
        photos: Sequence[ImageInput],
        config: DecodeConfig | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> list[PhotoCaptions]:
        """Captions of each photo; one that cannot be read, or for which your function fails, says why.

        Args:
            photos: paths, encoded bytes, PIL images, arrays or members of a tar.
            config: only its number of captions counts.
            progress: called with the number of photos done and of all.

        Returns:
            For each photo its captions, best first, without log-probabilities.
        """
        wanted = 1 if config is None else config.captions
        results: list[PhotoCaptions] = []
        for start in range(0, len(photos), BATCH):
            rows, reasons = self.encoder.encode_images_safely(photos[start : start + BATCH])
            results += self.of_embeddings(rows, reasons, wanted)
            if progress is not None:
                progress(len(results), len(photos))
        return results

    def of_embeddings(
        self, rows: Embeddings, reasons: dict[int, str] | None = None, wanted: int = 1
    ) -> list[PhotoCaptions]:
        """As :meth:`caption` for photos that are embedded already: unit rows ``[n, d]``, and why some are not."""
        reasons = reasons or {}
        good = [i for i in range(len(rows)) if i not in reasons]
        results = [PhotoCaptions([], [], reasons.get(i, "")) for i in range(len(rows))]
        if not good:
            return results
        found = self.store.nearest(rows[good], self.neighbours)
        ranked = consensus_order(self.store, found) if self.fusion == "consensus" else found
        for i, order in zip(good, ranked, strict=True):
            captions = list(dict.fromkeys(self.store.captions[j] for j in order))
            results[i] = (
                PhotoCaptions(captions[:wanted], [])
                if self.writer is None
                else self._written(captions, rows[i])
            )
        return results

    def _written(self, captions: list[str], photo: Embeddings) -> PhotoCaptions:
        """What the user's function makes of the captions, or why it makes nothing."""
        assert self.writer is not None
        prompt = self.prompt.replace("{captions}", "\n".join(f"- {caption}" for caption in captions))
        try:
            text = self.writer(captions, prompt)
        except Exception as error:  # a user's code fails as it likes
            return PhotoCaptions([], [], f"{self.fusion} failed: {type(error).__name__}: {error}")
        texts = [text] if isinstance(text, str) else list(text) if isinstance(text, (list, tuple)) else [text]
        clean = [" ".join(one.split()) for one in texts if isinstance(one, str) and one.strip()]
        if not clean:
            return PhotoCaptions([], [], f"{self.fusion} gave {text!r}, which is no caption")
        if len(clean) > 1:  # the best by aCLIPScore first
            prefix = self.encoder.card.text.prompt_prefix
            scores = self.encoder.encode_texts([prefix + one for one in clean]) @ photo
            clean = [clean[i] for i in np.argsort(-scores, kind="stable")]
        return PhotoCaptions(clean, [])


def consensus_order(store: CaptionStore, found: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of retrieved captions ``[m, k]`` by their mean CIDEr-D to the photo's other retrieved ones, best first.

    Document frequencies are the store's. Of equal ones the nearer to the photo comes first.
    """
    m, k = found.shape
    if k < 3:
        return found
    if m > BATCH:  # the words of every retrieved caption would be held at once
        parts = [consensus_order(store, found[start : start + BATCH]) for start in range(0, m, BATCH)]
        return np.concatenate(parts)
    words = [store.words[j] for j in found.ravel()]  # [m * k]
    photos = np.repeat(np.arange(m), k).tolist()
    groups: References = {row: words[row * k : (row + 1) * k] for row in range(m)}
    among = CiderReward(groups, store.frequencies).of_words(
        photos, words
    )  # the mean over all k, itself included
    places = list(range(m * k))
    alone = CiderReward({i: [words[i]] for i in places}, store.frequencies).of_words(places, words)
    scores = ((k * among - alone) / (k - 1)).reshape(m, k)
    return np.take_along_axis(found, np.argsort(-scores, axis=1, kind="stable"), axis=1)


def _writer(fusion: str | Writer) -> Writer:
    if not isinstance(fusion, str):
        return fusion
    if ":" not in fusion:
        raise InputError(
            f"no fusion {fusion!r}: choose {', '.join(FUSIONS)}, or name your own as module:attribute"
        )
    found: Any = resolve(fusion, "fusion")
    if not callable(found):
        raise InputError(
            f"fusion {fusion!r} is of type {type(found).__name__}, not a function of captions and a prompt"
        )
    return found  # type: ignore[no-any-return]
