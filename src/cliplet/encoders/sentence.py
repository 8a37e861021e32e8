"""A sentence encoder as one half of a dual encoder: it embeds texts alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cliplet.data.images import ImageInput
from cliplet.data.text import scrub
from cliplet.encoders._torch_common import TOKENIZER_PROBE, TorchModelEncoder
from cliplet.encoders.card import ModelCard, TextSpec
from cliplet.errors import InputError, MissingExtraError, ModelError

if TYPE_CHECKING:
    from cliplet.models.sentence import SentenceTower

PACKAGED = ("minilm-l3", "minilm-l6", "mpnet")
"""Sentence encoders whose weights install with pip, by name."""


class SentenceEncoder(TorchModelEncoder):
    """Texts to embeddings; images are refused.

    Reference implementation: sentence-transformers, ``SentenceTransformer.encode``.
    """

    library = "sentence"
    sees = False

    def __init__(
        self,
        tower: "SentenceTower",
        tokenizer: Any,
        name: str,
        context: int = 128,
        prefix: str = "",
        batch_size: int = 32,
    ) -> None:
        """Wrap a tower.

        Args:
            tower: ids and mask ``[n, t]`` to ``[n, d]``.
            tokenizer: a ``tokenizers.Tokenizer``; its truncation is set to ``context``.
            name: shown in every output.
            context: longest sequence of tokens.
            prefix: text put before every caption under the ``paper`` preset.
            batch_size: half of the texts in one call.
        """
        from tokenizers import Tokenizer

        from cliplet.models.fingerprint import state_fingerprint

        self.model = tower.eval()
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(context)
        self.batch_size = batch_size
        self.card = ModelCard(
            name=name,
            embedding_dim=self.embed_tokens(self.tokenize(["a dog"])[0]).shape[1],
            text=TextSpec(context, prefix),
            description=f"{name}: a sentence encoder, of texts alone.",
            fingerprint_of=lambda: state_fingerprint(
                self.model, tower.poolings, context, self.tokenize([TOKENIZER_PROBE])[0]
            ),
        )

    @classmethod
    def from_name(cls, name: str) -> "SentenceEncoder":
        """Load one.

        Args:
            name: a folder in the layout of sentence-transformers, or ``minilm-l3``, ``minilm-l6`` or ``mpnet``, whose
                weights install with pip (see :mod:`cliplet.models.pretrained`).

        Raises:
            ModelError: no such folder, or it cannot be read.
            MissingExtraError: PyTorch or Transformers is not installed.
        """
        try:
            from cliplet.models import sentence
            from cliplet.models.pretrained import sentence_model, sentence_tokenizer
        except ImportError as error:
            raise MissingExtraError(f"a sentence encoder ({error})", "train") from error
        if name in PACKAGED:
            model = sentence_model(name)  # type: ignore[arg-type]
            tower = sentence.SentenceTower(model).eval()
            return cls(tower, sentence_tokenizer(model), name, context=64)
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise ModelError(
                f"{name}: there is no such folder of sentence-transformers; name one, or {', '.join(PACKAGED)}; "
                "a model of the hub is first saved with SentenceTransformer(NAME).save(FOLDER)"
            )
        parts = sentence.read_sentence_folder(folder)
        return cls(parts.tower, parts.tokenizer, f"st:{folder.name}", parts.context, parts.prefix)

    def prepare_image(self, source: ImageInput) -> Any:
        """Refuse it (InputError)."""
        raise InputError(f"{self.card.name} embeds texts alone; align it with an image encoder")

    def tokenize(self, texts: Sequence[str]) -> tuple[list[Any], NDArray[np.bool_]]:
        """Token ids with the end token kept, and which texts were cut."""
        encodings = self.tokenizer.encode_batch([scrub(t) for t in texts])
        return [e.ids for e in encodings], np.array([bool(e.overflowing) for e in encodings], dtype=bool)

    def embed_tokens(self, tokens: Sequence[Any]) -> NDArray[Any]:
        """Run the tower on a batch padded to its longest sequence: ``[n, d]``, any norm."""
        import torch

        from cliplet.encoders.torch import pad_tokens

        ids, mask = (torch.from_numpy(a).to(self.device) for a in pad_tokens(tokens))
        with torch.inference_mode():
            return self.model(ids, mask).float().cpu().numpy()  # type: ignore[no-any-return]
