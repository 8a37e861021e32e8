#!/usr/bin/env bash
# py-data-juicer 1.6.1's image_text_similarity_filter takes any CLIP-like model of Transformers (hf_clip=...), and calls
# what it stores a similarity; it is logits_per_text / 100. That is the cosine only where the model's logit scale is 100,
# as in OpenAI's CLIPs. A CLIP of one's own keeps the scale that its training ended at (Transformers begins at 14.3), and
# a SigLIP adds its bias (about -12.9 at a scale of 117 in the released ones, where a good pair has a cosine near 0.1). So
# the default min_score=0.1 asks another cosine of each: pairs with the same embeddings are kept by one and dropped by the
# other, without a word. Thresholds do not carry over to cosines or back.
#
# Seen on 2026-11-29 (CPU, Python 3.11; transformers 5.24.0, torch 2.13.0), tiny random models, the best of 64 pairs:
#   CLIP, scale 100.0: cosine 0.289, stored 0.289, kept
#   CLIP, scale  14.3: cosine 0.289, stored 0.041, dropped
#   SigLIP, scale 117.3, bias -12.9: cosine 0.431, stored 0.377, kept
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/try.py" <<'PY'
import math
import os
import sys

import numpy as np
import torch
from data_juicer.ops.filter.image_text_similarity_filter import ImageTextSimilarityFilter
from data_juicer.utils.constant import Fields, StatsKeys
from data_juicer.utils.mm_utils import SpecialTokens
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast, SiglipConfig,
    SiglipImageProcessor, SiglipModel, SiglipProcessor,
)

work = sys.argv[1]
WORDS = "red green blue grey dog cat car tree".split()
rng = np.random.default_rng(0)
photos = []
for i in range(8):
    path = f"{work}/{i}.png"
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    photos.append(path)


def words(folder):
    vocabulary = {w: i for i, w in enumerate(["<pad>", "<end>", *WORDS])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<end>", model_max_length=8)


TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = {**TOWER, "vocab_size": 10, "max_position_embeddings": 8, "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 0}
IMAGE = {**TOWER, "image_size": 32, "patch_size": 8}
SIZE = {"size": {"height": 32, "width": 32}, "do_center_crop": False}


def save(kind, scale, bias=None):
    """A random model whose logits have this scale and bias."""
    folder = f"{work}/{kind}-{scale:.0f}"
    torch.manual_seed(0)
    if kind == "CLIP":
        model = CLIPModel(CLIPConfig(text_config=TEXT, vision_config=IMAGE, projection_dim=16))
        processor = CLIPProcessor(CLIPImageProcessor(**SIZE), words(folder))
    else:
        model = SiglipModel(SiglipConfig(text_config={**TEXT, "projection_size": 16}, vision_config=IMAGE))
        processor = SiglipProcessor(SiglipImageProcessor(size=SIZE["size"]), words(folder))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1:
                torch.nn.init.normal_(p, std=0.3)
        model.logit_scale.fill_(math.log(scale))
        if bias is not None:
            model.logit_bias.fill_(bias)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, model, processor


def best_pair(model, processor):
    """The photo and the word whose embeddings have the highest cosine."""
    inputs = processor(text=WORDS, images=[Image.open(p) for p in photos], return_tensors="pt", padding=True)
    with torch.no_grad():
        out = model(**inputs)
    cosine = torch.nn.functional.normalize(out.text_embeds) @ torch.nn.functional.normalize(out.image_embeds).T
    text, photo = divmod(int(cosine.argmax()), len(photos))
    return WORDS[text], photos[photo], float(cosine.max())


def stored(folder, text, photo):
    op = ImageTextSimilarityFilter(hf_clip=folder)
    sample = {"text": f"{SpecialTokens.image}{text}{SpecialTokens.eoc}", "images": [photo], Fields.stats: {}}
    sample = op.compute_stats_single(sample)
    return sample[Fields.stats][StatsKeys.image_text_similarity][0], op.process_single(sample)


for kind, scale, bias in (("CLIP", 100.0, None), ("CLIP", 1 / 0.07, None), ("SigLIP", 117.3, -12.9)):
    folder, model, processor = save(kind, scale, bias)
    text, photo, cosine = best_pair(model, processor)
    value, kept = stored(folder, text, photo)
    told = f"{kind}, scale {scale:5.1f}" + (f", bias {bias}" if bias else "")
    print(f"{told}: cosine {cosine:.3f}, stored {value:.3f}, {'kept' if kept else 'dropped'}")
    assert abs(value - (scale * cosine + (bias or 0)) / 100) < 1e-3, "CHANGED"
    assert cosine > 0.2 and kept == (value >= 0.1) == (scale >= 100), "CHANGED"
PY
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q torch==2.13.0 py-data-juicer==1.6.1 transformers==5.24.0 aiohttp==3.14.5
"$work/env/bin/python" "$work/try.py" "$work" 2> "$work/log" || { tail -20 "$work/log"; exit 1; }
