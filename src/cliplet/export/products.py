"""Products with a weight in 8-bit integers, each as one operation of ONNX Runtime with what follows it."""

from typing import Any

DOMAIN = "com.microsoft"
"""Of ONNX Runtime's own operations."""


def fuse_products(model: Any) -> None:
    """Replace "quantise, bring back, multiply, add a bias" by "quantise, ``MatMulIntegerToFloat``".

    ONNX Runtime would do so when it loads the graph, but for the bias, for which it goes through the result once more.
    A product without bias before a ReLU, whose result is quantised again, becomes ``QLinearMatMul``, which writes these
    integers itself: where 0 is the least of them, the ReLU is their lower end. What else reads a quantised activation,
    such as a residual sum, reads it as it was before.
    """
    import onnx

    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    maker = {output: node for node in graph.node for output in node.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def only_reader(node: Any, kind: str) -> Any:
        """What alone reads the node's result, if of this kind."""
        found = readers.get(node.output[0], [])
        return found[0] if len(found) == 1 and found[0].op_type == kind else None

    gone: set[int] = set()
    for node in graph.node:
        widened = [maker[name] for name in node.input if name in maker]
        if node.op_type != "MatMul" or [n.op_type for n in widened] != ["DequantizeLinear"] * 2:
            continue
        (x, x_scale, x_zero), (w, w_scale, w_zero) = (n.input for n in widened)
        add, relu = only_reader(node, "Add"), only_reader(node, "Relu")
        quantised = relu and only_reader(relu, "QuantizeLinear")
        if quantised and not onnx.numpy_helper.to_array(tensors[quantised.input[2]]).any():
            node.op_type = "QLinearMatMul"
            node.input[:] = [x, x_scale, x_zero, w, w_scale, w_zero, *quantised.input[1:]]
            node.output[0] = quantised.output[0]
            gone |= {id(relu), id(quantised)}
            continue
        node.op_type, node.domain = "MatMulIntegerToFloat", DOMAIN
        node.input[:] = [x, w, x_scale, w_scale, x_zero, w_zero]
        bias = [name for name in add.input if name in tensors] if add else []
        if bias and list(tensors[bias[0]].dims) == list(tensors[w].dims)[1:]:
            node.input.append(bias[0])
            node.output[0] = add.output[0]
            gone.add(id(add))
    before = {}  # an activation brought back from integers -> as it was
    for node in graph.node:
        source = maker.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if source is not None and source.op_type == "QuantizeLinear" and id(source) not in gone:
            before[node.output[0]] = source.input[0]
    kept = [node for node in graph.node if id(node) not in gone]
    for node in kept:
        node.input[:] = [before.get(name, name) for name in node.input]
    used = {name for node in kept for name in node.input} | {value.name for value in graph.output}
    kept = [n for n in kept if n.op_type != "DequantizeLinear" or n.output[0] in used]
    del graph.node[:]
    graph.node.extend(kept)
    model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
