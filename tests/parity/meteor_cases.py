"""Captions on which METEOR is compared with the jar: real ones, spoilt ones, hard ones."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from cliplet.metrics.meteor import Meteor, MeteorScore
from cliplet.metrics.tokenizer.ptb import tokenize_many
from tests.shared_data import shared_data

Cases = tuple[list[str], list[list[str]]]
"""Candidates, and the references of each."""

_HARD_WORDS = (
    "- -- – — ' '' `` \" “hi” ‘so’ ... .. ! ? 3.5 1,000 1,2,3 $5 10% #1 & @home a.b. mr. mrs. no. st. u.s. "
    "u.s.a. e.g. i.e. vs. pp. 5's the '90s o'clock x-ray t-shirt black-and-white it's don't we've cannot gonna "
    "dog's dogs' 's n't café ñandú ŠKODA ÉTÉ İstanbul ΣΑΣ привет 中文 日本語 🙂 👨\u200d👩\u200d👧 (a) [b] {c} "
    "<d> / \\ | || ||| _ ~ ^ * + = ; : , . x. é. &amp; &quot; http://a.b/c?d=e you@there.org 1/2 ½ 12:30 "
    "+1-555-0100 \u00a0 \u2003 \u200b naïve co-op A.B.C. Ph.D."
)
HARD_WORDS = _HARD_WORDS.split(" ")

HARD_CAPTIONS = [
    "",
    " ",
    ".",
    "...",
    "dog",
    "a",
    "a a a a a a a a",
    "the the dog dog",
    "!!! ??? ...",
    "a dog\nruns\nfast",
    "A man said, \"it's 5 o'clock -- let's go!\"",
    "Mr. Smith went to the U.S. in Jan. He paid $1,000.50 (about 10%).",
    "two 3-year-old children's toys; one is black-and-white.",
    "the geese and the mice were running from the wolves",
    "a goose and a mouse ran away from a wolf",
    "the automobile halted , the car stopped",
    "in front of a large number of people , in front of the crowd",
    "he is able to take part in the game as soon as possible",
    "word " * 70 + "end",
    "a dog and a cat and a dog and a cat and a dog and a cat and a dog and a cat " * 6,
]


def coco_results() -> Cases:
    """The results file of the COCO caption tools against the references of val2017."""
    references = _coco_references()
    rows = json.loads(
        shared_data("coco-captions-val2017/captions_val2017_fakecap_results.json").read_text(encoding="utf-8")
    )
    rows = [row for row in rows if row["image_id"] in references]
    return [row["caption"] for row in rows], [references[row["image_id"]] for row in rows]


def coco_people() -> Cases:
    """One reference of each image of COCO val2017 against the others."""
    groups = list(_coco_references().values())
    return [group[0] for group in groups], [group[1:] for group in groups]


def coco_captioner() -> Cases:
    """A stand-in for a captioner on COCO val2017: a person's caption, a bit spoilt, against all references."""
    rng = random.Random(5)
    groups = list(_coco_references().values())
    return [_spoil(group[0], rng) for group in groups], groups


def flickr8k_people(which: int = 0) -> Cases:
    """One caption of each image of Flickr8k against the other four."""
    groups: dict[str, list[str]] = {}
    for line in shared_data("flickr8k/Flickr8k.token.txt").read_text(encoding="utf-8").splitlines():
        key, caption = line.split("\t")
        groups.setdefault(key.split("#")[0], []).append(caption)
    kept = [group for group in groups.values() if len(group) > 1]
    return [group[which] for group in kept], [group[:which] + group[which + 1 :] for group in kept]


def spoilt(cases: Cases, count: int, seed: int = 0) -> Cases:
    """Some of the cases with words shuffled, dropped, repeated, misspelt, inflected or made hard."""
    rng = random.Random(seed)
    candidates, references = cases
    at = rng.sample(range(len(candidates)), min(count, len(candidates)))
    worse = [_spoil(candidates[k], rng) for k in at]
    return worse, [[_spoil(r, rng) if rng.random() < 0.2 else r for r in references[k]] for k in at]


def hard() -> Cases:
    """The hard captions, and each hard word in a sentence, all against each other in turn."""
    captions = HARD_CAPTIONS + [f"a {word} dog {word}" for word in HARD_WORDS] + HARD_WORDS
    n = len(captions)
    return captions, [
        [captions[(7 * k + j) % n] for j in range(1, 4)] + [captions[k] + " too"] for k in range(n)
    ]


def random_text(count: int, seed: int = 0) -> Cases:
    """Strings of letters, digits, punctuation and hard words in any order, against variants of themselves."""
    rng = random.Random(seed)
    letters = "aabcdeeghiilmnoorsstt     0159.,'-`\"!?;:()&%$/\\|_é中🙂’“”–…"

    def text() -> str:
        return "".join(rng.choice(letters) for _ in range(rng.randint(0, 40)))

    candidates = [text() for _ in range(count)]
    return candidates, [[_spoil(c, rng), text()] for c in candidates]


def reference_scores(cases: Cases, *options: str) -> dict[str, Any]:
    """What pycocoevalcap's METEOR gives: {"corpus", "per_caption"}."""
    program = Path(__file__).with_name("pycocoevalcap_meteor.py")
    given = json.dumps({"candidates": cases[0], "references": cases[1]})
    done = subprocess.run(
        [sys.executable, str(program), *options],
        input=given,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def our_scores(cases: Cases, scorer: Meteor | None = None) -> MeteorScore:
    """What cliplet gives, from the same text."""
    return (scorer or Meteor())(*tokens(cases))


def tokens(cases: Cases, tokenizer: str = "ptb") -> tuple[list[list[str]], list[list[list[str]]]]:
    """The tokens of captions and of their references."""
    candidates, references = cases
    flat = [caption for group in references for caption in group]
    words = iter(tokenize_many(flat, tokenizer=tokenizer))
    groups = [[next(words) for _ in group] for group in references]
    return tokenize_many(candidates, tokenizer=tokenizer), groups


def _coco_references() -> dict[int, list[str]]:
    groups: dict[int, list[str]] = {}
    path = shared_data("coco-captions-val2017/captions_val2017.json")
    for row in json.loads(path.read_text(encoding="utf-8"))["annotations"]:
        groups.setdefault(row["image_id"], []).append(row["caption"])
    return groups


def _spoil(caption: str, rng: random.Random) -> str:
    words = caption.split()
    for _ in range(rng.randint(1, 4)):
        k = rng.randrange(len(words)) if words else 0
        match rng.randrange(8) if words else 7:
            case 0:
                rng.shuffle(words)
            case 1:
                del words[k]
            case 2:
                words.insert(k, rng.choice(words))
            case 3:
                words += words[: rng.randint(1, len(words))]
            case 4:
                words = words[: rng.randint(0, len(words))]
            case 5:  # a typo
                at = rng.randrange(len(words[k]))
                words[k] = words[k][:at] + rng.choice("abcdefghijklmnopqrstuvwxyz") + words[k][at + 1 :]
            case 6:
                words[k] += rng.choice(["s", "es", "ed", "ing", "ly", "'s", "er", "ness"])
            case _:
                words.insert(k, rng.choice(HARD_WORDS))
    return " ".join(words)
