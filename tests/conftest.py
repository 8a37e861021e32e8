"""Fixtures that several folders of tests share."""

import importlib
import sys
from pathlib import Path

import pytest

_KEPT_ALIVE = []
sys.path.append(str(Path(__file__).parents[1] / "recipes"))  # their folders are packages


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real photos of every kind: paths by file name (see ``tests/photos.py``)."""
    from tests.photos import write_photos

    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def torchvision() -> None:
    """Make ``import torchvision`` work beside a torch that it was not built for.

    The usual pairing in a CI machine is torch's CPU build with the torchvision that comes by default: its compiled
    operators cannot be loaded, and the import stops at ``operator torchvision::nms does not exist``. What the
    libraries under test use is pure Python; it works once those operators are declared.
    """
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        pytest.skip(f"needs torchvision: {error}")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return
    import torch

    for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[module]
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT_ALIVE.append(library)
    importlib.import_module("torchvision")
