"""Sentence encoders in the folder layout of sentence-transformers, as one module from token ids to an embedding."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cliplet.errors import MissingExtraError, ModelError
from cliplet.models.compat import prepare_torchvision
from cliplet.models.text import pool

POOLINGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""Ways to make one vector of a text's states, each with its key in older folders; several stand end to end."""
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "Tanh": nn.Tanh, "Identity": nn.Identity, "ReLU": nn.ReLU, "GELU": nn.GELU, "Sigmoid": nn.Sigmoid,
}  # fmt: skip
"""Activations of a Dense module."""


@dataclass(frozen=True)
class SentenceParts:
    """What a folder of sentence-transformers holds."""

    tower: "SentenceTower"
    """Ids and mask in, embedding out."""
    tokenizer: Any
    """A ``tokenizers.Tokenizer`` without truncation and padding."""
    context: int
    """Longest sequence of tokens."""
    prefix: str
    """Text that the folder puts before every sentence by default."""


class SentenceTower(nn.Module):
    """Ids and mask ``[n, t]``, padded at the end -> embedding ``[n, d]``, any norm.

    Args:
        transformer: gives ``last_hidden_state`` ``[n, t, D]``.
        poolings: names of :data:`POOLINGS`.
        after: what comes after the pooling: dense layers, normalisation.
    """

    def __init__(
        self, transformer: nn.Module, poolings: Sequence[str] = ("mean",), after: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.transformer, self.after = transformer, after or nn.Identity()
        self.poolings = tuple(poolings)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Run the transformer, pool its states, apply what comes after."""
        states = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        parts = [pooled(states.float(), attention_mask, name) for name in self.poolings]
        result: Tensor = self.after(torch.cat(parts, dim=-1))
        return result


class Unit(nn.Module):
    """Rows brought to length 1."""

    def forward(self, rows: Tensor) -> Tensor:
        """``[n, d]`` -> ``[n, d]``."""
        return F.normalize(rows, dim=-1)


def pooled(states: Tensor, mask: Tensor, name: str) -> Tensor:
    """``[n, t, D]`` and mask ``[n, t]`` (padding at the end) -> ``[n, D]``, as sentence-transformers' ``Pooling``."""
    if name in ("cls", "mean"):
        return pool(states, mask, name)
    if name == "lasttoken":
        return pool(states, mask, "eot")
    weights = mask[:, :, None].to(states.dtype)
    if name == "max":
        return (states + (1 - weights) * torch.finfo(states.dtype).min).amax(dim=1)
    if name == "weightedmean":  # the later a token, the more it counts
        weights = weights * torch.cumsum(weights, dim=1)
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1).sqrt()  # mean_sqrt_len_tokens


def read_sentence_folder(folder: str | Path) -> SentenceParts:
    """Open a folder of sentence-transformers: ``modules.json`` with Transformer, Pooling, Dense and Normalize.

    Raises:
        ModelError: a file is missing or broken, or the folder has a module of another kind.
        MissingExtraError: Transformers is not installed.
    """
    folder = Path(folder)
    listed = _json(folder / "modules.json")
    modules = [(str(m["type"]).rpartition(".")[2], folder / str(m["path"])) for m in listed]
    if [kind for kind, _ in modules[:2]] != ["Transformer", "Pooling"]:
        raise ModelError(
            f"{folder}: its modules are {', '.join(kind for kind, _ in modules) or 'none'}; only encoders that begin "
            "with Transformer and Pooling can be read"
        )
    place = modules[0][1]
    transformer, tokenizer, settings = _transformer(place), _tokenizer(place), _settings(place)
    after = nn.Sequential(*(_after(kind, path) for kind, path in modules[2:])).eval()
    tower = SentenceTower(transformer, _poolings(modules[1][1]), after).eval()
    return SentenceParts(tower, tokenizer, _context(transformer, settings), _prefix(folder))


def _transformer(folder: Path) -> Any:
    try:
        prepare_torchvision()
        from transformers import AutoModel
    except ImportError as error:
        raise MissingExtraError(f"a sentence encoder ({error})", "hub") from error
    try:
        model, report = AutoModel.from_pretrained(str(folder), output_loading_info=True)
    except Exception as error:  # safetensors and the configuration classes raise many kinds
        raise ModelError(f"Transformers cannot load {folder}: {error}") from error
    missing = [key for key in report["missing_keys"] if "pooler" not in key and "position_ids" not in key]
    if missing:
        raise ModelError(
            f"the weights of {folder} lack {len(missing)} tensors, which would stay random: {missing[0]}"
        )
    return model.float().eval()


def _tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        if path.is_file():
            tokenizer = Tokenizer.from_file(str(path))
        else:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(str(folder)).backend_tokenizer
    except Exception as error:  # tokenizers raises plain Exception, a slow tokeniser AttributeError
        raise ModelError(f"{folder} has no tokeniser that can be read as tokenizer.json: {error}") from error
    if _settings(folder).get("do_lower_case"):
        from tokenizers import normalizers

        first = normalizers.Lowercase()
        steps = [first] if tokenizer.normalizer is None else [first, tokenizer.normalizer]
        tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "sentence_bert_config.json"
    return dict(_json(path)) if path.is_file() else {}


def _context(transformer: Any, settings: dict[str, Any]) -> int:
    """The folder's own limit, or the positions of the transformer."""
    positions = int(getattr(transformer.config, "max_position_embeddings", 0) or 512)
    return min(int(settings.get("max_seq_length") or positions), positions)


def _prefix(folder: Path) -> str:
    path = folder / "config_sentence_transformers.json"
    config = dict(_json(path)) if path.is_file() else {}
    return str((config.get("prompts") or {}).get(config.get("default_prompt_name")) or "")


def _poolings(folder: Path) -> tuple[str, ...]:
    config = _json(folder / "config.json")
    named = config.get("pooling_mode")
    if named is None:
        named = [name for name, key in POOLINGS.items() if config.get(key)] or ["mean"]
    names = (named,) if isinstance(named, str) else tuple(named)
    unknown = [name for name in names if name not in POOLINGS]
    if unknown:
        raise ModelError(
            f"{folder}: cliplet does not know the pooling {unknown[0]!r}, but {', '.join(POOLINGS)}"
        )
    return names


def _after(kind: str, folder: Path) -> nn.Module:
    """A module after the pooling."""
    if kind == "Normalize":
        return Unit()
    if kind != "Dense":
        raise ModelError(
            f"{folder}: cliplet does not know the module {kind}, but Transformer, Pooling, Dense, Normalize"
        )
    from safetensors.torch import load_file

    config = _json(folder / "config.json")
    activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise ModelError(f"{folder}: cliplet does not know the activation {activation}")
    layer = nn.Linear(int(config["in_features"]), int(config["out_features"]), bool(config.get("bias", True)))
    try:
        stored = load_file(str(folder / "model.safetensors"))
        layer.load_state_dict({key.removeprefix("linear."): value for key, value in stored.items()})
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{folder}: model.safetensors cannot be read as its Dense layer: {error}") from error
    return nn.Sequential(layer, ACTIVATIONS[activation]())


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{path.parent} is not a folder of sentence-transformers: it has no {path.name}"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
