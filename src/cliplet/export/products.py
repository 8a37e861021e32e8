"""Products with a weight in 8-bit integers, in standard operations, which ONNX Runtime fuses when it loads them."""

from typing import Any


def tidy_products(model: Any) -> None:
    """Leave "quantise, bring back, multiply" alone in front of products, so that it fuses, and take away what it costs.

    An activation that several products read is quantised once. A ReLU between a product and a quantisation whose least
    integer stands for 0 goes: that is the ReLU. What else reads a quantised activation, such as a residual sum, reads
    it as it was before.
    """
    graph = model.graph
    _quantise_once(graph)
    maker = {output: node for node in graph.node for output in node.output}
    products = [node for node in graph.node if _is_product(node, maker)]
    _drop_relus(model, products)
    before = {}  # an activation brought back from integers -> as it was
    for node in graph.node:
        source = maker.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if source is not None and source.op_type == "QuantizeLinear":
            before[node.output[0]] = source.input[0]
    inside = {node.output[0] for node in products}
    for node in graph.node:
        if not inside.intersection(node.output):
            node.input[:] = [before.get(name, name) for name in node.input]


def _is_product(node: Any, maker: dict[str, Any]) -> bool:
    """A product whose factors both come from integers."""
    made = [maker.get(name) for name in node.input]
    return node.op_type == "MatMul" and all(n is not None and n.op_type == "DequantizeLinear" for n in made)


def _quantise_once(graph: Any) -> None:
    """Merge equal quantisations of one activation, and what brings them back."""
    values = {tensor.name: (tensor.data_type, tensor.raw_data) for tensor in graph.initializer}
    first: dict[Any, str] = {}
    alias: dict[str, str] = {}
    kept = []
    for node in graph.node:
        node.input[:] = [alias.get(name, name) for name in node.input]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] not in values:
            key = (node.op_type, node.input[0], *(values.get(name, name) for name in node.input[1:]))
            alias[node.output[0]] = first.setdefault(key, node.output[0])
            if alias[node.output[0]] != node.output[0]:
                continue
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _drop_relus(model: Any, products: list[Any]) -> None:
    """Let a quantisation after a product be its ReLU where 0 is the least of its integers."""
    import onnx

    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    gone = []
    for node in products:
        relu = readers.get(node.output[0], [])
        if [n.op_type for n in relu] != ["Relu"]:
            continue
        quantised = readers.get(relu[0].output[0], [])
        if [n.op_type for n in quantised] != ["QuantizeLinear"]:
            continue
        if not onnx.numpy_helper.to_array(tensors[quantised[0].input[2]]).any():
            quantised[0].input[0] = node.output[0]
            gone.append(relu[0])
    for node in gone:
        graph.node.remove(node)
