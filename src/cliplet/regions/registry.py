"""``make_proposer("name")``: any way to find regions, by name."""

from pathlib import Path

from cliplet.errors import InputError
from cliplet.regions.base import RegionProposer
from cliplet.regions.detector import OnnxDetector
from cliplet.regions.file import FileRegions
from cliplet.regions.grid import GridRegions


def make_proposer(
    source: str, score: float = 0.3, iou: float = 0.45, device: str | None = None
) -> RegionProposer:
    """A proposer by name.

    Args:
        source: ``grid`` or ``grid:1,2,3`` (levels); an ``.onnx`` detector; a ``.json``, ``.jsonl`` or ``.csv`` file
            of boxes; ``ultralytics:WEIGHTS`` (AGPL-3.0, see :mod:`cliplet.regions.ultralytics`); ``hf:owner/name`` or
            ``hf:FOLDER``, an object detector of Transformers.
        score: lowest score of a box.
        iou: overlap above which the less sure of two boxes of one class is dropped.
        device: where a detector computes, as :func:`cliplet.load` takes it; default the CPU.

    Raises:
        InputError: nothing of that name; or this machine has no such device.
        MissingExtraError: the library it needs is not installed.
    """
    if source == "grid" or source.startswith("grid:"):
        return GridRegions.parse(source.partition(":")[2])
    if source.startswith("ultralytics:"):
        from cliplet.regions.ultralytics import UltralyticsDetector

        if device is not None:
            raise InputError(f"{source}: ultralytics chooses its device itself; leave the device out")
        return UltralyticsDetector.from_name(source.removeprefix("ultralytics:"), score, iou)
    if source.startswith("hf:"):
        from cliplet.regions.transformers import TransformersDetector

        return TransformersDetector.from_name(source.removeprefix("hf:"), score, device or "cpu")
    path = Path(source)
    if path.suffix.lower() == ".onnx":
        return OnnxDetector(path, score, iou, device=device)
    if path.suffix.lower() in (".json", ".jsonl", ".csv"):
        return FileRegions(path, score)
    raise InputError(
        f"no regions from {source!r}: give grid, grid:1,2,3, a detector.onnx, a .json, .jsonl or .csv file of boxes, "
        "ultralytics:WEIGHTS or hf:OWNER/NAME"
    )
