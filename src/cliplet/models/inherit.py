"""Start a student from its teacher: patch convolution, class token, positions, word embedding, whole layers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cliplet.errors import InputError, ModelError
from cliplet.models.multiplexed import MultiplexedBlock
from cliplet.models.text import TextTower
from cliplet.models.vision import VisionTower


@dataclass
class LayerWeights:
    """One transformer layer in our layout (``[out, in]`` matrices; qkv stacked)."""

    norm1: tuple[Tensor, Tensor]
    """Weight and bias of the LayerNorm before the attention."""
    qkv: tuple[Tensor, Tensor]
    """``[3D, D]`` and ``[3D]``."""
    proj: tuple[Tensor, Tensor]
    """``[D, D]`` and ``[D]``."""
    norm2: tuple[Tensor, Tensor]
    """Weight and bias of the LayerNorm before the MLP."""
    fc1: tuple[Tensor, Tensor]
    """``[H, D]`` and ``[H]``."""
    fc2: tuple[Tensor, Tensor]
    """``[D, H]`` and ``[D]``."""


@dataclass
class TowerWeights:
    """What a teacher's tower has to give."""

    positions: Tensor
    """``[1 + G * G, D]`` or ``[T, D]``."""
    norm: tuple[Tensor, Tensor]
    """The last LayerNorm."""
    projection: Tensor
    """``[d, D]``."""
    layers: list[LayerWeights] = field(default_factory=list)
    """From the input to the output."""
    patch: Tensor | None = None
    """``[D, 3, P, P]``, image towers."""
    class_token: Tensor | None = None
    """``[D]``, image towers."""
    embedding: Tensor | None = None
    """``[V, D]``, text towers."""


