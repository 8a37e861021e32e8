"""Real architectures with random weights, saved to local folders as the hub lays them out.

Nothing is downloaded: the CLIP vocabulary comes with open_clip, and a small SentencePiece vocabulary is trained
here on a page of captions, so every file that a hub would hold is a real one.
"""

import gzip
import json
from pathlib import Path

import pytest

CAPTIONS = [
    "",
    " ",
    "a dog",
    "A brown dog runs along the beach with a stick in its mouth.",
    "Two children, one in a RED hat, play football in the park!",
    "a rocket on its launch pad at night",
    "a cat's face; it's looking at you & me",
    "a dog \N{DOG FACE}, a family \N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}",
    "first line\nsecond line\r\n\tthird",
    "control \x00 \x07 \x1b[31m \x7f \u200b \ufeff characters",
    "一只狗在海滩上奔跑。",
    "كلب يركض على الشاطئ",
    "cafe\u0301 café naïve Ærøskøbing ﬁne ㎏ Ｗide",
    "&lt;b&gt; 100 % of 3,141.59 <|endoftext|> [SEP] </s> <pad>",
    "donaudampfschifffahrtsgesellschaft" * 12,
    "x" * 2000,
    "\N{DOG FACE}" * 300,
    ("a man in a blue shirt stands on a ladder and cleans a window while a small dog watches him " * 30)[
        :2000
    ],
]
"""Captions of every kind, from empty to 2,000 characters."""


def random_weights(model: object, seed: int = 0) -> object:
    """Weights of ordinary size drawn anew, biases too: a library's own start leaves towers near constant.

    The seed decides on which side of 0 most cosines of images and texts fall.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2:
                spread = 0.3 if "embed" in name else 1.5 / weight[0].numel() ** 0.5
                weight.copy_(torch.randn(weight.shape, generator=generator) * spread)
            elif weight.ndim == 1:
                centre = 1.0 if "norm" in name or "ln_" in name else 0.0
                weight.copy_(
                    centre * (name.endswith("weight")) + 0.1 * torch.randn(weight.shape, generator=generator)
                )
    return model


def save_clip(folder: Path) -> Path:
    """A small CLIP, two layers a tower, with its processor."""
    from transformers import CLIPConfig, CLIPModel

    _write_clip_vocabulary(folder)
    tower = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = CLIPConfig(
        text_config={**tower, "vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407},
        vision_config={**tower, "image_size": 224, "patch_size": 32},
        projection_dim=48,
    )
    random_weights(CLIPModel(config)).save_pretrained(folder)
    _write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "crop_size": {"height": 224, "width": 224},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_resize": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "resample": 3,
            "size": {"shortest_edge": 224},
        },
    )
    return folder


def _write_clip_vocabulary(folder: Path) -> None:
    """``vocab.json`` and ``merges.txt`` of CLIP from open_clip's ``bpe_simple_vocab_16e6.txt.gz``."""
    open_clip = pytest.importorskip("open_clip")
    packed = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(packed.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    letters = list(open_clip.tokenizer.bytes_to_unicode().values())
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), *("".join(m.split()) for m in merges)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    _write_json(folder / "vocab.json", {token: i for i, token in enumerate(vocabulary)})
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "CLIPTokenizer",
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": 77,
        },
    )


def save_siglip(folder: Path) -> Path:
    """A small SigLIP with a SentencePiece vocabulary trained on the captions above."""
    from transformers import SiglipConfig, SiglipModel

    spiece = pytest.importorskip("sentencepiece")
    spiece.SentencePieceTrainer.train(
        sentence_iterator=iter([c for c in CAPTIONS if 2 < len(c) < 200 and c.isprintable()] * 20),
        model_prefix=str(folder / "spiece"),
        vocab_size=160,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.vocab").unlink()
    size = spiece.SentencePieceProcessor(model_file=str(folder / "spiece.model")).get_piece_size()
    tower = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2}
    text = {"vocab_size": size, "max_position_embeddings": 64, "projection_size": 64}
    config = SiglipConfig(
        text_config={**tower, **text}, vision_config={**tower, "image_size": 224, "patch_size": 32}
    )
    random_weights(SiglipModel(config)).save_pretrained(folder)
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "SiglipTokenizer",
            "eos_token": "</s>",
            "pad_token": "</s>",
            "unk_token": "<unk>",
            "model_max_length": 64,
            "do_lower_case": True,
            "model_input_names": ["input_ids"],
        },
    )
    _write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "SiglipImageProcessor",
            "processor_class": "SiglipProcessor",
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"height": 224, "width": 224},
        },
    )
    return folder


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
