"""How much of an unwanted text's cosine `cliplet search --without` takes off: what the first photos show, by captions.

Command: python -m benchmarks.search_without Flickr8k.token.txt images_dev.tar
Needs: pip install -e '.[search]'

A photo shows a thing that at least two of its captions name, and is without it where at most one does.
"""

import argparse
import re
import tempfile
from pathlib import Path

import numpy as np

import cliplet.search.index
from cliplet.evaluation.model_runs import chosen_captions
from cliplet.search.index import Index

PEOPLE = "man|men|woman|women|boys?|girls?|child|children|people|person|kids?"
WATER = "water|pool|lake|ocean|river|sea|beach"
QUERIES = (  # query, words that name it, unwanted, words that name that
    ("a dog", "dogs?", "people", PEOPLE),
    ("a dog", "dogs?", "grass", "grass|grassy|lawn|field"),
    ("a child", "child|boys?|girls?|kids?|children", "water", WATER),
    ("a man", "man|men", "a bicycle", "bikes?|bicycles?|bicyclist"),
    ("people in the water", WATER, "a dog", "dogs?"),
    ("a ball", "ball|football|basketball|soccer", "a dog", "dogs?"),
    ("snow", "snow|snowy", "skiing", "ski|skier|skis|skiing|snowboarder|snowboard"),
)
TOP = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("captions", type=Path)
    parser.add_argument("photos", type=Path)
    arguments = parser.parse_args()
    captions = chosen_captions([arguments.captions], None).images

    def named(photo: str, words: str) -> int:
        return sum(bool(re.search(rf"\b({words})\b", caption.lower())) for caption in captions[photo])

    with tempfile.TemporaryDirectory() as folder:
        index = Index.make(Path(folder) / "dev.lance")
        index.update([arguments.photos])
        for share in (0, 0.3, 0.5, 0.7, 1.0):
            cliplet.search.index.WITHOUT = share
            wanted, both = [], []
            for query, words, unwanted, others in QUERIES:
                hits = index.search(query, without=unwanted, top=TOP)
                photos = [hit.path.rpartition(":")[2] for hit in hits]
                wanted.append(np.mean([named(p, words) >= 2 for p in photos]))
                both.append(np.mean([named(p, words) >= 2 and named(p, others) <= 1 for p in photos]))
            print(
                f"{share} taken off: wanted {np.mean(wanted):.3f}, wanted without the unwanted {np.mean(both):.3f}"
            )


if __name__ == "__main__":
    main()
