"""TensorFlow-style "same" padding, made constant for a fixed input size.

Convolutions ported from TensorFlow compute their padding from the size of their input at run time. In a model folder
that size is fixed, so each becomes an ordinary convolution with uneven constant padding: the graph loses some twenty
nodes for each of them and the copies that they make.
"""

import copy
from typing import Any

import torch
from torch import nn


def fix_same_padding(module: nn.Module, size: int) -> nn.Module:
    """A copy of an image tower whose same-padded convolutions have constant padding for ``size`` x ``size`` pixels.

    A tower without such convolutions is returned as it is.
    """
    names = [name for name, part in module.named_modules() if type(part).__name__ == "Conv2dSame"]
    if not names:
        return module
    module = copy.deepcopy(module)
    shapes = _input_sizes(module, names, size)
    for name in names:
        parent, _, last = name.rpartition(".")
        convolution = module.get_submodule(name)
        setattr(module.get_submodule(parent), last, _with_constant_padding(convolution, *shapes[name]))
    return module


def _input_sizes(module: nn.Module, names: list[str], size: int) -> dict[str, tuple[int, int]]:
    sizes: dict[str, tuple[int, int]] = {}

    def remember(name: str) -> Any:
        return lambda _, inputs: sizes.__setitem__(name, tuple(inputs[0].shape[-2:]))

    hooks = [module.get_submodule(name).register_forward_pre_hook(remember(name)) for name in names]
    with torch.no_grad():
        module(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return sizes


def _with_constant_padding(convolution: Any, height: int, width: int) -> nn.Module:
    pads = [
        max((-(-side // stride) - 1) * stride + (kernel - 1) * dilation + 1 - side, 0)
        for side, stride, kernel, dilation in zip(
            (height, width),
            convolution.stride,
            convolution.kernel_size,
            convolution.dilation,
            strict=True,
        )
    ]
    plain = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,
        convolution.stride,
        dilation=convolution.dilation,
        groups=convolution.groups,
        bias=convolution.bias is not None,
    )
    plain.load_state_dict(convolution.state_dict())
    (top, left), (bottom, right) = (p // 2 for p in pads), (p - p // 2 for p in pads)
    return nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), plain).eval()


def fuse_constant_pads(model: Any) -> None:
    """Move zero padding of constant width into the convolution that follows it, in an ONNX graph."""
    graph = model.graph
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    fused = []
    for pad in (node for node in graph.node if node.op_type == "Pad"):
        following = users.get(pad.output[0], [])
        widths: Any = constant_value(model, pad.input[1])  # [begin of n, c, h, w, end of n, c, h, w]
        value: Any = constant_value(model, pad.input[2]) if len(pad.input) > 2 and pad.input[2] else 0
        plain = widths is not None and value is not None and not any(widths[i] for i in (0, 1, 4, 5))
        if plain and float(value) == 0 and [n.op_type for n in following] == ["Conv"]:
            _add_pads(following[0], [int(widths[i]) for i in (2, 3, 6, 7)])
            following[0].input[0] = pad.input[0]
            fused.append(pad)
    for node in fused:
        graph.node.remove(node)
    drop_unused(graph)


def _add_pads(convolution: Any, extra: list[int]) -> None:
    own = next((a for a in convolution.attribute if a.name == "pads"), None)
    if own is None:
        own = convolution.attribute.add()
        own.name, own.type = "pads", 7  # AttributeProto.INTS
        own.ints.extend([0, 0, 0, 0])
    total = [a + b for a, b in zip(own.ints, extra, strict=True)]
    del own.ints[:]
    own.ints.extend(total)


def constant_value(model: Any, name: str) -> Any:
    """The value of a tensor that depends on no input of the graph; None for one that does."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    maker = {output: node for node in graph.node for output in node.output}
    stored = {t.name: t for t in graph.initializer}
    nodes, tensors, waiting = [], [], [name]
    while waiting:
        wanted = waiting.pop()
        if wanted in stored:
            tensors.append(stored[wanted])
        elif wanted in maker:
            if maker[wanted] not in nodes:
                nodes.append(maker[wanted])
                waiting.extend(i for i in maker[wanted].input if i)
        else:
            return None  # an input of the graph
    order = {node.output[0]: i for i, node in enumerate(graph.node)}
    nodes.sort(key=lambda node: order[node.output[0]])
    output = helper.make_tensor_value_info(name, TensorProto.INT64, None)
    part = helper.make_model(
        helper.make_graph(nodes, "constant", [], [output], tensors), opset_imports=model.opset_import
    )
    values: Any = ReferenceEvaluator(part).run(None, {})
    return values[0]


def drop_unused(graph: Any) -> None:
    """Remove nodes whose results nobody uses any more."""
    while True:
        used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
        idle = [node for node in graph.node if not used.intersection(node.output)]
        if not idle:
            return
        for node in idle:
            graph.node.remove(node)
