"""Models of open_clip in training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cliplet.encoders.open_clip import OpenClipEncoder, stretched_config
from cliplet.errors import ModelError
from cliplet.models.dense import open_clip_maps
from cliplet.models.open_clip_text import encode_short
from cliplet.models.positions import lengthen_open_clip
from cliplet.training.dclip.trainable.base import TrainableClip, write_about


class TrainableOpenClip(TrainableClip):
    """A model of open_clip."""

    released = ("visual.transformer.resblocks.*.attn.*", "visual.proj")
    image_prefix = "visual."

    def __init__(self, encoder: OpenClipEncoder, architecture: str) -> None:
        self.encoder: OpenClipEncoder = encoder
        self.model = encoder.model
        self.architecture = architecture
        self._config: dict[str, Any] | None = None
        settings = self.model.visual.preprocess_cfg
        self.mean_std = settings["mean"], settings["std"]

    def pixels(self, images: Sequence[Any]) -> Tensor:
        """``[n, 3, h, w]``."""
        return torch.stack([self.encoder.prepare_image(i) for i in images])

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """``input_ids`` at the full context length; the mask counts up to the end token."""
        ids = torch.stack(list(self.encoder.tokenize(texts)[0]))
        length = ids.argmax(dim=1) + 1  # CLIP's end token has the largest id
        mask = (torch.arange(ids.shape[1])[None] < length[:, None]).long()
        return {"input_ids": ids, "attention_mask": mask}

    def token(self, number: int) -> str:
        """A token as text; its number where the library's tokeniser cannot tell."""
        decode = getattr(self.encoder.tokenizer, "decode", str)
        return str(decode([number])).strip()

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """``[n, d]``; open_clip's text tower needs no mask."""
        return encode_short(self.model, input_ids)

    def projected_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """After the last LayerNorm and through ``text_projection``, ``[n, t, d]``."""
        text = getattr(self.model, "text", self.model)  # open_clip's CustomTextCLIP, and its CLIP
        norm, projection = (getattr(text, name, None) for name in ("ln_final", "text_projection"))
        if norm is None or projection is None:
            raise ModelError(f"{self.encoder.card.name} gives no token states; use spans = 'phrases'")
        kept: list[Tensor] = []
        hook = norm.register_forward_hook(lambda *call: kept.append(call[2]))
        try:
            self.model.encode_text(input_ids)
        finally:
            hook.remove()
        return projection(kept[0]) if isinstance(projection, nn.Module) else kept[0] @ projection

    def _stretch(self, length: int) -> None:
        self._config = stretched_config(self.model, self.architecture, length)
        lengthen_open_clip(self.model, length)
        self.encoder.lengthen(length)

    def image_maps(self, columns: Mapping[str, Tensor], first: int, quick: bool = False) -> Tensor:
        """See :meth:`TrainableClip.image_maps`: a vision transformer's patches, projected already."""
        maps = open_clip_maps(self.model.visual, columns["pixels"])
        return super().image_maps(columns, first, quick) if maps is None else maps

    def save(
        self, folder: Path, name: str, license: str, training: dict[str, Any], results: dict[str, Any]
    ) -> None:
        """Weights as safetensors, to be loaded as ``open_clip:ARCHITECTURE/FOLDER``; ``dclip.json`` says so.

        With other positions than the architecture's it comes with its configuration, as ``open_clip:FOLDER``.
        """
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().cpu().contiguous().clone() for k, v in self.model.state_dict().items()}
        save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
        load = f"open_clip:{self.architecture}/{{}}" if self._config is None else "open_clip:{}"
        if self._config is not None:  # no longer the architecture of that name
            text = json.dumps(self._config, indent=2) + "\n"
            (folder / "open_clip_config.json").write_text(text, encoding="utf-8")
        write_about(folder, load, name=name, license=license, training=training, results=results)
