"""Image towers: pixels ``[B, 3, H, W]`` (normalised floats) in, unnormalised embeddings ``[B, d]`` out."""

import torch
from torch import Tensor, nn

from cliplet.errors import InputError, MissingExtraError
from cliplet.models.compat import prepare_torchvision
from cliplet.models.config import ImageTowerConfig, TimmConfig, VisionConfig
from cliplet.models.multiplexed import MultiplexedTransformer, init_weights


class VisionTower(nn.Module):
    """Multiplexed vision transformer: patches, class token, learnt positions; the class token is projected.

    The published L-CLIP image student is ``VisionTower(VisionConfig())``: 24,074,240 parameters.
    """

    body = None  # of another library

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        grid = config.image_size // config.patch_size
        self.patch = nn.Conv2d(3, config.width, config.patch_size, config.patch_size)
        self.class_token = nn.Parameter(torch.zeros(config.width))
        self.positions = nn.Parameter(torch.zeros(1 + grid * grid, config.width))
        self.transformer = MultiplexedTransformer(config, grid if config.mlp_transform else None)
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.embedding_dim)
        self.apply(init_weights)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def tokens(self, pixels: Tensor) -> Tensor:
        """All token states after the last block and LayerNorm: ``[B, 1 + G * G, D]``, class token first."""
        x = self.patch(pixels).flatten(2).transpose(1, 2)  # [B, G * G, D]
        first = self.class_token.expand(x.shape[0], 1, -1)
        x = torch.cat([first, x], dim=1) + self.positions
        return self.norm(self.transformer(x))  # type: ignore[no-any-return]

    def forward(self, pixels: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, d]``."""
        return self.head(self.tokens(pixels)[:, 0])  # type: ignore[no-any-return]


class TimmImageTower(nn.Module):
    """Any timm model without its classifier, and a linear projection of its pooled features."""

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        prepare_torchvision()
        try:
            import timm
        except ImportError as error:
            raise MissingExtraError(f"image tower {config.name}", "train") from error
        if config.name not in timm.list_models():
            raise InputError(f"timm has no model {config.name!r}; timm.list_models() lists them")
        self.config = config
        self.body = timm.create_model(config.name, num_classes=0, **config.options)
        self.head = nn.Linear(int(self.body.num_features), config.embedding_dim)  # type: ignore[arg-type]

    def forward(self, pixels: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, d]``."""
        return self.head(self.body(pixels))  # type: ignore[no-any-return]


def build_image_tower(config: ImageTowerConfig) -> VisionTower | TimmImageTower:
    """The image tower that the configuration describes, with random weights."""
    return VisionTower(config) if isinstance(config, VisionConfig) else TimmImageTower(config)
