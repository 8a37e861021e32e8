"""From any two-tower model to a model folder of ONNX files, and how faithful that folder is."""

from cliplet.export.aligned import export_aligned
from cliplet.export.folder import export
from cliplet.export.parity import ParityReport, measure_parity

__all__ = ["ParityReport", "export", "export_aligned", "measure_parity"]
