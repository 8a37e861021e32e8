"""Importing libraries that need torchvision where torchvision does not fit the installed PyTorch."""

from typing import Any

_KEEP: list[Any] = []


def prepare_torchvision() -> None:
    """Make ``import torchvision`` work although its compiled operators are missing.

    A torchvision wheel that was built for another PyTorch fails to import ("operator torchvision::nms does not
    exist"), and timm and open_clip with it, although neither uses those operators here. Declaring them is enough.
    Does nothing where torchvision is absent or sound. Call it before importing timm or open_clip.
    """
    try:
        import torchvision
    except ImportError:
        return
    except RuntimeError as error:
        if "torchvision::" not in str(error) or _KEEP:
            raise
        import torch

        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEEP.append(library)
        import torchvision  # noqa: F401
