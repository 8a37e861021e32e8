"""A student with LayerNorms after the sums computes what the BERT computes from which it inherits."""

import pytest
import torch

from cliplet.errors import InputError
from cliplet.models.compat import prepare_torchvision
from cliplet.models.config import TextConfig
from cliplet.models.inherit import inherit, read_transformers_bert
from cliplet.models.text import TextTower, pool

prepare_torchvision()
transformers = pytest.importorskip("transformers")


def _bert(layers: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=12, layer_norm_eps=1e-5,
    )  # fmt: skip
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    for parameter in model.parameters():  # biases and LayerNorms start at 0 and 1, which would hide mistakes
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def _tower(**changes: object) -> TextTower:
    settings: dict[str, object] = {
        "width": 16, "heads": 4, "blocks": 2, "repeats": 1, "qkv_bias": True, "norm": "post", "vocab_size": 50,
        "context_length": 12, "embedding_rank": 0, "mask": "padding", "pooling": "mean", "embedding_dim": 16,
    }  # fmt: skip
    return TextTower(TextConfig(**{**settings, **changes})).eval()  # type: ignore[arg-type]


IDS = torch.tensor([[1, 7, 3, 9, 2], [1, 4, 2, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


@torch.no_grad()
def test_inherited_tower_equals_bert() -> None:
    bert, tower = _bert(), _tower()
    inherit(tower, read_transformers_bert(bert), ("positions", "embedding", "norm", "head"), (0, 1))
    wanted = pool(bert(input_ids=IDS, attention_mask=MASK).last_hidden_state, MASK, "mean")
    assert torch.allclose(tower(IDS, MASK), wanted, atol=1e-5)


@torch.no_grad()
def test_repeats_execute_a_layer_twice() -> None:
    """Blocks A A B B of a student equal a BERT whose layers are A, A, B, B."""
    bert, deep = _bert(2), _bert(4)
    state = bert.state_dict()
    deep.load_state_dict(
        {k: state[k.replace(f"layer.{k.split('.')[2]}", f"layer.{int(k.split('.')[2]) // 2}")]
         if k.startswith("encoder") else state[k] for k in deep.state_dict()}
    )  # fmt: skip
    tower = _tower(repeats=2)
    inherit(tower, read_transformers_bert(bert), ("positions", "embedding", "norm", "head"), (0, 1))
    wanted = pool(deep(input_ids=IDS, attention_mask=MASK).last_hidden_state, MASK, "mean")
    assert torch.allclose(tower(IDS, MASK), wanted, atol=1e-5)


def test_other_shapes_are_named() -> None:
    with pytest.raises(InputError, match="qkv of layer 0"):
        inherit(_tower(width=32, embedding_dim=32), read_transformers_bert(_bert()), (), (0, 1))
