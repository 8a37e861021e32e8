"""The image tower of a model folder that has no PyTorch weights as a grid: its ``image.onnx`` up to the pooling."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cliplet.encoders.sessions import open_session
from cliplet.errors import InputError, ModelError
from cliplet.export.graph import import_onnx

DOMAIN, KIND = "cliplet", "ImageTower"
"""The node that stands for such a tower in a traced graph, until :func:`inline_towers`."""


class OnnxGrid(nn.Module):
    """uint8 pixels ``[n, H, W, 3]`` -> cells ``[n, N, C]`` on ONNX Runtime, as the folder computes; it cannot learn.

    Args:
        path: an ``image.onnx`` that pools its last feature map.
        graph: a model with output ``grid`` ``[n, N, C]`` made of it, where that is not the map before the pooling.

    Raises:
        ModelError: the graph has no such pooling.
    """

    digest: Tensor

    def __init__(self, path: Path, graph: Any = None) -> None:
        super().__init__()
        self.graph = before_pooling(path) if graph is None else graph
        content = self.graph.SerializeToString()
        found = hashlib.blake2b(content, digest_size=8).digest()
        self.register_buffer("digest", torch.tensor(list(found), dtype=torch.uint8))
        self.session = open_session(content, torch.get_num_threads(), str(path))
        self.sides = list(self.session.get_inputs()[0].shape[1:])  # [H, W, 3]

    @property
    def name(self) -> str:
        """The digest in hexadecimal digits."""
        return bytes(self.digest.tolist()).hex()

    def forward(self, pixels: Tensor) -> Tensor:
        """``[n, H, W, 3]`` -> ``[n, N, C]``."""
        if list(pixels.shape[1:]) != self.sides:
            raise InputError(
                f"this image tower takes {self.sides[0]} pixels a side; set model.grid.size to that"
            )
        return _Run.apply(pixels.to(torch.uint8), self)  # type: ignore[no-any-return, no-untyped-call]


class _Run(torch.autograd.Function):
    """A session as one operation, and as one node where the tower is traced."""

    @staticmethod
    def forward(_: Any, pixels: Tensor, tower: OnnxGrid) -> Tensor:
        name = tower.session.get_inputs()[0].name
        grid = tower.session.run(["grid"], {name: pixels.cpu().numpy()})[0]
        return torch.from_numpy(grid).to(pixels.device)

    @staticmethod
    def symbolic(g: Any, pixels: Any, tower: OnnxGrid) -> Any:
        cells, channels = tower(torch.zeros(1, *tower.sides, dtype=torch.uint8)).shape[1:]
        node = g.op(f"{DOMAIN}::{KIND}", pixels, tower_s=tower.name)
        node.setType(pixels.type().with_dtype(torch.float32).with_sizes([None, cells, channels]))
        return node


def before_pooling(path: Path) -> Any:
    """The part of a graph before its pooling, with that map's cells ``grid`` ``[n, N, C]`` as output.

    Of the two maps of a twin tower it is the one that has learnt, which is pooled last.
    """
    onnx = import_onnx()
    model = onnx.load(str(path))
    graph = model.graph
    pools = [node for node in graph.node if _pools(node)]
    if not pools:
        raise ModelError(
            f"{path} does not pool a feature map, so there is no grid for a captioner to look at"
        )
    pooled = pools[-1].input[0]
    needed, kept = {pooled}, []
    for node in reversed(graph.node):  # the nodes are in the order of computation
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    shape = onnx.helper.make_tensor("grid_shape", onnx.TensorProto.INT64, [3], [0, 0, -1])
    flatten = onnx.helper.make_node("Reshape", [pooled, "grid_shape"], ["grid_flat"])
    transpose = onnx.helper.make_node("Transpose", ["grid_flat"], ["grid"], perm=[0, 2, 1])
    output = onnx.helper.make_tensor_value_info("grid", onnx.TensorProto.FLOAT, ["n", None, None])
    weights = [t for t in graph.initializer if t.name in needed]
    nodes = [*reversed(kept), flatten, transpose]
    part = onnx.helper.make_graph(nodes, "grid", graph.input, [output], [*weights, shape])
    return onnx.helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)


def _pools(node: Any) -> bool:
    """Whether a node takes the mean over a map's height and width."""
    axes = [list(a.ints) for a in node.attribute if a.name == "axes"]
    return node.op_type == "GlobalAveragePool" or (
        node.op_type == "ReduceMean" and any(sorted(a) in ([2, 3], [-2, -1]) for a in axes)
    )


def inline_towers(path: Path, towers: Iterable[nn.Module]) -> None:
    """Put the graphs of ``towers`` into the traced graph in ``path``, each where its node stands."""
    onnx = import_onnx()
    known = {tower.name: tower.graph for tower in towers if isinstance(tower, OnnxGrid)}
    if not known:
        return
    model = onnx.load(str(path))
    nodes: list[Any] = []
    for node in model.graph.node:
        if node.domain != DOMAIN:
            nodes.append(node)
            continue
        name = node.attribute[0].s.decode()
        part = onnx.compose.add_prefix(known[name], f"{name}_").graph
        renamed = {part.input[0].name: node.input[0], part.output[0].name: node.output[0]}
        for inner in part.node:
            for names in (inner.input, inner.output):
                for i, old in enumerate(names):
                    names[i] = renamed.get(old, old)
        nodes.extend(part.node)
        model.graph.initializer.extend(part.initializer)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    domains = [entry for entry in model.opset_import if entry.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(domains)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
