"""Image towers: pixels ``[B, 3, H, W]`` (normalised floats) in, unnormalised embeddings ``[B, d]`` out."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from cliplet.errors import InputError, MissingExtraError
from cliplet.models.compat import prepare_torchvision
from cliplet.models.config import ImageTowerConfig, TimmConfig, TwinConfig, VisionConfig
from cliplet.models.multiplexed import MultiplexedTransformer, init_weights
from cliplet.models.yolox import YoloxFeatures


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
        self.config = config
        self.body = _timm_model(config.name, num_classes=0, **config.options)
        self.head = nn.Linear(int(self.body.num_features), config.embedding_dim)  # type: ignore[arg-type]

    def forward(self, pixels: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, d]``."""
        return self.head(self.body(pixels))  # type: ignore[no-any-return]


class LastStages(nn.Module):
    """The last stages of an EfficientNet as a network of their own, under timm's names: maps to pooled features."""

    def __init__(self, body: Any, first: int, block: int = 0) -> None:
        super().__init__()
        self.blocks = copy.deepcopy(nn.Sequential(body.blocks[first][block:], *body.blocks[first + 1 :]))
        self.conv_head, self.bn2 = copy.deepcopy(body.conv_head), copy.deepcopy(body.bn2)

    def forward_features(self, maps: Tensor) -> Tensor:
        """``[B, C, h, w]`` -> the last feature map ``[B, width, h', w']``."""
        return self.bn2(self.conv_head(self.blocks(maps)))  # type: ignore[no-any-return]

    def forward(self, maps: Tensor) -> Tensor:
        """``[B, C, h, w] -> [B, width]``."""
        return self.forward_features(maps).mean(dim=(2, 3))


class _Learnt(nn.Module):
    """A twin tower's early stages and those that learn: pixels to the last feature map."""

    def __init__(self, early: nn.Sequential, late: LastStages) -> None:
        super().__init__()
        self.early, self.late = early, late

    def forward_features(self, pixels: Tensor) -> Tensor:
        """``[B, 3, H, W] -> [B, width, h, w]``."""
        return self.late.forward_features(self.early(pixels))


class TwinImageTower(nn.Module):
    """An EfficientNet classifier, its last stages once more, which learn, and a projection of what both see.

    The projection reads the learnt pooled features, the classifier's own, its probabilities and, where one takes part,
    what a detector finds: what is known need not be learnt again from captions, nor is it forgotten. ``scale`` brings
    these to one size, which weights of 8 bits need: a row of the projection has one step for all its inputs.
    """

    scale: Tensor

    in_floats = ("detector",)
    """Parts that an export leaves in fp32: integers gain nothing there, since its SiLUs are in fp32."""

    def __init__(self, config: TwinConfig) -> None:
        super().__init__()
        self.config = config
        self.body: Any = _timm_model(config.name, num_classes=config.classes)
        if not all(hasattr(self.body, part) for part in ("conv_stem", "bn1", "blocks", "conv_head", "bn2")):
            raise InputError(f"{config.name} has no EfficientNet's stages; a twin tower needs one")
        if config.first_stage >= len(self.body.blocks):
            raise InputError(f"first_stage={config.first_stage} is not below {len(self.body.blocks)}")
        if config.first_block >= (blocks := len(self.body.blocks[config.first_stage])):
            raise InputError(f"first_block={config.first_block} is not below {blocks}, that stage's blocks")
        self.late = LastStages(self.body, config.first_stage, config.first_block)
        self.detector = YoloxFeatures(config.detector, config.mean, config.std) if config.detector else None
        found = YoloxFeatures.width if config.detector else 0
        known = 2 * int(self.body.num_features) + config.classes
        self.head = nn.Linear(known + found, config.embedding_dim)
        self.register_buffer("scale", torch.ones(known + found))

    def forward(self, pixels: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, d]``."""
        body, first, block = self.body, self.config.first_stage, self.config.first_block
        found = [] if self.detector is None else [self.detector(pixels)]
        maps = body.blocks[first][:block](body.blocks[:first](body.bn1(body.conv_stem(pixels))))
        last = body.blocks[first + 1 :](body.blocks[first][block:](maps))
        known = body.bn2(body.conv_head(last)).mean(dim=(2, 3))
        likely = body.classifier(known).softmax(dim=1)
        seen = torch.cat([self.late(maps), known, likely, *found], dim=1)
        return self.head(seen * self.scale)  # type: ignore[no-any-return]

    def learnt(self) -> nn.Module:
        """The part that gives the learnt feature map, without the classifier's own stages."""
        body, first = self.body, self.config.first_stage
        before = (*body.blocks[:first], body.blocks[first][: self.config.first_block])
        return _Learnt(nn.Sequential(body.conv_stem, body.bn1, *before), self.late)


def _timm_model(name: str, **options: Any) -> Any:
    prepare_torchvision()
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError(f"image tower {name}", "train") from error
    if name not in timm.list_models():
        raise InputError(f"timm has no model {name!r}; timm.list_models() lists them")
    return timm.create_model(name, **options)


ImageTower = VisionTower | TimmImageTower | TwinImageTower


def build_image_tower(config: ImageTowerConfig) -> ImageTower:
    """The image tower that the configuration describes, with random weights."""
    if isinstance(config, VisionConfig):
        return VisionTower(config)
    return TwinImageTower(config) if isinstance(config, TwinConfig) else TimmImageTower(config)
