"""A captioner on ONNX Runtime: photos in, captions out, without PyTorch."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.captioner.decoding import DecodeConfig, Ints, decode
from cliplet.captioner.folder import CaptionerCard, fingerprint
from cliplet.data.images import ImageInput, load_rgb, resize_rgb
from cliplet.encoders.batching import decoding_threads
from cliplet.encoders.devices import read_precision, stored_precision
from cliplet.encoders.providers import choose_provider
from cliplet.encoders.sessions import Session, open_session
from cliplet.errors import InputError, ModelError

BATCH = 16


@dataclass(frozen=True)
class PhotoCaptions:
    """What came of one photo."""

    captions: list[str]
    """The captions, best first; empty if the photo failed."""
    log_prob: list[float]
    """Log-probability of each."""
    reason: str | None = None
    """Why there is no caption; None if there is."""


class Captioner:
    """A captioner's folder.

    Example::

        captioner = Captioner("runs/captioner/model")
        captioner.caption(["dog.jpg"])[0].captions     # ['a dog runs on the beach']
    """

    def __init__(self, folder: str | Path, threads: int | None = None, device: str | None = None) -> None:
        """Open ``folder``.

        Args:
            folder: what ``cliplet caption train`` wrote.
            threads: threads inside one call; default as many as cores.
            device: where ONNX Runtime computes (:mod:`cliplet.encoders.providers`); default the CPU.

        Raises:
            InputError: this machine has no such device.
            ModelError: a file is missing or broken.
        """
        self.folder = Path(folder)
        self.card = CaptionerCard.load(self.folder)
        graphs = [self.folder / name for name in ("grid.onnx", "decoder.onnx")]
        self.choice = choose_provider(device, [graph for graph in graphs if graph.is_file()])
        """The device, and ONNX Runtime's provider that runs both graphs there."""
        self._tokenizer = _open_tokenizer(self.folder / "tokenizer.json")
        place = self.choice.provider, self.choice.options
        grid, decoder = (open_session(graph, threads or 0, "", *place) for graph in graphs)
        self._grid, self._steps = grid, OnnxSteps(decoder)

    def check_precision(self, precision: str) -> None:
        """Refuse any precision but that of the folder's weights (InputError)."""
        if stored_precision(self.card.precision) != {read_precision(precision)}:
            raise InputError(
                f"{self.card.name} is a captioner's folder, whose precision is its own: {self.card.precision}; for "
                "another train or finish it with the recipe's setting export"
            )

    @property
    def name(self) -> str:
        """Its name in outputs."""
        return self.card.name

    @property
    def device(self) -> str:
        """Where ONNX Runtime computes, such as ``cpu``."""
        return str(self.choice.device)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of weights and vocabulary."""
        return fingerprint(self.folder)

    def caption(
        self,
        photos: Sequence[ImageInput],
        config: DecodeConfig | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> list[PhotoCaptions]:
        """Captions of each photo; one that cannot be read has none and says why.

        Args:
            photos: paths, encoded bytes, PIL images, arrays or members of a tar.
            config: how to decode; the model's own way when not given.
            progress: called with the number of photos done and of all.
        """
        chosen = config or self.card.decode
        results: list[PhotoCaptions] = []
        with ThreadPoolExecutor(decoding_threads()) as pool:
            for start in range(0, len(photos), BATCH):
                prepared = list(pool.map(self._prepare, photos[start : start + BATCH]))
                results += self._caption_batch(prepared, start, chosen)
                if progress is not None:
                    progress(len(results), len(photos))
        return results

    def _caption_batch(
        self, prepared: Sequence[NDArray[np.uint8] | str], first: int, config: DecodeConfig
    ) -> list[PhotoCaptions]:
        good = [i for i, pixels in enumerate(prepared) if not isinstance(pixels, str)]
        results = [PhotoCaptions([], [], p if isinstance(p, str) else "") for p in prepared]
        if good:
            memory = self.memory(np.stack([prepared[i] for i in good]))
            keys = [first + i for i in good]
            for i, found in zip(
                good, decode(self._steps, memory, self.card.limits, config, keys), strict=True
            ):
                results[i] = PhotoCaptions(self.say(found.tokens), found.log_prob)
        return results

    def memory(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the decoder looks at: uint8 ``[n, size, size, 3]`` -> ``[n, L, 2, N, D]``."""
        return self._grid.run(["memory"], {"pixels": pixels})[0]  # type: ignore[no-any-return]

    def say(self, captions: Sequence[Sequence[int]]) -> list[str]:
        """Pieces -> captions."""
        found: list[str] = self._tokenizer.decode_batch([list(c) for c in captions], skip_special_tokens=True)
        return [" ".join(text.split()) for text in found]

    def _prepare(self, photo: ImageInput) -> NDArray[np.uint8] | str:
        """Pixels, or why there are none."""
        spec = self.card.image
        try:
            image = load_rgb(photo, at_least=2 * spec.size)
            return np.asarray(resize_rgb(image, spec.size, spec.resize, spec.interpolation))
        except InputError as error:
            return str(error)


class OnnxSteps:
    """``decoder.onnx`` as :mod:`cliplet.captioner.decoding` steps it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        shape = next(i.shape for i in session.get_inputs() if i.name == "past")  # [L, 2, n, k, t, D]
        self.layers, self.width = int(shape[0]), int(shape[5])

    def start(self, memory: Any, hypotheses: int) -> NDArray[np.float32]:
        """An empty cache."""
        return np.zeros((self.layers, 2, len(memory), hypotheses, 0, self.width), dtype=np.float32)

    def step(self, memory: Any, tokens: Ints, past: Any) -> tuple[NDArray[np.float32], Any]:
        """Logits ``[n, k, V]`` and the longer cache."""
        feed = {"memory": memory, "tokens": tokens, "past": past}
        logits, present = self.session.run(["logits", "present"], feed)
        return logits, present

    def photos(self, memory: Any, past: Any, rows: Ints) -> tuple[Any, Any]:
        """Only these photos."""
        return memory[rows], past[:, :, rows]

    def hypotheses(self, past: Any, parents: Ints) -> Any:
        """The cache of hypotheses that continue ``parents`` ``[n, k]``."""
        return past[:, :, np.arange(len(parents))[:, None], parents]


def _open_tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise ModelError(f"{path} cannot be read: {error}") from error
