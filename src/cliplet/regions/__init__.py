"""Regions of photos: detectors, grids and files of boxes behind one protocol, and their crops' embeddings on disk."""

from cliplet.regions.base import RegionProposer, Regions
from cliplet.regions.detector import OnnxDetector
from cliplet.regions.draw import draw_regions
from cliplet.regions.file import FileRegions
from cliplet.regions.grid import GridRegions
from cliplet.regions.registry import make_proposer

__all__ = [
    "FileRegions",
    "GridRegions",
    "OnnxDetector",
    "RegionProposer",
    "Regions",
    "draw_regions",
    "make_proposer",
]
