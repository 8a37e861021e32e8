"""Scores agree with the definition (Hessel et al. 2021, section 3) written out in PyTorch on real photos.

This follows the paper step by step, without a line of cliplet: bicubic resize of the short side to 224 and centre
crop, CLIP's mean and deviation, the prefix, the two towers, unit length, then the formulas.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cliplet import Scorer
from tests.photos import as_a_viewer_shows_it

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])
ROWS = {
    "plain.jpg": ("a temple beside a garden", ["a Chinese temple", "people walk past an old building"]),
    "square.png": ("a woman in an orange suit", ["an astronaut before a flag"]),
    "wide.jpg": ("rooftops under a cloudy sky", []),
    "tall.png": ("the face of a smiling astronaut", ["a portrait of a woman", "a space suit", "a smile"]),
    "grey.jpg": ("a man with a camera on a tripod", ["a photographer in a park"]),
    "exif6.jpg": ("a rocket on its launch pad", ["a rocket at night", "a tall white rocket"]),
}


@pytest.fixture(scope="module")
def model(torchvision: None) -> Any:
    open_clip = pytest.importorskip("open_clip")
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    from tests.parity.local_models import random_weights

    vision = CLIPVisionCfg(layers=2, width=64, head_width=16, patch_size=32, image_size=224)
    model = CLIP(48, vision, CLIPTextCfg(width=64, heads=4, layers=2))
    return random_weights(model).eval(), open_clip.get_tokenizer("ViT-B-32")


def pixels(image: Image.Image) -> Any:
    """A photo as the paper's code prepares it: float [1, 3, 224, 224]."""
    image = image.convert("RGB")
    scale = 224 / min(image.size)
    image = image.resize([int(side * scale + 1e-9) for side in image.size], Image.Resampling.BICUBIC)
    left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
    values = torch.from_numpy(np.array(image.crop((left, top, left + 224, top + 224)))) / 255
    return ((values - MEAN) / STD).permute(2, 0, 1)[None]


def by_definition(
    model: Any, tokenizer: Any, path: Path, caption: str, references: list[str]
) -> tuple[float, float]:
    """CLIP-S and RefCLIP-S of one row (NaN without references), in float64 after the towers."""

    def unit(vector: Any) -> np.ndarray:
        vector = vector[0].double().numpy()
        return vector / np.linalg.norm(vector)

    with torch.no_grad():
        v = unit(model.encode_image(pixels(as_a_viewer_shows_it(path))))
        c, *refs = [
            unit(model.encode_text(tokenizer(["A photo depicts " + t]))) for t in [caption, *references]
        ]
    clip_s = 2.5 * max(c @ v, 0.0)
    if not refs:
        return clip_s, float("nan")
    best = max(max(c @ r for r in refs), 0.0)
    return clip_s, 2 * clip_s * best / (clip_s + best) if clip_s + best > 0 else 0.0


def test_clip_score_and_ref_clip_score(model: Any, photos: dict[str, Path]) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    from cliplet.encoders.open_clip import OpenClipEncoder

    tower, tokenizer = model
    encoder = OpenClipEncoder(tower, image_transform_v2(PreprocessCfg(), is_train=False), tokenizer)
    # Each photo with its caption and with the next photo's, so that some cosines are negative.
    names = [*ROWS, *ROWS]
    texts = [*ROWS.values(), *list(ROWS.values())[1:], next(iter(ROWS.values()))]
    result = Scorer(encoder).score([photos[n] for n in names], [c for c, _ in texts], [r for _, r in texts])
    expected = np.array(
        [by_definition(*model, photos[n], c, r) for n, (c, r) in zip(names, texts, strict=True)]
    )
    np.testing.assert_allclose(result.score, expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(result.ref_clip_score, expected[:, 1], atol=1e-5)  # NaN where no references
    assert result.mean == pytest.approx(expected[:, 0].mean(), abs=1e-5)
    assert (expected[:, 0] == 0).any()
    assert (expected[:, 0] > 0.1).any()
    assert (result.cosine < 0).any(), "the clamp is only proved on negative cosines"
    assert result.failures == [None] * len(names)
    assert result.provenance["prompt_prefix"] == "A photo depicts "
    assert result.provenance["w"] == 2.5
