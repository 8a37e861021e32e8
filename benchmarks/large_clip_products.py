"""One product of a transformer in every form that ONNX Runtime's CPU provider has, one thread, in turns.

    python -m benchmarks.large_clip_products

Columns: milliseconds, how many times as fast as fp32, and the largest error over the spread of the right result. The
weights are random and have no outliers; the errors tell 8 bits from 4, not one form of 8 bits from another.
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cliplet.encoders.sessions import open_session

SHAPES = ((400, 768, 3072), (400, 3072, 768), (50, 768, 3072), (77, 512, 2048))
"""Tokens, inputs and outputs: eight photos and one of ViT-B/32, a caption of its text tower at its whole context."""
Form = tuple[str, list[Any], dict[str, NDArray[Any]]]
node = helper.make_node


def forms(weight: NDArray[np.float32]) -> Iterator[Form]:
    """Name, nodes and tensors of each form."""
    yield "fp32", [node("MatMul", ["x", "w"], ["y"])], {"w": weight}
    scale = np.abs(weight).max(axis=0) / 127
    signed = np.rint(weight / scale).astype(np.int8)
    kinds = {
        "s8": (signed, np.zeros(len(scale), dtype=np.int8)),
        "u8": ((signed.astype(np.int16) + 128).astype(np.uint8), np.full(len(scale), 128, dtype=np.uint8)),
    }
    for inputs, weights in (("u8", "s8"), ("u8", "u8"), ("s8", "s8")):
        zero = np.uint8(128) if inputs == "u8" else np.int8(0)
        tensors = dict(zip(("w", "z", "s"), (*kinds[weights], scale), strict=True))
        yield f"static, {inputs} x {weights}", [
            node("QuantizeLinear", ["x", "xs", "xz"], ["q"]), node("DequantizeLinear", ["q", "xs", "xz"], ["d"]),
            node("DequantizeLinear", ["w", "s", "z"], ["b"], axis=1), node("MatMul", ["d", "b"], ["y"]),
        ], {"xs": np.array(0.03, dtype=np.float32), "xz": np.array(zero), **tensors}  # fmt: skip
    for weights in ("s8", "u8"):
        tensors = dict(zip(("w", "z", "s"), (*kinds[weights], scale), strict=True))
        dynamic = node("DynamicQuantizeMatMul", ["x", "w", "s", "z"], ["y"], domain="com.microsoft")
        yield f"DynamicQuantizeMatMul, u8 x {weights}", [dynamic], tensors
    for bits in (8, 4):
        for block in (32, 128, 256):
            yield blocks(weight, bits, block)


def blocks(weight: NDArray[np.float32], bits: int, block: int) -> Form:
    """MatMulNBits with 8-bit arithmetic."""
    inputs, outputs = weight.shape
    parts = weight.T.reshape(outputs, inputs // block, block)
    half = 2 ** (bits - 1)
    scale = np.abs(parts).max(axis=2, keepdims=True) / (half - 1)
    integers = (np.rint(parts / scale) + half).astype(np.uint8)
    if bits == 4:
        integers = integers[..., 0::2] | (integers[..., 1::2] << 4)
    product = node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=inputs, N=outputs, bits=bits,
        block_size=block, accuracy_level=4,
    )  # fmt: skip
    return f"MatMulNBits, {bits} bits, blocks of {block}", [product], {"w": integers, "s": scale[..., 0]}


def session_of(nodes: list[Any], tensors: dict[str, NDArray[Any]], inputs: int, outputs: int) -> Any:
    """A session of one product."""
    graph = helper.make_graph(
        nodes, "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )  # fmt: skip
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=10)
    return open_session(model.SerializeToString(), threads=1)


def main() -> None:
    """Measure."""
    rng = np.random.default_rng(0)
    for tokens, inputs, outputs in SHAPES:
        weight = (rng.normal(size=(inputs, outputs)) * 0.02).astype(np.float32)
        x = rng.normal(size=(tokens, inputs)).astype(np.float32)
        right = x @ weight
        sessions = {
            name: session_of(nodes, tensors, inputs, outputs) for name, nodes, tensors in forms(weight)
        }
        best = dict.fromkeys(sessions, np.inf)
        for _ in range(12):
            for name, session in sessions.items():
                started = time.perf_counter()
                session.run(None, {"x": x})
                best[name] = min(best[name], time.perf_counter() - started)
        print(
            f"\n| {tokens} x {inputs} by {inputs} x {outputs} | ms | times as fast | error |\n|---|---|---|---|"
        )
        for name, session in sessions.items():
            error = np.abs(session.run(None, {"x": x})[0] - right).max() / right.std()
            print(f"| {name} | {1e3 * best[name]:.2f} | {best['fp32'] / best[name]:.2f} | {error:.3f} |")


if __name__ == "__main__":
    main()
