"""A captioner's folder: ``captioner.json``, ``tokenizer.json``, ``grid.onnx``, ``decoder.onnx``."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cliplet.captioner.decoding import DecodeConfig, Limits
from cliplet.encoders.card import ImageSpec
from cliplet.errors import InputError, ModelError

FORMAT = 1
CARD = "captioner.json"
FILES = (CARD, "tokenizer.json", "grid.onnx", "decoder.onnx")
"""What a captioner's folder holds."""


@dataclass(frozen=True)
class CaptionerCard:
    """What a captioner says of itself; ``captioner.json`` in its folder."""

    name: str
    """Name shown in every output."""
    start_id: int
    """Piece that captions start with."""
    end_id: int
    """Piece that ends a caption."""
    max_tokens: int
    """Longest caption in tokens, the end included."""
    image: ImageSpec = field(default_factory=ImageSpec)
    """How photos become the tower's input."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How it decodes when nothing else is asked for."""
    description: str = ""
    """One paragraph: what it is."""
    license: str = ""
    """Licence of the weights."""
    precision: str = "fp32"
    """Stored and computed precision."""
    training: dict[str, Any] = field(default_factory=dict)
    """What it was trained on and how."""
    results: dict[str, Any] = field(default_factory=dict)
    """Measured results."""

    @property
    def limits(self) -> Limits:
        """What decoding needs to know."""
        return Limits(self.start_id, self.end_id, self.max_tokens)

    def save(self, folder: str | Path) -> None:
        """Write ``captioner.json``."""
        text = json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2, ensure_ascii=False)
        (Path(folder) / CARD).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "CaptionerCard":
        """Read ``captioner.json``.

        Raises:
            ModelError: a file is missing, or the card cannot be read.
        """
        folder = Path(folder)
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise ModelError(
                f"{folder} is not a captioner's folder: it has no {', '.join(missing)}; "
                "`cliplet caption train` writes one"
            )
        path = folder / CARD
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            if raw.pop("format") != FORMAT:
                raise ModelError(
                    f"{path} is not of format {FORMAT}; train or export it again with this version"
                )
            image, decode = ImageSpec(**raw.pop("image")), DecodeConfig(**raw.pop("decode"))
            return cls(image=image, decode=decode, **raw)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from error


def fingerprint(folder: str | Path) -> str:
    """16 hexadecimal digits that change whenever the weights or the vocabulary change."""
    digest = hashlib.blake2b(digest_size=8)
    for name in FILES[1:]:
        digest.update((Path(folder) / name).read_bytes())
    return digest.hexdigest()
