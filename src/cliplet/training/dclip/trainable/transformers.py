"""CLIP and SigLIP models of Transformers in training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cliplet.encoders.transformers import TransformersEncoder
from cliplet.errors import ModelError
from cliplet.training.dclip.trainable.base import TrainableClip, write_about


class TrainableTransformers(TrainableClip):
    """A two-tower model of Transformers: CLIP, SigLIP, and their like with images of one size.

    ``released`` stands for the image tower's self-attention and what comes last of it: CLIP's ``visual_projection``,
    SigLIP's attention pooling.
    """

    image_prefix = ("vision_model.", "visual_projection.")

    def __init__(self, encoder: TransformersEncoder) -> None:
        """Wrap an encoder.

        Raises:
            ModelError: its image tower takes more than pixels (images of any size, as SigLIP 2's NaFlex).
        """
        self.encoder: TransformersEncoder = encoder
        self.model = encoder.model
        taken = encoder.prepare_image(Image.new("RGB", (32, 32)))
        if set(taken) != {"pixel_values"}:
            raise ModelError(
                f"{encoder.card.name} takes {', '.join(sorted(taken))} of an image and cannot be tuned here; take a "
                "model for images of one size"
            )
        names = [name for name, _ in self.model.named_parameters()]
        last = "visual_projection.*", "vision_model.head.*"
        ends = [p for p in last if any(name.startswith(p[:-1]) for name in names)]
        self.released = ("vision_model.encoder.layers.*.self_attn.*", *ends)
        settings = encoder.image_processor.to_dict()
        normal = settings.get("do_normalize", True)
        self.mean_std = (
            (tuple(settings["image_mean"]), tuple(settings["image_std"]))
            if normal
            else ((0.0,) * 3, (1.0,) * 3)
        )
        self._masked = "attention_mask" in encoder.pad(encoder.tokenize([""])[0])

    def pixels(self, images: Sequence[Any]) -> Tensor:
        """``[n, 3, h, w]``."""
        return torch.cat([self.encoder.prepare_image(i)["pixel_values"] for i in images])

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """``input_ids`` as the model was trained: CLIP to the longest text, SigLIP to its whole context."""
        rows = self.encoder.tokenize(texts)[0]
        ids = self.encoder.pad(rows)["input_ids"]
        length = torch.tensor([len(row) for row in rows])
        return {
            "input_ids": ids,
            "attention_mask": (torch.arange(ids.shape[1])[None] < length[:, None]).long(),
        }

    def token(self, number: int) -> str:
        """A token as text."""
        return str(self.encoder.tokenizer.decode([number])).strip()

    def encode_image(self, pixels: Tensor) -> Tensor:
        """``[n, d]``."""
        return _embedding(self.model.get_image_features(pixel_values=pixels))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """``[n, d]``; SigLIP reads padding too, as it was trained."""
        return _embedding(self.model.get_text_features(**self._read(input_ids, attention_mask)))

    def projected_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """After the last LayerNorm and through ``text_projection``, ``[n, t, d]``; SigLIP has no such projection."""
        projection = getattr(self.model, "text_projection", None)
        if projection is None:
            raise ModelError(f"{self.encoder.card.name} gives no token states; use spans = 'phrases'")
        states = self.model.text_model(**self._read(input_ids, attention_mask)).last_hidden_state
        return projection(states)  # type: ignore[no-any-return]

    def save(
        self, folder: Path, name: str, license: str, training: dict[str, Any], results: dict[str, Any]
    ) -> None:
        """A folder in the hub's layout, which Transformers and ``cliplet.load`` open; ``dclip.json`` tells of it."""
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(folder)
        self.encoder.processor.save_pretrained(folder)
        write_about(folder, "{}", name=name, license=license, training=training, results=results)

    def _read(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """What the library's own tokeniser would give of these tokens."""
        given = {"input_ids": input_ids}
        return {**given, "attention_mask": attention_mask} if self._masked else given


def _embedding(output: Any) -> Tensor:
    """``[n, d]``; Transformers 5 wraps it in an output object."""
    return output if isinstance(output, Tensor) else output.pooler_output
