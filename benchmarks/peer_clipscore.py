"""The peer: CLIPScore as people run it, on open_clip's ViT-B/32 in PyTorch fp32.

    python benchmarks/peer_clipscore.py photo.jpg "a dog on the beach"
    python benchmarks/peer_clipscore.py captions.jsonl --images FOLDER --batch 64

Prints the scores' mean, the seconds and the peak memory as JSON. The weights are random: they cost as much time as
trained ones (less at the start, as no file is read). Generous to the peer: photos are decoded in threads on all
cores, and each photo is encoded once however many captions it has. Captions are padded to 77 tokens and carry the
prefix, as in the authors' code.
"""

import time

START = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

PREFIX = "A photo depicts "


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", help="a photo, or a JSONL file of {image, caption}")
    parser.add_argument("caption", nargs="?", help="the caption of the photo")
    parser.add_argument("--images", help="the folder of the photos that the JSONL file names")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="of weights and products"
    )
    parser.add_argument("--shim", action="store_true", help="declare torchvision's operators first")
    options = parser.parse_args()
    if options.caption is not None:
        pairs = [(Path(options.target), options.caption)]
    else:
        rows = [json.loads(line) for line in Path(options.target).read_text(encoding="utf-8").splitlines()]
        pairs = [(Path(options.images) / row["image"], row["caption"]) for row in rows]
    model, preprocess, tokenizer = load(options.shim, options.precision)
    loaded = time.perf_counter()
    scores = score(model, preprocess, tokenizer, pairs, options.batch)
    done = time.perf_counter()
    print(
        json.dumps(
            {
                "score": float(scores.mean()),
                "pairs": len(pairs),
                "load_s": round(loaded - START, 3),
                "score_s": round(done - loaded, 3),
                "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            }
        ),
        flush=True,
    )


def load(shim: bool, precision: str) -> tuple[Any, Any, Any]:
    """The model, its transform and its tokeniser."""
    if shim:
        from _torchvision_shim import declare_operators

        declare_operators()
    import logging

    import open_clip

    logging.disable(logging.WARNING)
    model, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32", precision=precision)
    return model.eval(), preprocess, open_clip.get_tokenizer("ViT-B-32")


def score(model: Any, preprocess: Any, tokenizer: Any, pairs: list[tuple[Path, str]], batch: int) -> Any:
    """2.5 * max(cos, 0) of each pair."""
    import torch

    paths = list(dict.fromkeys(path for path, _ in pairs))
    with torch.inference_mode(), ThreadPoolExecutor(os.cpu_count()) as pool:
        photos = {}
        for start in range(0, len(paths), batch):
            chosen = paths[start : start + batch]
            pixels = torch.stack(list(pool.map(lambda path: preprocess(_open(path)), chosen)))
            pixels = pixels.to(model.visual.conv1.weight.dtype)
            photos.update(zip(chosen, model.encode_image(pixels, normalize=True), strict=True))
        scores = []
        for start in range(0, len(pairs), batch):
            chosen_pairs = pairs[start : start + batch]
            tokens = tokenizer([PREFIX + caption for _, caption in chosen_pairs])
            texts = model.encode_text(tokens, normalize=True)
            images = torch.stack([photos[path] for path, _ in chosen_pairs])
            scores.append(2.5 * (images * texts).sum(dim=1).clamp(min=0))
    return torch.cat(scores).float()


def _open(path: Path) -> Any:
    from PIL import Image

    return Image.open(path)


if __name__ == "__main__":
    main()
