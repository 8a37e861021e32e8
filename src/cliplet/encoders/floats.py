"""The same graph without products of integers: what a folder's embeddings are where nothing can saturate."""

from typing import Any


def standard_operations(model: Any) -> None:
    """Write the integer products of ONNX Runtime's own domain with ONNX's operations alone, in place.

    Folders exported before cliplet wrote standard operations itself have them in ``text.onnx``. The integers are turned
    back to floats in front of each product.
    """
    from onnx import helper

    nodes = []

    def floats(node: Any, values: str, scale: str, zero: str, side: str) -> str:
        out = f"{node.output[0]}_{side}"
        nodes.append(helper.make_node("DequantizeLinear", [values, scale, zero], [out], axis=1))
        return out

    for node in model.graph.node:
        if node.op_type == "MatMulIntegerToFloat":
            a, b, a_scale, b_scale, a_zero, b_zero, bias = (*node.input, *[""] * 7)[:7]
            factors = [floats(node, a, a_scale, a_zero, "left"), floats(node, b, b_scale, b_zero, "right")]
            product = f"{node.output[0]}_product" if bias else node.output[0]
            nodes.append(helper.make_node("MatMul", factors, [product]))
            if bias:
                nodes.append(helper.make_node("Add", [product, bias], [node.output[0]]))
        elif node.op_type == "QLinearMatMul":
            a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = node.input
            factors = [floats(node, a, a_scale, a_zero, "left"), floats(node, b, b_scale, b_zero, "right")]
            product = f"{node.output[0]}_product"
            nodes.append(helper.make_node("MatMul", factors, [product]))
            nodes.append(helper.make_node("QuantizeLinear", [product, y_scale, y_zero], [node.output[0]]))
        else:
            nodes.append(node)
    _set_nodes(model.graph, nodes)


def in_floats(model: Any) -> None:
    """Make every product one of fp32 numbers, in place; activations are rounded to 8 bits as before.

    The stored weights become fp32 tensors, so that a runtime does not find integers on both sides of a product. The
    results differ from the integer graph's by the rounding of 32-bit floats, and by a step of 8 bits where that lies
    just between two.
    """
    import onnx
    from onnx.reference import ReferenceEvaluator

    standard_operations(model)
    graph = model.graph
    stored = {t.name: t for t in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in stored:
            nodes.append(node)
            continue
        widen: Any = ReferenceEvaluator(node)
        inputs = {name: onnx.numpy_helper.to_array(stored[name]) for name in node.input if name}
        graph.initializer.append(onnx.numpy_helper.from_array(widen.run(None, inputs)[0], node.output[0]))
    _set_nodes(graph, nodes)
    used = {name for node in nodes for name in node.input}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)


def _set_nodes(graph: Any, nodes: list[Any]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)
