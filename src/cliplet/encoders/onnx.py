"""The default encoder: a model folder run by ONNX Runtime, without PyTorch."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cached_property, partial
from pathlib import Path
from threading import Lock, Thread, current_thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.data.images import ImageInput, load_rgb, resize_rgb
from cliplet.data.text import scrub
from cliplet.encoders.batching import BatchedEncoder
from cliplet.encoders.card import ImageSpec, ModelCard
from cliplet.encoders.devices import read_precision, stored_precision
from cliplet.encoders.sessions import CPU, Session, open_session
from cliplet.errors import InputError, ModelError

FILES = ("card.json", "tokenizer.json", "image.onnx", "text.onnx")
"""What a model folder must hold."""
ACCELERATED_BATCH = 64
"""Images in a batch on another provider than the CPU's; halved where its memory does not suffice."""
_EXPORTS = {
    "fp32": "cliplet export MODEL OUT --fp32",
    "fp16": "cliplet export MODEL OUT --fp16",
    "int8": "cliplet export MODEL OUT --int8, with --calibrate PHOTOS for products in 8 bits",
    "bf16": "cliplet export MODEL OUT --fp16 (bf16 is for PyTorch models)",
}


class OnnxEncoder(BatchedEncoder):
    """A model folder: ``card.json``, ``tokenizer.json``, ``image.onnx``, ``text.onnx``.

    ``image.onnx`` takes ``pixels`` uint8 ``[n, size, size, 3]`` (RGB); ``text.onnx`` takes ``input_ids`` and
    ``attention_mask`` int64 ``[n, t]``; both give ``embedding`` float32 ``[n, d]``.
    """

    folder: Path

    def __init__(
        self,
        folder: str | Path,
        threads: int | None = None,
        batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        """Open ``folder``; the towers are loaded when first used.

        Args:
            folder: the model folder.
            threads: batches computed beside each other on the CPU; default one a core.
            batch_size: images in a batch; default 8 on the CPU, 64 elsewhere.
            device: where ONNX Runtime computes (:mod:`cliplet.encoders.providers`); default the CPU.

        Raises:
            InputError: this machine has no such device.
            ModelError: a file is missing or the card cannot be read.
        """
        self.folder = Path(folder)
        missing = [name for name in FILES if not (self.folder / name).is_file()]
        if missing:
            raise ModelError(f"{self.folder} is not a complete model folder: it has no {', '.join(missing)}")
        self.card = ModelCard.load(self.folder, fingerprint_of=self._fingerprint)
        self._asked = threads, batch_size
        self._place(device)

    @property
    def device(self) -> str:
        """Such as ``cpu``, ``cuda:0`` or ``openvino``."""
        return self._choice.device if self._choice else "cpu"

    @property
    def provider(self) -> str:
        """The execution provider of ONNX Runtime that runs both towers."""
        return self._choice.provider if self._choice else CPU

    @property
    def numerics(self) -> str:
        """The provider; empty for the CPU's own."""
        return self._choice.provider if self._choice else ""

    def to(self, device: str) -> None:
        """Run both towers elsewhere from now on."""
        self._place(device)

    def set_precision(self, precision: str) -> None:
        """Refuses any precision but that of the folder's weights (InputError)."""
        if stored_precision(self.card.precision) != {read_precision(precision)}:
            raise InputError(
                f"{self.card.name} is a model folder, whose precision is its own: {self.card.precision}; for "
                f"{precision} write another from its source: {_EXPORTS[precision]}"
            )

    def _place(self, device: str | None) -> None:
        """Choose the provider; on the CPU whole batches run beside each other, elsewhere one large one at a time."""
        choice = None
        if device not in (None, "cpu"):
            from cliplet.encoders.providers import choose_provider  # not at the packaged model's cold start

            choice = choose_provider(device, (self.folder / "image.onnx", self.folder / "text.onnx"))
        self._choice = choice if choice and choice.accelerated else None
        threads, batch_size = self._asked
        self.batch_size = batch_size or (ACCELERATED_BATCH if self._choice else 8)
        self.tower_threads = 1 if self._choice else threads or _cores()
        self._begin()

    def _begin(self) -> None:
        """Nothing is loaded yet in this process."""
        self._process, self._lock = os.getpid(), Lock()
        self._loading: dict[str, Future[Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_loading")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def preload(self) -> None:
        """Begin to load both towers and the tokeniser in the background, beside each other."""
        self._load("tokenizer.json", self._open_tokenizer)
        for name in ("text.onnx", "image.onnx"):
            self._load(name, partial(self._open_session, name))

    def load(self) -> None:
        """Load both towers and the tokeniser now.

        Raises:
            ModelError: a file is damaged, or does not fit the card.
        """
        self.preload()
        self._image_session, self._text_session, self._tokenizer  # noqa: B018

    def prepare_image(self, source: ImageInput) -> NDArray[np.uint8]:
        """Decode (a large JPEG at a fraction of its size) and resize to uint8 ``[size, size, 3]``."""
        return prepare_photo(source, self.card.image)

    def embed_images(self, prepared: Sequence[NDArray[np.uint8]]) -> NDArray[Any]:
        """Run ``image.onnx``."""
        return self._image_session.run(["embedding"], {"pixels": np.stack(prepared)})[0]

    def tokenize(self, texts: Sequence[str]) -> tuple[list[Any], NDArray[np.bool_]]:
        """Token ids with the end token kept; a text is cut when it overflows the context length."""
        encodings = self._tokenizer.encode_batch_fast([scrub(t) for t in texts])  # without offsets
        return [e.ids for e in encodings], np.array([bool(e.overflowing) for e in encodings], dtype=bool)

    def embed_tokens(self, tokens: Sequence[Sequence[int]]) -> NDArray[Any]:
        """Run ``text.onnx`` on a batch padded to its longest sequence."""
        longest = max(len(t) for t in tokens)
        ids = np.full((len(tokens), longest), self._pad_id, dtype=np.int64)  # [n, t]
        mask = np.zeros((len(tokens), longest), dtype=np.int64)  # [n, t]
        for row, sequence in enumerate(tokens):
            ids[row, : len(sequence)] = sequence
            mask[row, : len(sequence)] = 1
        return self._text_session.run(["embedding"], {"input_ids": ids, "attention_mask": mask})[0]

    @property
    def _image_session(self) -> Any:
        return self._load("image.onnx", partial(self._open_session, "image.onnx")).result()

    @property
    def _text_session(self) -> Any:
        return self._load("text.onnx", partial(self._open_session, "text.onnx")).result()

    @property
    def _tokenizer(self) -> Any:
        return self._load("tokenizer.json", self._open_tokenizer).result()

    def _load(self, name: str, load: Callable[[], Any]) -> "Future[Any]":
        """This process's one loading of a file, begun in a thread of its own when first asked for."""
        if self._process != os.getpid():
            self._begin()
        with self._lock:
            if name not in self._loading:
                future: Future[Any] = Future()
                self._loading[name] = future
                thread = Thread(target=_fulfil, args=(future, load))
                _LOADERS.add(thread)
                thread.start()
            return self._loading[name]

    def _open_tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        path = self.folder / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises plain Exception
            raise ModelError(f"{path} cannot be read: {error}") from error
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.card.text.context_length)
        return tokenizer

    def _open_session(self, name: str) -> Any:
        if self._choice:
            where = self._choice
            session = open_session(self.folder / name, 0, "", where.provider, where.options)
        else:  # whole batches run beside each other instead of threads inside one: faster for small towers
            proved = str(self.card.results.get("integer_products", "")).startswith("cannot saturate")
            session = open_session(self.folder / name, threads=1, exact=proved)
        size = self.card.image.size
        taken: dict[str, list[Any]] = {"pixels": ["n", size, size, 3]}
        if name == "text.onnx":
            taken = {"input_ids": ["n", "t"], "attention_mask": ["n", "t"]}
        _refuse_misfit(session, taken | {"embedding": ["n", self.card.embedding_dim]})
        return session

    @cached_property
    def _pad_id(self) -> int:
        pads = (self._tokenizer.token_to_id(name) for name in ("[PAD]", "<pad>", "<|endoftext|>"))
        return next((pad for pad in pads if pad is not None), 0)

    def _fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=8)
        for name in FILES[1:]:
            digest.update((self.folder / name).read_bytes())
        digest.update(repr((self.card.image, self.card.text)).encode())
        return digest.hexdigest()


def prepare_photo(source: ImageInput, spec: ImageSpec) -> NDArray[np.uint8]:
    """Decode (a large JPEG at a fraction of its size) and resize to uint8 ``[size, size, 3]``."""
    return resize_rgb(load_rgb(source, at_least=2 * spec.size), spec.size, spec.resize, spec.interpolation)


def _refuse_misfit(session: Session, expected: dict[str, list[Any]]) -> None:
    """Raise ModelError where a graph lacks these inputs and outputs; sides that it leaves open fit any number."""
    shapes = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}
    for name, wanted in expected.items():
        found = shapes.get(name)
        if (
            found is None
            or len(found) != len(wanted)
            or any(
                isinstance(a, int) and isinstance(b, int) and a != b
                for a, b in zip(found, wanted, strict=True)
            )
        ):
            raise ModelError(
                f"{session.name} does not fit its card.json: {name} is {found or 'missing'}, but {wanted} by the card; "
                "export the model again"
            )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_LOADERS: set[Thread] = set()
"""Threads that load something now."""


def _wait_for_loaders() -> None:
    """A child forked in the midst of an import or a loading would wait for its end for ever."""
    for thread in _LOADERS - {current_thread()}:
        if thread.is_alive():
            thread.join()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(before=_wait_for_loaders)


def _fulfil(future: "Future[Any]", load: Callable[[], Any]) -> None:
    try:
        future.set_result(load())
    except BaseException as error:
        future.set_exception(error)
    finally:
        _LOADERS.discard(current_thread())
