"""One photo and its caption followed through a DCLIP run: regions, spans, attention, embedding, before and after."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cliplet.data.images import load_rgb
from cliplet.data.spans import noun_phrases
from cliplet.encoders.base import unit_norm
from cliplet.errors import InputError
from cliplet.models.cross_modal import CrossModalTeacher
from cliplet.regions.base import Regions
from cliplet.regions.registry import make_proposer
from cliplet.training.checkpoint import read_weights
from cliplet.training.dclip.config import DclipConfig, dclip_config, variant_config
from cliplet.training.dclip.finetuning import run_folder
from cliplet.training.dclip.run import BASES
from cliplet.training.dclip.teacher import scaled, teacher_folder
from cliplet.training.dclip.trainable import TrainableClip, crop_embedder, open_trainable
from cliplet.training.fit import BEST

Trace = dict[str, Any]
"""What happened to one pair, for JSON: ``caption``; ``regions``, each with its ``box``, ``label``, ``score`` and
``weight``, its share of the pooled photo; ``spans``, each with its ``text`` and ``weight`` in the pooled caption;
``attention`` ``[spans, regions]``, how much each span looks at each region; ``cosines`` between what was embedded."""


def follow(
    run: str | Path, photo: str | Path, caption: str, seed: int | None = None, variant: str | None = None
) -> tuple[Trace, Regions]:
    """Follow a photo and a caption through the teacher and the student of a finished run.

    Args:
        run: the run's folder (``out`` of the recipe).
        photo: the photo.
        caption: its caption.
        seed: which of the run's seeds; its first by default.
        variant: which of the run's variants; its ``main`` one by default.

    Returns:
        What happened, and the regions that the teacher saw.

    Raises:
        InputError: the folder holds no finished run of DCLIP, or that variant has no cross-modal teacher.
    """
    run = Path(run)
    try:
        recipe = dclip_config(json.loads((run / "recipe.json").read_text(encoding="utf-8")))
        bases = json.loads((run / BASES).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{run} holds no run of DCLIP: {error}") from error
    name = variant or recipe.main or recipe.variants[0].name
    chosen = next((v for v in recipe.variants if v.name == name), None)
    if chosen is None:
        raise InputError(f"{run} has no variant {name}; it has {', '.join(v.name for v in recipe.variants)}")
    config = variant_config(dataclasses.replace(recipe, out=str(run)), chosen)
    seed = config.seeds[0] if seed is None else seed
    weights = teacher_folder(config, seed, bases[name]) / BEST
    if not weights.exists():
        raise InputError(
            f"{run} has no trained teacher of variant {name}, seed {seed}; run cliplet distill on its recipe first"
        )
    trace, found = _taught(config, open_trainable(bases[name]), weights, Path(photo), caption)
    tuned = run_folder(config, seed) / "model"
    if (tuned / "model.safetensors").exists():
        student = open_trainable(str(tuned)).encoder
        image, text = student.encode_images([str(photo)])[0], student.encode_texts([caption])[0]
        trace["cosines"]["photo, tuned - caption, tuned"] = round(float(image @ text), 4)
    return trace, found


@torch.inference_mode()
def _taught(
    config: DclipConfig, base: TrainableClip, weights: Path, photo: Path, caption: str
) -> tuple[Trace, Regions]:
    """The teacher's part."""
    image = load_rgb(photo)
    proposer = make_proposer(config.regions.proposer, config.regions.score, config.regions.iou)
    found = config.regions.choose(proposer.propose(image, photo.name), image)
    width = base.encoder.card.embedding_dim
    crops = np.zeros((1, width), dtype=np.float32)  # no region: one zero vector, as released
    if len(found):
        crops = crop_embedder(base, base.encoder, config.regions.raw_crops)(found.crops(image))
    if config.spans == "phrases":
        spans = [s.text for s in noun_phrases(caption)] or [caption]
        states = base.encoder.encode_texts(spans)
    else:
        tokens, of_tokens = base.token_states([caption], padding=not config.teacher.mask)
        states = unit_norm(of_tokens[0].numpy())
        spans = [*tokens[0], *["(padding)"] * (len(states) - len(tokens[0]))]
    teacher = CrossModalTeacher(config.teacher, width)
    teacher.load_state_dict(read_weights(weights))
    teacher.eval()
    x, y = (torch.from_numpy(scaled(np.asarray(v, dtype=np.float32)))[None] for v in (states, crops))
    out = teacher(x, torch.ones(x.shape[:2], dtype=torch.bool), y, torch.ones(y.shape[:2], dtype=torch.bool))
    whole, text = base.encoder.encode_images([image])[0], base.encoder.encode_texts([caption])[0]
    fused, pooled = (unit_norm(v.numpy())[0] for v in (out.fused, out.image))
    shares, looks = out.region_weights[0].tolist(), out.attention[0].tolist()
    return {
        "caption": caption,
        "regions": [
            {"box": [round(float(v), 1) for v in box], "label": found.label(i),
             "score": round(float(found.scores[i]), 4), "weight": round(shares[i], 4)}
            for i, box in enumerate(found.boxes)
        ],
        "spans": [
            {"text": s, "weight": round(w, 4)} for s, w in zip(spans, out.span_weights[0].tolist(), strict=True)
        ],
        "attention": [[round(v, 4) for v in row] for row in looks],
        "cosines": {
            "photo - caption (before tuning)": round(float(whole @ text), 4),
            "photo - teacher's embedding": round(float(whole @ fused), 4),
            "caption - teacher's embedding": round(float(text @ fused), 4),
            "caption - teacher's photo part": round(float(text @ pooled), 4),
        },
    }, found  # fmt: skip


def trace_text(trace: Trace) -> str:
    """For a terminal."""
    lines = [
        f"caption: {trace['caption']}",
        "",
        "regions (box, class, score, share in the pooled photo):",
    ]
    for i, region in enumerate(trace["regions"]):
        place = " ".join(f"{v:5.0f}" for v in region["box"])
        label = region["label"] or ("whole photo" if i == 0 else "")
        lines.append(f"  {i + 1:>2}  {place}  {label:<14} {region['score']:.2f}  {region['weight']:6.1%}")
    head = " ".join(f"{i + 1:>5}" for i in range(max(1, len(trace["regions"]))))
    lines += ["", "spans (share in the pooled caption; attention to each region, in %):"]
    lines.append(f"  {'':<18} share  {head}")
    for span, row in zip(trace["spans"], trace["attention"], strict=True):
        looks = " ".join(f"{100 * v:5.0f}" for v in row)
        lines.append(f"  {span['text'][:18]:<18} {span['weight']:5.1%}  {looks}")
    lines += ["", "cosines:", *(f"  {name:<34} {value:+.3f}" for name, value in trace["cosines"].items())]
    return "\n".join(lines)
