"""Image towers as grids: uint8 photos in, the cells of the last feature map out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cliplet.encoders.registry import packaged_models
from cliplet.errors import InputError, MissingExtraError, ModelError
from cliplet.export.onnx_grid import OnnxGrid
from cliplet.models.captioner_config import GridConfig
from cliplet.models.compat import prepare_torchvision


class GridTower(nn.Module):
    """uint8 (or float 0..255) RGB pixels ``[n, H, W, 3]`` -> cells ``[n, N, C]``, channels of all towers in a row."""

    def __init__(self, config: GridConfig) -> None:
        super().__init__()
        self.config = config
        self.bodies = nn.ModuleList()
        for i, name in enumerate(config.towers):
            body, mean, std = _build(name, config.pretrained)
            self.bodies.append(body)
            for kind, values in (("mean", mean), ("std", std)):
                shape = torch.tensor(values, dtype=torch.float32)[:, None, None] * 255  # [3, 1, 1]
                self.register_buffer(f"{kind}{i}", shape)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """``[n, H, W, 3]`` -> ``[n, N, C]``."""
        return torch.cat(list(self._grids(pixels)), dim=2)

    def _grids(self, pixels: Tensor) -> Iterator[Tensor]:
        x = pixels.permute(0, 3, 1, 2).float()
        for i, body in enumerate(self.bodies):
            if isinstance(body, OnnxGrid):
                yield body(pixels)
                continue
            grid = body.forward_features((x - self.get_buffer(f"mean{i}")) / self.get_buffer(f"std{i}"))  # type: ignore[operator]
            if grid.ndim == 4:
                yield grid.flatten(2).transpose(1, 2)  # [n, C, h, w] -> [n, N, C]
            else:
                yield grid[:, int(getattr(body, "num_prefix_tokens", 0)) :]

    @property
    def can_learn(self) -> bool:
        """False where a tower has no PyTorch weights."""
        return not any(isinstance(body, OnnxGrid) for body in self.bodies)

    @torch.no_grad()
    def shape(self) -> tuple[int, int]:
        """Cells and channels ``(N, C)`` of one photo.

        Raises:
            InputError: the towers' grids differ in size.
        """
        size = self.config.size
        try:
            _, cells, channels = self(torch.zeros(1, size, size, 3, dtype=torch.uint8)).shape
        except RuntimeError as error:
            raise InputError(f"grid.towers {self.config.towers} at {size} pixels: {error}") from error
        return cells, channels


def _build(name: str, pretrained: bool) -> tuple[Any, Any, Any]:
    """A timm model without its classifier, and the mean and standard deviation of its input."""
    from cliplet.models.pretrained import efficientnet_lite

    if name.startswith("efficientnet_lite"):
        if name[-1] not in "012" or len(name) != 18:
            raise InputError(f"no image tower {name!r}: there are efficientnet_lite0, 1 and 2")
        return _headless(efficientnet_lite(int(name[-1]))), (0.5,) * 3, (0.5,) * 3
    kind, _, what = name.partition(":")
    if kind == "lclip" and what:
        from cliplet.models.dual import load_weights
        from cliplet.models.vision import TimmImageTower, TwinImageTower

        folder = next((f for f in packaged_models() if f.name == what), Path(what))
        if (folder / "image.onnx").is_file() and not (folder / "model.safetensors").is_file():
            return OnnxGrid(folder / "image.onnx"), (0.0,) * 3, (1 / 255,) * 3
        image = load_weights(folder).image
        if isinstance(image, TwinImageTower):
            return image.learnt(), image.config.mean, image.config.std
        if not isinstance(image, TimmImageTower):
            raise ModelError(f"{what}: only an image tower from timm can serve as a grid")
        return image.body, image.config.mean, image.config.std
    if kind == "recap":
        return _retrieved(name, what), (0.0,) * 3, (1 / 255,) * 3
    if kind != "timm" or not what:
        raise InputError(
            f"no image tower {name!r}: use efficientnet_lite0..2, lclip:MODEL, timm:NAME or recap:MODEL+STORE.npz"
        )
    prepare_torchvision()
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError(f"image tower {name}", "train") from error
    if what not in timm.list_models():
        raise InputError(f"timm has no model {what!r}; timm.list_models() lists them")
    body: Any = timm.create_model(what, pretrained=pretrained, num_classes=0)
    return body, body.default_cfg["mean"], body.default_cfg["std"]


def _retrieved(name: str, what: str) -> OnnxGrid:
    """The tower of ``recap:MODEL+STORE``."""
    from cliplet.training.captioner.memory import RetrievedCaptions

    model, plus, store = what.rpartition("+")
    if not plus or not model or not store:
        raise InputError(f"image tower {name!r}: give recap:MODEL+STORE.npz, of `cliplet caption store`")
    folder = next((f for f in packaged_models() if f.name == model), Path(model))
    return RetrievedCaptions(folder, Path(store))


def _headless(model: Any) -> Any:
    model.reset_classifier(0)
    return model
