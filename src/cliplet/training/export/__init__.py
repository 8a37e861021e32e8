"""From any two-tower model to a model folder of ONNX files, and how faithful that folder is."""

from cliplet.training.export.folder import export
from cliplet.training.export.parity import ParityReport, measure_parity

__all__ = ["ParityReport", "export", "measure_parity"]
