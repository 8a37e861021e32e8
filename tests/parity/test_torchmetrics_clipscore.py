"""The ``torchmetrics`` preset agrees with torchmetrics' CLIPScore on the same model and photos.

What torchmetrics 1.9 does, and how it was made to run here:

- It takes images as tensors (uint8, 0 to 255, ``[3, h, w]``), already decoded, and puts them through the model's own
  processor: the same resize and crop as ours. Photos are therefore decoded here by cliplet's policy and handed over
  as tensors; a PNG and its tensor give the same pixels. (Not so with transparency: a tensor has none left, while
  Transformers 5 puts a transparent PNG on white.)
- A local folder is taken only when its path contains ``openai`` (it then loads ``CLIPModel`` from it); any other
  name is refused. Instead of a name it takes a function that returns the model and its processor.
- Under Transformers 5 it fails inside (``get_image_features`` returns an object, not a tensor), whichever way the
  model is named. The function given here hands it a model whose two methods return the embeddings, as they did
  under Transformers 4; nothing else of it is replaced.
- It clamps the mean of a batch (or of all batches) at 0, not each pair; the preset keeps pairs as they are and clamps
  the mean alike. ``w`` and a prompt prefix are unknown to it.
- It cuts a long caption at 77 tokens with the end token cut off too (and says so in a warning), so the score is read
  from another token: see the last test. cliplet keeps the end token; on such captions the two differ by design.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cliplet import Scorer
from cliplet.data.images import load_rgb
from tests.parity.local_models import CAPTIONS

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.usefixtures("torchvision"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the library's own
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
TOLERANCE = 1e-3  # on the scale of 100
PHOTOS = [
    "plain.jpg",
    "square.png",
    "wide.jpg",
    "tall.png",
    "grey.jpg",
    "one_bit.png",
    "cmyk.jpg",
    "exif6.jpg",
]
SHORT = [c for c in CAPTIONS if c.strip() and len(c) < 100][: len(PHOTOS)]


def as_tensor(path: Path) -> Any:
    return torch.from_numpy(np.array(load_rgb(path))).permute(2, 0, 1)  # uint8 [3, h, w]


@pytest.fixture(scope="module")
def load(clip_folder: Path) -> Any:
    """What torchmetrics takes in place of a model's name: a function that returns (model, processor)."""
    pytest.importorskip("torchmetrics")
    from transformers import CLIPModel, CLIPProcessor

    class Transformers4Model(CLIPModel):
        def get_image_features(self, *args: Any, **kwargs: Any) -> Any:
            return _tensor(super().get_image_features(*args, **kwargs))

        def get_text_features(self, *args: Any, **kwargs: Any) -> Any:
            return _tensor(super().get_text_features(*args, **kwargs))

    model = Transformers4Model.from_pretrained(clip_folder).eval()
    processor = CLIPProcessor.from_pretrained(clip_folder)
    return lambda: (model, processor)


def _tensor(output: Any) -> Any:
    return output if torch.is_tensor(output) else output.pooler_output


@pytest.fixture(scope="module")
def scorer(clip_folder: Path) -> Scorer:
    return Scorer(f"hf:{clip_folder}", preset="torchmetrics")


def test_every_pair_agrees(load: Any, scorer: Scorer, photos: dict[str, Path]) -> None:
    from torchmetrics.functional.multimodal import clip_score

    paths = [photos[name] for name in PHOTOS]
    ours = scorer.score(paths, SHORT).score
    theirs = [
        float(clip_score(as_tensor(p), c, model_name_or_path=load).detach())
        for p, c in zip(paths, SHORT, strict=True)
    ]
    np.testing.assert_allclose(np.maximum(ours, 0), theirs, atol=TOLERANCE)  # a mean of one pair is clamped
    assert np.ptp(theirs) > 5, "scores that are all alike cannot tell agreement from its absence"


def test_the_mean_over_batches_agrees(load: Any, scorer: Scorer, photos: dict[str, Path]) -> None:
    from torchmetrics.multimodal import CLIPScore

    metric = CLIPScore(model_name_or_path=load)
    paths = [photos[name] for name in PHOTOS]
    for start in range(0, len(paths), 3):
        metric.update([as_tensor(p) for p in paths[start : start + 3]], SHORT[start : start + 3])
    assert scorer.score(paths, SHORT).mean == pytest.approx(float(metric.compute()), abs=TOLERANCE)


def test_the_mean_is_clamped_and_pairs_are_not(load: Any, scorer: Scorer, photos: dict[str, Path]) -> None:
    from torchmetrics.functional.multimodal import clip_score

    scores = scorer.score([photos[n] for n in PHOTOS], SHORT).score
    worst = int(np.argmin(scores))
    assert scores[worst] < 0
    pair = scorer.score([photos[PHOTOS[worst]]], [SHORT[worst]])
    assert pair.score[0] == pytest.approx(scores[worst], abs=TOLERANCE)
    assert pair.mean == 0.0
    assert float(clip_score(as_tensor(photos[PHOTOS[worst]]), SHORT[worst], load).detach()) == 0.0


@pytest.mark.filterwarnings("ignore:Encountered caption longer")
def test_a_cut_caption_differs_because_torchmetrics_loses_the_end_token(
    load: Any, scorer: Scorer, photos: dict[str, Path]
) -> None:
    from torchmetrics.functional.multimodal import clip_score

    long = CAPTIONS[-1]
    everywhere = scorer.score([photos[n] for n in PHOTOS], [long] * len(PHOTOS))
    assert everywhere.truncated.all()
    best = int(np.argmax(everywhere.score))
    tensor = as_tensor(photos[PHOTOS[best]])
    model, processor = load()
    cut = processor(text=[long], truncation=True, max_length=77, return_tensors="pt")  # keeps the end token
    with torch.no_grad():
        text = model.get_text_features(**cut)
        image = model.get_image_features(**processor(images=[tensor], return_tensors="pt"))
    right = 100 * float(torch.nn.functional.cosine_similarity(text, image))
    assert right > 1
    assert everywhere.score[best] == pytest.approx(right, abs=TOLERANCE)
    assert abs(float(clip_score(tensor, long, load).detach()) - right) > 1
