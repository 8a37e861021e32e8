"""A photo's nearest captions of a store as what the decoder looks at: ReCap's retrieval before a decoder of our own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cliplet.captioner.store import CaptionStore
from cliplet.encoders.onnx import OnnxEncoder
from cliplet.errors import InputError
from cliplet.export.graph import import_onnx
from cliplet.export.onnx_grid import OnnxGrid
from cliplet.training.captioner.vocabulary import plain

NEIGHBOURS = 20
"""Captions that the decoder looks at, beside the photo's own embedding."""


class RetrievedCaptions(OnnxGrid):
    """uint8 pixels ``[n, H, W, 3]`` -> ``[n, 1 + NEIGHBOURS, d]``: the photo's embedding, then its captions'.

    It cannot learn. Its graph holds the store, so an exported captioner needs no store beside it.

    Args:
        folder: the model folder that embeds photos.
        store: what :meth:`~cliplet.captioner.store.CaptionStore.save` wrote, of the same model.

    Raises:
        InputError: the store is of another model, or has too few captions.
        ModelError: no such model folder.
    """

    def __init__(self, folder: Path, store: Path) -> None:
        encoder = OnnxEncoder(folder, threads=1)
        kept = CaptionStore.load(store, encoder)
        if len(kept.captions) <= NEIGHBOURS:
            raise InputError(f"{store} has {len(kept.captions)} captions; a decoder looks at {NEIGHBOURS}")
        super().__init__(folder / "image.onnx", memory_graph(folder / "image.onnx", kept.embeddings))
        self.encoder, self.store = encoder, kept
        self.texts = np.array(plain(kept.captions), dtype=object)

    def apart(self, pixels: NDArray[np.uint8], own: Sequence[Sequence[str]]) -> NDArray[np.float32]:
        """As :meth:`forward`, but no photo finds one of its ``own`` captions, in training: it would only copy it."""
        photos = self.encoder.embed_images(list(pixels))
        photos = photos / np.linalg.norm(photos, axis=1, keepdims=True)  # [n, d]
        more = NEIGHBOURS + 8 * max(map(len, own))
        found = np.zeros((len(photos), 1 + NEIGHBOURS, photos.shape[1]), dtype=np.float32)
        for i, (row, captions) in enumerate(zip(photos, own, strict=True)):
            nearest = self.store.nearest(row[None], more)[0]
            others = nearest[~np.isin(self.texts[nearest], list(captions))][:NEIGHBOURS]
            if len(others) < NEIGHBOURS:
                raise InputError(
                    f"the store has fewer than {NEIGHBOURS} captions that are not the photo's own"
                )
            found[i, 0], found[i, 1:] = row, self.store.embeddings[others]
        return found


def memory_graph(path: Path, captions: NDArray[np.float32]) -> Any:
    """An ``image.onnx`` that goes on to the embeddings of the nearest ``captions`` (unit rows ``[m, d]``)."""
    onnx = import_onnx()
    model = onnx.load(str(path))
    graph, make = model.graph, onnx.helper.make_node
    nodes = [
        make("LpNormalization", [graph.output[0].name], ["recap_photo"], axis=-1, p=2),
        make("Gemm", ["recap_photo", "recap_captions"], ["recap_cosines"], transB=1),
        make("TopK", ["recap_cosines", "recap_count"], ["recap_best", "recap_rows"]),
        make("Gather", ["recap_captions", "recap_rows"], ["recap_found"], axis=0),
        make("Unsqueeze", ["recap_photo", "recap_axis"], ["recap_first"]),
        make("Concat", ["recap_first", "recap_found"], ["grid"], axis=1),
    ]
    values = {
        "recap_captions": captions.astype(np.float32),
        "recap_count": np.array([NEIGHBOURS], dtype=np.int64),
        "recap_axis": np.array([1], dtype=np.int64),
    }
    stored = [onnx.numpy_helper.from_array(value, name) for name, value in values.items()]
    output = onnx.helper.make_tensor_value_info("grid", onnx.TensorProto.FLOAT, ["n", None, None])
    whole = onnx.helper.make_graph(
        [*graph.node, *nodes], "grid", graph.input, [output], [*graph.initializer, *stored]
    )
    return onnx.helper.make_model(whole, opset_imports=model.opset_import, ir_version=model.ir_version)
