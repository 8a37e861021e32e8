"""What a model folder's embeddings are in OpenVINO, onnxruntime-node and onnxruntime-web, on this processor.

    pip install openvino onnx
    npm install --prefix NODE --ignore-scripts onnxruntime-node onnxruntime-web
    python benchmarks/other_runtimes.py PHOTOS.tar CAPTIONS --node NODE

cliplet prepares the pixels and the token ids; each runtime gets the same ones and its own settings. Printed is the
cosine of each embedding to cliplet's own. ``standard``, for folders of older exports, is the text tower with the
operations of ONNX Runtime's own domain written as standard ones. ``floats`` are the settings with which OpenVINO turns
8-bit numbers to floats before it multiplies. ``ONEDNN_MAX_CPU_ISA=AVX512_CORE`` in front makes OpenVINO do without
VNNI.
"""

import argparse
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from cliplet.data.captions import read_captions
from cliplet.data.photos import open_photos
from cliplet.encoders.base import unit_norm
from cliplet.encoders.floats import standard_operations
from cliplet.encoders.onnx import OnnxEncoder
from cliplet.encoders.registry import load

BATCH = 10
Inputs = dict[str, np.ndarray]
Run = Callable[[Path, list[Inputs]], list[np.ndarray]]
"""Graph and batches of inputs to the embedding of each batch."""


def batches(encoder: OnnxEncoder, photos: list[Any], captions: list[str]) -> dict[str, list[Inputs]]:
    """What each graph gets: pixels uint8 ``[n, size, size, 3]``; ids and mask int64 ``[n, t]``, padded with 0."""
    found: dict[str, list[Inputs]] = {"image": [], "text": []}
    for start in range(0, len(photos), BATCH):
        some = [encoder.prepare_image(photo) for photo in photos[start : start + BATCH]]
        found["image"].append({"pixels": np.stack(some)})
    tokens = encoder.tokenize(captions)[0]
    for start in range(0, len(tokens), BATCH):
        some = tokens[start : start + BATCH]
        ids = np.zeros((len(some), max(map(len, some))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, sequence in enumerate(some):
            ids[row, : len(sequence)], mask[row, : len(sequence)] = sequence, 1
        found["text"].append({"input_ids": ids, "attention_mask": mask})
    return found


def in_openvino(**settings: str) -> Run:
    """OpenVINO on the processor, with these settings."""

    def run(graph: Path, inputs: list[Inputs]) -> list[np.ndarray]:
        import openvino

        model = openvino.Core().compile_model(str(graph), "CPU", settings)
        return [next(iter(model(batch).values())) for batch in inputs]

    return run


def in_onnxruntime(graph: Path, inputs: list[Inputs]) -> list[np.ndarray]:
    """ONNX Runtime with the settings it comes with."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    return [session.run(None, batch)[0] for batch in inputs]


def in_node(modules: Path, package: str) -> Run:
    """onnxruntime-node or -web, which gets its inputs as files: bytes, with the input's name, type and shape before."""

    def run(graph: Path, inputs: list[Inputs]) -> list[np.ndarray]:
        with tempfile.TemporaryDirectory() as folder:
            for i, batch in enumerate(inputs):
                for name, values in batch.items():
                    shape = "x".join(map(str, values.shape))
                    (Path(folder) / f"{i:05d}.{name}.{values.dtype}.{shape}").write_bytes(values.tobytes())
            script = Path(__file__).with_suffix(".cjs")
            inside = os.environ | {"NODE_PATH": str((modules / "node_modules").resolve())}
            command = ["node", str(script), str(graph), folder, package]
            done = subprocess.run(command, env=inside, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr.strip().splitlines()[-1])
            return [
                np.fromfile(Path(folder) / f"{i:05d}.out", dtype=np.float32).reshape(
                    len(next(iter(batch.values()))), -1
                )
                for i, batch in enumerate(inputs)
            ]

    return run


def compare(name: str, side: str, run: Run, graph: Path, inputs: list[Inputs], right: np.ndarray) -> None:
    """Print one line: how near the embeddings are to the right ones, or why there are none."""
    try:
        found = unit_norm(np.concatenate(run(graph, inputs)).astype(np.float32))
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        refused = [line[3:].partition(" with ")[0] for line in lines if line.endswith("with a message:")]
        said = f"operations {', '.join(refused)}" if refused else lines[-1][:200]
        print(f"{name:<33} {side:<6} refused: {type(error).__name__}: {said}")
        return
    cosines = (found * right).sum(axis=1)
    print(f"{name:<33} {side:<6} n={len(right):<5} cosine to cliplet's: least {cosines.min():.6f}, "
          f"mean {cosines.mean():.6f}")  # fmt: skip


def main() -> None:
    """Compare all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", help="folder or tar of photos")
    parser.add_argument("captions", help="captions file")
    parser.add_argument("--model", help="model folder (default: the packaged model)")
    parser.add_argument("--limit", type=int, default=50, help="photos, and four times as many captions")
    parser.add_argument(
        "--node",
        type=Path,
        metavar="DIR",
        help="folder in which onnxruntime-node or onnxruntime-web is installed",
    )
    parser.add_argument("--no-openvino", action="store_true", help="leave OpenVINO out")
    parser.add_argument("--standard-text", type=Path, metavar="FILE",
                        help="keep the text tower with standard operations")  # fmt: skip
    wanted = parser.parse_args()
    encoder = load(wanted.model)
    assert isinstance(encoder, OnnxEncoder), "give a model folder of ONNX files"
    index = open_photos(wanted.photos)
    photos = [index.get(name) for name in index.names()[: wanted.limit]]
    entries = [entry for entry in read_captions(wanted.captions) if entry.problem is None]
    captions = [entry.caption for entry in entries[: 4 * wanted.limit]]
    right = {"image": encoder.encode_images(photos), "text": encoder.encode_texts(captions)}
    given = batches(encoder, photos, captions)
    print(f"{encoder.card.name} on {_processor()}")
    opened: dict[str, Run] = {}
    if not wanted.no_openvino:
        import openvino

        version = openvino.__version__.split("-")[0]
        opened[f"OpenVINO {version}"] = in_openvino()
        opened[f"OpenVINO {version}, f32"] = in_openvino(INFERENCE_PRECISION_HINT="f32")
        opened[f"OpenVINO {version}, floats"] = in_openvino(
            LP_TRANSFORMS_MODE="NO", INFERENCE_PRECISION_HINT="f32"
        )
    graphs = {side: encoder.folder / f"{side}.onnx" for side in given}
    in_javascript = {
        package: in_node(wanted.node, package)
        for package in ("onnxruntime-node", "onnxruntime-web")
        if wanted.node and (wanted.node / "node_modules" / package).is_dir()
    }
    for name, run in (opened | in_javascript).items():
        for side, inputs in given.items():
            compare(name, side, run, graphs[side], inputs, right[side])
    own = any(node.domain for node in onnx.load(graphs["text"]).graph.node)
    if own and (opened or wanted.standard_text):
        with tempfile.TemporaryDirectory() as folder:
            graph = wanted.standard_text or Path(folder) / "text.onnx"
            model = onnx.load(graphs["text"])
            standard_operations(model)
            onnx.save(model, graph)
            for name, run in ({"ONNX Runtime": in_onnxruntime} | opened).items():
                compare(f"{name}, standard", "text", run, graph, given["text"], right["text"])


def _processor() -> str:
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    flags = next((line for line in lines if line.startswith("flags")), "")
    return f"{name or platform.processor()}, {'with' if 'vnni' in flags else 'without'} VNNI"


if __name__ == "__main__":
    main()
