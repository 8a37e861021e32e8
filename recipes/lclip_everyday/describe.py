"""What a run of the packaged model's recipe will compute: ``cliplet distill recipes/lclip_everyday --dry-run``."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from cliplet.errors import ModelError
from cliplet.models.dual import count_parameters
from cliplet.models.late import LateTower, early_stages
from cliplet.models.pretrained import efficientnet_lite, english_word_pieces, sentence_model
from cliplet.models.text import TextTower
from cliplet.models.yolox import yolox_features
from cliplet.regions.coco import COCO_CLASSES
from cliplet.training.config import Schedule
from cliplet.training.cost import Rows, multiply_adds, pairs_row
from cliplet.training.pairs import read_pairs

from .data import SIZE, detector_graph
from .recipe import Settings
from .run import read_bare, text_config
from .teacher import read_texts
from .words import short_texts


def describe(settings: Settings) -> Rows:
    """Data found, parts, what is computed once and kept, and the steps of each stage."""
    s = settings
    train, dev, more = read_pairs(s.train), read_pairs(s.dev), read_texts(s.more_captions).captions
    bare = len(read_bare(s).photos)
    rows = [pairs_row("training", train), pairs_row("dev", dev)]
    rows.append(("bare photos", f"{bare:,}, which get pseudo-captions; {s.bare_left_out} more are kept out"))
    rows.append(("more captions", f"{len(more):,} without photos"))
    if s.detector:
        detector_graph(Path(s.detector), s.detector_layers)  # is it one?
        rows.append(("detector", f"{s.detector}, {len(s.detector_layers)} inner tensors"))
    texts = [*train.captions, *more]
    if s.short_texts and _pretrained_problem(s) is None:
        texts += short_texts(texts, COCO_CLASSES)
    rows += _parts(s, texts, len(train.photos) + bare, len(dev.photos))
    image = [(f"image, soft={soft}", s.image_stage, len(train.photos) + bare) for soft in s.soft]
    stages = [("text", s.text_stage, len(texts)), *image, ("ReLUs", s.relu_stage, len(texts))]
    return rows + [(f"stage {name}", _steps(stage, items)) for name, stage, items in stages]


def _pretrained_problem(s: Settings) -> str | None:
    """Which pretrained part is missing."""
    try:
        english_word_pieces([], s.vocabulary)
        for name in s.sentence_models:
            sentence_model(name)
        for variant in {*s.ensemble, s.trunk}:
            efficientnet_lite(variant)
    except ModelError as error:
        return str(error)
    return None


def _parts(s: Settings, texts: Sequence[str], train: int, dev: int) -> Rows:
    """The towers and the maps that are kept; or which pretrained part is missing."""
    problem = _pretrained_problem(s)
    if problem:
        return [("pretrained parts", problem)]
    tokenizer, ids, _ = english_word_pieces(texts, s.vocabulary)
    body = efficientnet_lite(s.trunk)
    tower, late = TextTower(text_config(s, len(ids))), LateTower(body, s.first_stage, 1, 0.0, s.first_block)
    length = int(np.mean([len(e.ids) for e in tokenizer.encode_batch(list(texts[:1000]))]))
    photo, caption = torch.zeros(1, 3, SIZE, SIZE), torch.zeros(1, length, dtype=torch.long)
    with torch.no_grad():
        maps = early_stages(body, s.first_stage, s.first_block)(photo)
        twin = multiply_adds(late, maps)
    inside = yolox_features(s.detector, s.detector_inside) if s.detector_inside else None
    adds = multiply_adds(tower, caption, torch.ones_like(caption)), multiply_adds(body, photo) + twin
    if inside is not None:
        adds = adds[0], adds[1] + multiply_adds(inside, photo)
    kept = maps.numel() * 2 * (train * s.augment.views + dev)
    seen_by = [f"EfficientNet-Lite{v}" for v in s.ensemble] + ["the detector"] * bool(s.detector)
    all_of_it = sum(count_parameters(part) for part in (body, late, inside) if part is not None)
    return [
        ("pretrained parts", "all installed"),
        ("text tower", f"{count_parameters(tower):,} parameters, {adds[0] / 1e9:.3f} G multiply-adds a caption of "
                       f"{length} tokens"),
        ("image tower", f"{all_of_it:,} parameters, {adds[1] / 1e9:.3f} G multiply-adds a photo; "
                        f"{count_parameters(late):,} learn"),
        ("computed once", f"{len(texts):,} texts and the pseudo-captions by {', '.join(s.sentence_models)}; "
                          f"photos by {', '.join(seen_by)}"),
        ("kept on disk", f"{kept / 1e9:.2f} GB of maps: {s.augment.views} views of each training photo"),
    ]  # fmt: skip


def _steps(stage: Schedule, items: int) -> str:
    batches = items // stage.batch_size
    return f"{stage.epochs * batches:,} steps of {stage.batch_size} ({stage.epochs} epochs)"
