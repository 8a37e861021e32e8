"""Any encoder's two towers as modules with the model folder's inputs and outputs."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from cliplet.data.images import resize_rgb
from cliplet.encoders.base import Encoder, adapt
from cliplet.encoders.card import ModelCard
from cliplet.errors import ModelError
from cliplet.export.attention import plain_attention
from cliplet.export.tokenizers import clip_bpe_tokenizer, fast_tokenizer


class PixelTower(nn.Module):
    """uint8 pixels ``[n, H, W, 3]`` -> unit-norm embedding ``[n, d]``."""

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, mean: Any, std: Any) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32) * 255)
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float32) * 255)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise, encode, bring to length 1."""
        x = pixels.permute(0, 3, 1, 2).float()  # [n, 3, H, W]
        # (x - mean) / std. ONNX Runtime moves other forms back before the transposition, where they are slow.
        x = F.batch_norm(x, self.mean, self.std**2, eps=0.0)
        return F.normalize(self.body(x).float(), dim=-1)


class TokenTower(nn.Module):
    """Ids and mask ``[n, t]`` -> unit-norm embedding ``[n, d]``.

    Args:
        body: takes ids and mask.
        pad_to: length that the body needs; 0 where a shorter batch gives the same result.
        pad_id: what the body expects after the end of a text.
    """

    def __init__(self, body: nn.Module, pad_to: int, pad_id: int) -> None:
        super().__init__()
        self.body, self.pad_to, self.pad_id = body, pad_to, pad_id

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Fill up, encode, bring to length 1."""
        ids = torch.where(attention_mask > 0, input_ids, self.pad_id)
        mask = attention_mask
        if self.pad_to:
            rows = ids.shape[0]
            ids = torch.cat([ids, ids.new_full((1, self.pad_to), self.pad_id).expand(rows, -1)], dim=1)
            mask = torch.cat([mask, mask.new_zeros((1, self.pad_to)).expand(rows, -1)], dim=1)
            ids, mask = ids[:, : self.pad_to], mask[:, : self.pad_to]
        return F.normalize(self.body(ids, mask).float(), dim=-1)


@dataclass
class Towers:
    """What a model folder is written from."""

    image: PixelTower
    """uint8 pixels in."""
    text: TokenTower
    """Ids and mask in."""
    tokenizer: Any
    """A ``tokenizers.Tokenizer``."""
    card: ModelCard
    """How inputs are prepared."""
    by_token: bool = False
    """Whether calibrated products of a transformer get a scale for each token: other libraries' models."""


class _Call(nn.Module):
    """A method of a model as a module."""

    def __init__(self, model: nn.Module, function: Any) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *inputs: Tensor) -> Tensor:
        """Call it; an output object of Transformers gives its pooled output."""
        output = self.function(self.model, *inputs)
        return output if isinstance(output, Tensor) else output.pooler_output


def _open_clip_image(model: Any, x: Tensor) -> Tensor:
    with plain_attention():
        found: Tensor = model.encode_image(x)
        return found


