"""Make docs/results.md: every metric of cliplet and its packaged model on real data, by one command.

    python benchmarks/results_page.py --data DIR [--model NAME|DIR] [--out docs/results.md]

DIR holds flickr8k/ (ExpertAnnotations.txt, CrowdFlowerAnnotations.txt, Flickr8k.token.txt, split_dev.txt, tars of
photos) and imagenet500/images.tar. Takes some minutes on two cores. Each table is the --json output of the command
printed above it, run in DIR.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from cliplet.files import write_atomically
from cliplet.reports.svg import number

HUMAN = "evaluate human flickr8k-expert flickr8k-cf --data flickr8k"
RETRIEVAL = (
    "evaluate retrieval flickr8k/Flickr8k.token.txt "
    "--split flickr8k/split_dev.txt --images flickr8k/images_dev.tar"
)
ZEROSHOT = "evaluate zeroshot imagenet500/images.tar --name imagenet500"
PAIRS = (
    "evaluate pairs flickr8k/Flickr8k.token.txt --from-captions --split flickr8k/split_dev.txt "
    "--images flickr8k/images_dev.tar"
)

HEAD = """# Measured results

Made by `python benchmarks/results_page.py --data DIR`. Every table comes from the command above it, run in DIR; values
are times 100, intervals are 95 % bootstrap intervals that resample photos. Model: {model}, weights {fingerprint}.

The human judgements are the {images} photos of Flickr8k's test split whose judgements were at hand, about half of the
published set, so published values (of all 1,000 photos) are near, not equal, to what is measured here. How each number
is defined: [evaluate.md](evaluate.md).
"""

PUBLISHED = "Published: {line}."


def run(command: str, data: Path, model: str | None, cache: str) -> dict:
    """The parsed --json output of a cliplet command."""
    extra = ["--json", "--cache-dir", cache, *(["--model", model] if model else [])]
    done = subprocess.run(
        [sys.executable, "-m", "cliplet", *shlex.split(command), *extra],
        cwd=data,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def value(row: dict) -> str:
    return number(row["value"]) if row["value"] is not None else "–"


def with_interval(row: dict) -> str:
    return (
        value(row) if row["low"] is None else f"{value(row)} ({number(row['low'])} to {number(row['high'])})"
    )


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def section(title: str, text: str, command: str, body: str) -> str:
    return f"\n## {title}\n\n{text}\n\n```\ncliplet {command}\n```\n\n{body}"


def human_table(content: dict) -> str:
    published = {(p["benchmark"], p["metric"]): number(p["value"]) for p in content["published"]}
    cells: dict[str, dict[str, str]] = {}
    for row in content["results"]:
        cells.setdefault(row["metric"], {})[row["benchmark"]] = with_interval(row)
    rows = []
    for name in sorted(cells, key=lambda m: -_value_of(content, "flickr8k-expert", m)):
        row = [name]
        for benchmark in ("flickr8k-expert", "flickr8k-cf"):
            row += [cells[name].get(benchmark, ""), published.get((benchmark, name), "")]
        rows.append(row)
    others = [p for p in content["published"] if p["metric"] not in cells]
    lines = {}
    for p in others:
        lines.setdefault(p["name"], []).append(number(p["value"]))
    note = PUBLISHED.format(line="; ".join(f"{name} {' / '.join(v)}" for name, v in lines.items()))
    header = ["metric", "Expert tau-c", "published", "CF tau-b", "published"]
    return table(header, rows) + "\n" + note + "\n"


def _value_of(content: dict, benchmark: str, metric: str) -> float:
    found = [r["value"] for r in content["results"] if (r["benchmark"], r["metric"]) == (benchmark, metric)]
    return found[0] if found and found[0] is not None else -1e9


def retrieval_table(content: dict) -> str:
    names = ["R@1", "R@5", "R@10", "MRR", "mAP", "mAP@R", "median rank"]
    rows = []
    for direction in ("image-to-text", "text-to-image"):
        found = {r["statistic"]: r for r in content["results"] if r["metric"] == direction}
        rows.append([direction] + [with_interval(found[n]) if n == "R@1" else value(found[n]) for n in names])
    return table(["direction", *names], rows)


def pairs_table(content: dict) -> str:
    controls = list(dict.fromkeys(r["metric"] for r in content["results"] if r["metric"].startswith("blind")))
    cells: dict[str, dict[str, dict]] = {}
    for row in content["results"]:
        cells.setdefault(row["statistic"], {})[row["metric"]] = row
    rows = []
    for statistic, by_metric in cells.items():
        model = next(r for name, r in by_metric.items() if not name.startswith("blind"))
        kind = statistic.partition(", ")[2] or "all"
        rows.append([kind, with_interval(model), *(value(by_metric[c]) for c in controls), str(model["n"])])
    return table(["swapped", "true caption above the false one", *controls, "pairs"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", help="default: the packaged model")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "results.md"
    )
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as cache:
        human, retrieval, zeroshot, pairs = (
            run(command, args.data, args.model, cache) for command in (HUMAN, RETRIEVAL, ZEROSHOT, PAIRS)
        )
    about = human["provenance"]["benchmarks"]["flickr8k-expert"]
    page = HEAD.format(
        model=about["model"]["model"], fingerprint=about["model"]["fingerprint"], images=about["images"]
    )
    page += section(
        "Agreement with people",
        "Kendall's tau between scores and ratings. CLIPScore sees the photo alone; RefCLIPScore and RefMixScore see "
        "the photo and the references; the others see the references alone. The published values of CLIPScore and "
        "RefCLIPScore are those of CLIP ViT-B/32.",
        HUMAN,
        human_table(human),
    )
    page += section(
        "Retrieval",
        "Flickr8k dev: {images:,} photos, {captions:,} captions.".format(**retrieval["provenance"]),
        RETRIEVAL,
        retrieval_table(retrieval),
    )
    top = {r["statistic"]: with_interval(r) for r in zeroshot["results"]}
    page += section(
        "Zero-shot classification",
        f"{zeroshot['provenance']['photos']} photos of {zeroshot['provenance']['classes']} ImageNet classes, one a "
        f"class; template {zeroshot['provenance']['templates'][0]!r}; guessing gets "
        f"{number(100 / zeroshot['provenance']['classes'])}.",
        ZEROSHOT,
        table(["statistic", "accuracy"], [[k, v] for k, v in top.items()]),
    )
    page += section(
        "Captions with one wrong word",
        "Flickr8k dev captions with an object, colour, number or action swapped. The blind columns are guessers that "
        "see no photo: where they score high, the false captions can be told by their words.",
        PAIRS,
        pairs_table(pairs),
    )
    write_atomically(args.out, page)
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