def _pair(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a module."""
    return module.weight.detach(), module.bias.detach()  # type: ignore[union-attr, operator, return-value]


def read_open_clip(model: Any) -> tuple[TowerWeights, TowerWeights]:
    """Image and text weights of a CLIP of open_clip (architectures of plain transformers)."""

    def layers(blocks: Any) -> list[LayerWeights]:
        return [
            LayerWeights(
                norm1=_pair(b.ln_1),
                qkv=(b.attn.in_proj_weight.detach(), b.attn.in_proj_bias.detach()),
                proj=_pair(b.attn.out_proj),
                norm2=_pair(b.ln_2),
                fc1=_pair(b.mlp.c_fc),
                fc2=_pair(b.mlp.c_proj),
            )
            for b in blocks
        ]

    try:
        visual, text = model.visual, getattr(model, "text", model)
        image_weights = TowerWeights(
            positions=visual.positional_embedding.detach(),
            norm=_pair(visual.ln_post),
            projection=visual.proj.detach().T,
            layers=layers(visual.transformer.resblocks),
            patch=visual.conv1.weight.detach(),
            class_token=visual.class_embedding.detach(),
        )
        text_weights = TowerWeights(
            positions=text.positional_embedding.detach(),
            norm=_pair(text.ln_final),
            projection=text.text_projection.detach().T,
            layers=layers(text.transformer.resblocks),
            embedding=text.token_embedding.weight.detach(),
        )
    except AttributeError as error:
        raise ModelError(f"this open_clip model is not a pair of plain transformers: {error}") from error
    return image_weights, text_weights


def read_transformers_clip(model: Any) -> tuple[TowerWeights, TowerWeights]:
    """Image and text weights of Transformers' ``CLIPModel``."""

    def layers(encoder: Any) -> list[LayerWeights]:
        found = []
        for b in encoder.layers:
            a = b.self_attn
            qkv = [_pair(p) for p in (a.q_proj, a.k_proj, a.v_proj)]
            found.append(
                LayerWeights(
                    norm1=_pair(b.layer_norm1),
                    qkv=(torch.cat([w for w, _ in qkv]), torch.cat([c for _, c in qkv])),
                    proj=_pair(a.out_proj),
                    norm2=_pair(b.layer_norm2),
                    fc1=_pair(b.mlp.fc1),
                    fc2=_pair(b.mlp.fc2),
                )
            )
        return found

    try:
        vision, text = model.vision_model, model.text_model
        image_weights = TowerWeights(
            positions=vision.embeddings.position_embedding.weight.detach(),
            norm=_pair(vision.post_layernorm),
            projection=model.visual_projection.weight.detach(),
            layers=layers(vision.encoder),
            patch=vision.embeddings.patch_embedding.weight.detach(),
            class_token=vision.embeddings.class_embedding.detach(),
        )
        text_weights = TowerWeights(
            positions=text.embeddings.position_embedding.weight.detach(),
            norm=_pair(text.final_layer_norm),
            projection=model.text_projection.weight.detach(),
            layers=layers(text.encoder),
            embedding=text.embeddings.token_embedding.weight.detach(),
        )
    except AttributeError as error:
        raise ModelError(f"this model is not laid out like Transformers' CLIPModel: {error}") from error
    return image_weights, text_weights


def read_transformers_bert(model: Any) -> TowerWeights:
    """Text weights of Transformers' ``BertModel``, for a student with ``norm="post"`` and ``qkv_bias``.

    BERT has no projection: that part is the identity. The type embedding of a single text joins the positions.
    """
    try:
        words = model.embeddings
        layers = [
            LayerWeights(
                norm1=_pair(b.attention.output.LayerNorm),
                qkv=(
                    torch.cat([p.weight.detach() for p in _bert_qkv(b)]),
                    torch.cat([p.bias.detach() for p in _bert_qkv(b)]),
                ),
                proj=_pair(b.attention.output.dense),
                norm2=_pair(b.output.LayerNorm),
                fc1=_pair(b.intermediate.dense),
                fc2=_pair(b.output.dense),
            )
            for b in model.encoder.layer
        ]
        return TowerWeights(
            positions=words.position_embeddings.weight.detach()
            + words.token_type_embeddings.weight.detach()[0],
            norm=_pair(words.LayerNorm),
            projection=torch.eye(words.word_embeddings.weight.shape[1]),
            layers=layers,
            embedding=words.word_embeddings.weight.detach(),
        )
    except AttributeError as error:
        raise ModelError(f"this Transformers model is not laid out like BertModel: {error}") from error


def _bert_qkv(block: Any) -> tuple[Any, Any, Any]:
    """The three projections of a BERT layer."""
    attention = block.attention.self
    return attention.query, attention.key, attention.value


def _copy(target: Tensor, source: Tensor, what: str) -> None:
    """Copy, or say which part has another shape."""
    if target.shape != source.shape:
        raise InputError(
            f"cannot inherit {what}: the student's is {list(target.shape)}, the teacher's {list(source.shape)}"
        )
    target.copy_(source.to(target))


def _copy_module(module: nn.Module, pair: tuple[Tensor, Tensor], what: str) -> None:
    """Copy a weight and, where the student has one, a bias."""
    assert isinstance(module.weight, Tensor)
    _copy(module.weight, pair[0], what + " weight")
    if module.bias is not None:
        assert isinstance(module.bias, Tensor)
        _copy(module.bias, pair[1], what + " bias")


@torch.no_grad()
def inherit_layers(
    blocks: Sequence[nn.Module], layers: Sequence[LayerWeights], chosen: Sequence[int]
) -> None:
    """Copy teacher layers into stored blocks, ``chosen[i]`` into block i.

    The shared matrices and the LayerNorms of every repeat come from that layer; head mixers stay as they are (the
    identity in a new model). A student without qkv bias drops the teacher's.

    Raises:
        InputError: another number of layers than blocks, a layer that does not exist, other widths, or a student
            whose attention is not the standard one.
    """
    if len(chosen) != len(blocks):
        raise InputError(f"{len(chosen)} teacher layers for {len(blocks)} stored blocks; choose one for each")
    for block, index in zip(blocks, chosen, strict=True):
        if not 0 <= index < len(layers):
            raise InputError(f"the teacher has layers 0 to {len(layers) - 1}, not {index}")
        assert isinstance(block, MultiplexedBlock)
        if block.attention_in_words:
            raise InputError(
                f"a tower with {block.attention_in_words} cannot inherit the layers of one with standard attention: "
                "leave image_layers or text_layers empty (patch, positions and embedding can be inherited)"
            )
        layer = layers[index]
        _copy_module(block.attention.qkv, layer.qkv, f"qkv of layer {index}")
        _copy_module(block.attention.proj, layer.proj, f"attention output of layer {index}")
        _copy_module(block.mlp.fc1, layer.fc1, f"first MLP matrix of layer {index}")
        _copy_module(block.mlp.fc2, layer.fc2, f"second MLP matrix of layer {index}")
        for repeat in block.repeats:
            _copy_module(repeat.norm1, layer.norm1, f"first LayerNorm of layer {index}")  # type: ignore[arg-type]
            _copy_module(repeat.norm2, layer.norm2, f"second LayerNorm of layer {index}")  # type: ignore[arg-type]


@torch.no_grad()
def inherit(
    tower: VisionTower | TextTower,
    weights: TowerWeights,
    parts: Sequence[str] = ("patch", "class_token", "positions"),
    layers: Sequence[int] = (),
    freeze: bool = False,
) -> list[str]:
    """Copy parts of a teacher's tower into a student's.

    Args:
        tower: the student's tower.
        weights: from :func:`read_open_clip`, :func:`read_transformers_clip` or :func:`read_transformers_bert`.
        parts: any of ``patch``, ``class_token``, ``positions``, ``embedding``, ``norm``, ``head``. The published
            recipe copies patch, class_token and positions of the image tower and freezes them.
        layers: the teacher's layer for each stored block; empty for none.
        freeze: stop the gradients of the copied parts (not of layers).

    Returns:
        Names of the student's parameters that were copied, without those of layers.

    Raises:
        InputError: a part that this tower does not have, or other shapes.
    """
    if layers:
        inherit_layers(list(tower.transformer.blocks), weights.layers, layers)
    copied: list[tuple[str, Tensor]] = []
    for part in parts:
        if part == "positions":
            teacher = weights.positions[: tower.positions.shape[0]]
            if isinstance(tower, VisionTower):
                teacher = weights.positions
            _copy(tower.positions, teacher, "positions")
            copied.append(("positions", tower.positions))
        elif part == "patch" and isinstance(tower, VisionTower) and weights.patch is not None:
            _copy(tower.patch.weight, weights.patch, "patch convolution")
            assert tower.patch.bias is not None
            tower.patch.bias.zero_()
            copied += [("patch.weight", tower.patch.weight), ("patch.bias", tower.patch.bias)]
        elif part == "class_token" and isinstance(tower, VisionTower) and weights.class_token is not None:
            _copy(tower.class_token, weights.class_token, "class token")
            copied.append(("class_token", tower.class_token))
        elif part == "embedding" and isinstance(tower, TextTower) and weights.embedding is not None:
            tower.embedding.init_from(weights.embedding)
            copied += [(f"embedding.{n}", p) for n, p in tower.embedding.named_parameters()]
        elif part == "norm":
            _copy_module(tower.norm, weights.norm, "last LayerNorm")
            copied += [(f"norm.{n}", p) for n, p in tower.norm.named_parameters()]
        elif part == "head":
            _copy(tower.head.weight, weights.projection, "projection")
            tower.head.bias.zero_()
            copied += [(f"head.{n}", p) for n, p in tower.head.named_parameters()]
        else:
            raise InputError(f"a {type(tower).__name__} cannot inherit {part!r} from this teacher")
    if freeze:
        for _, parameter in copied:
            parameter.requires_grad_(False)
    return [name for name, _ in copied]