class _OpenClipText(nn.Module):
    """open_clip's text tower on sequences shorter than its context: the library adds all positions and the whole mask.

    Args:
        model: with ``encode_text``.
        context: its number of positions.
    """

    def __init__(self, model: Any, context: int) -> None:
        super().__init__()
        self.model = model
        self.owners: list[tuple[dict[str, Any], str]] = []
        for owner in (model, getattr(model, "text", None)):
            if isinstance(owner, nn.Module):
                for values, name in (
                    (owner._parameters, "positional_embedding"),
                    (owner._buffers, "attn_mask"),
                ):
                    value = values.get(name)
                    if value is not None and value.shape[0] == context:
                        self.owners.append((values, name))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Run with the positions that the ids have."""
        first = (
            torch.cumsum(torch.ones_like(ids[0]), dim=0) - 1
        )  # [t]: the tracer makes a constant of a slice's length
        whole = [values[name] for values, name in self.owners]
        try:
            for values, name in self.owners:
                values[name] = values[name][first][:, first] if name == "attn_mask" else values[name][first]
            with plain_attention():
                found: Tensor = self.model.encode_text(ids)
            return found
        finally:
            for (values, name), value in zip(self.owners, whole, strict=True):
                values[name] = value


def read_towers(encoder: Encoder) -> Towers:
    """The towers of one of cliplet's PyTorch encoders.

    Raises:
        ModelError: an encoder of another kind, or preprocessing that a model folder cannot describe.
    """
    library = adapt(encoder).library
    if library in _READERS:
        return _READERS[library](encoder)
    raise ModelError(
        f"{encoder.card.name} cannot be exported: it is a {type(encoder).__name__}, not a model of PyTorch towers, "
        "open_clip or Transformers"
    )


def _own(encoder: Any) -> Towers:
    spec = encoder.model.config.image
    return Towers(
        PixelTower(encoder.model.image.eval(), spec.mean, spec.std),
        TokenTower(encoder.model.text.eval(), 0, 0),
        encoder.tokenizer,
        encoder.card,
    )


def _open_clip(encoder: Any) -> Towers:
    settings = getattr(encoder.model.visual, "preprocess_cfg", {})
    mean = settings.get("mean") or (0.48145466, 0.4578275, 0.40821073)
    std = settings.get("std") or (0.26862954, 0.26130258, 0.27577711)
    _refuse_other_pixels(encoder, lambda pixels: pixels, mean, std)
    tokenizer, pad_id = (
        fast_tokenizer(encoder.tokenizer)
        if hasattr(encoder.tokenizer, "tokenizer")
        else (clip_bpe_tokenizer(encoder.tokenizer), 0)
    )
    text = _OpenClipText(encoder.model, encoder.card.text.context_length)
    return Towers(
        PixelTower(_Call(encoder.model, _open_clip_image), mean, std),
        _trimmed_if_lossless(text, encoder.card.text.context_length, pad_id, encoder),
        tokenizer,
        _own_prefix(encoder.card),
        by_token=True,
    )


def _transformers(encoder: Any) -> Towers:
    settings = encoder.image_processor.to_dict()
    model = encoder.model
    siglip = "siglip" in model.config.model_type
    if "naflex" in str(type(encoder.image_processor)).lower() or model.config.model_type == "siglip2":
        raise ModelError(f"{encoder.card.name}: images of varying patch counts cannot be exported")
    mean, std = settings.get("image_mean", 0), settings.get("image_std", 1)
    _refuse_other_pixels(encoder, lambda prepared: prepared["pixel_values"][0], mean, std)

    masked = "attention_mask" in encoder.tokenizer.model_input_names  # SigLIP lets padding take part

    def encode(model: Any, ids: Tensor, mask: Tensor) -> Any:
        return model.get_text_features(input_ids=ids, attention_mask=mask if masked else None)

    tokenizer, pad_id = fast_tokenizer(encoder)
    text = _Call(model, encode)
    context = encoder.card.text.context_length
    return Towers(
        PixelTower(
            _Call(model, lambda model, x: model.get_image_features(pixel_values=x)),
            mean,
            std,
        ),
        TokenTower(text, context if siglip else 0, pad_id),
        tokenizer,
        _own_prefix(encoder.card),
        by_token=True,
    )


def _refuse_other_pixels(encoder: Any, pixels_of: Callable[[Any], Tensor], mean: Any, std: Any) -> None:
    """Raise ModelError where a library prepares photos as no card can say, judged by the pixels of one image.

    Its blocks have sharp edges and its cropped margin is odd, so that another filter, size or crop shows; the same
    resize on Pillow and on torchvision differs by a level or two.
    """
    spec, rng = encoder.card.image, np.random.default_rng(0)
    blocks = Image.fromarray(rng.integers(0, 256, (9, 13, 3), dtype=np.uint8))
    image = blocks.resize((2 * spec.size + 30, 2 * spec.size), Image.Resampling.NEAREST)
    theirs = pixels_of(encoder.prepare_image(image)).float().cpu()  # [3, h, w]
    ours = torch.from_numpy(resize_rgb(image, spec.size, spec.resize, spec.interpolation).copy())  # [h, w, 3]
    if theirs.shape == (3, spec.size, spec.size):
        levels = (theirs.permute(1, 2, 0) * torch.as_tensor(std) + torch.as_tensor(mean)) * 255
        if (levels - ours).abs().max() < 8:
            return
    raise ModelError(
        f"{encoder.card.name} cannot be exported: its library gives other pixels {list(theirs.shape)} than "
        f"{spec.resize} to {spec.size}, {spec.interpolation}, which is how a model folder would prepare photos"
    )


_READERS: dict[str, Callable[[Any], Towers]] = {
    "cliplet": _own,
    "open_clip": _open_clip,
    "transformers": _transformers,
}
"""How each library's encoder is read."""


def _own_prefix(card: ModelCard) -> ModelCard:
    """The card of another library's model, as the card of a folder of its own."""
    return dataclasses.replace(card, fingerprint_of=None)


def _trimmed_if_lossless(text: nn.Module, context: int, pad_id: int, encoder: Any) -> TokenTower:
    """Run short batches short where that changes nothing (causal CLIP), and fill them up elsewhere."""
    tokens, _ = encoder.tokenize(["a dog on the beach"])
    full = torch.stack(list(tokens))  # [1, context]
    length = int((full[0] != pad_id).sum())
    mask = torch.ones_like(full)
    with torch.inference_mode():
        whole = text(full, mask)
        try:
            short = text(full[:, :length], mask[:, :length])
        except (RuntimeError, ValueError):
            return TokenTower(text, context, pad_id)
    same = torch.allclose(F.normalize(whole, dim=-1), F.normalize(short, dim=-1), atol=1e-5)
    return TokenTower(text, 0 if same else context, pad_id)
