"""A program: METEOR from pycocoevalcap, tokeniser and all, in a process of its own.

Reads ``{"candidates": [...], "references": [[...], ...]}`` from standard input and writes
``{"corpus": ..., "per_caption": [...]}``. With ``--tokenized`` the captions are PTB-tokenised already.
"""

import json
import sys

from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer


def main() -> None:
    given = json.load(sys.stdin)
    candidates = {k: [{"caption": text}] for k, text in enumerate(given["candidates"])}
    references = {k: [{"caption": text} for text in group] for k, group in enumerate(given["references"])}
    if "--tokenized" in sys.argv:
        candidates = {k: [row["caption"] for row in rows] for k, rows in candidates.items()}
        references = {k: [row["caption"] for row in rows] for k, rows in references.items()}
    else:
        tokenizer = PTBTokenizer()
        references, candidates = tokenizer.tokenize(references), tokenizer.tokenize(candidates)
    corpus, per_caption = Meteor().compute_score(references, candidates)
    json.dump({"corpus": corpus, "per_caption": per_caption}, sys.stdout)


if __name__ == "__main__":
    main()
