"""Captioners that run without PyTorch: a folder, its decoding, captions for a pile of photos."""

from cliplet.captioner.decoding import DecodeConfig
from cliplet.captioner.folder import CaptionerCard
from cliplet.captioner.model import Captioner, PhotoCaptions

__all__ = ["Captioner", "CaptionerCard", "DecodeConfig", "PhotoCaptions"]
