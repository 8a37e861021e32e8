"""Precision and recall of `cliplet curate` on faults planted in real pairs, for each kind and in all.

    python -m benchmarks.curate_faults --data DIR --pairs train --seed 1
    python -m benchmarks.curate_faults --data DIR --pairs dev --seed 0 --sweep      # to choose thresholds by

``--pairs``: ``dev`` (1,000 photos of Flickr8k, by which the defaults were chosen), ``train`` (6,000: the packaged model
has seen these, so swapped captions are easier for it), ``unseen`` (Flickr8k's 92 others and 178 of COCO).
A copy counts as found where one of it and its original is removed, and as wrongly removed where both are or where no
copy was planted. Pairs that were bad before anything was planted count as wrongly removed: precision is a lower bound.
"""

import argparse
import io
import json
import random
import shutil
import tarfile
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

from PIL import Image

SHARDS = 12
SHARE = {
    "swapped": 0.06, "copy": 0.05, "near: compressed": 0.02, "near: resized": 0.02, "near: cropped": 0.02,
    "truncated": 0.02, "file name": 0.02, "too short": 0.02, "other language": 0.02, "says nothing": 0.01,
    "boilerplate": 0.01,
}  # fmt: skip
LEAST = {"boilerplate": 40}
"""Faults of a kind, at least: 8 of others."""
COPIES = ("copy", "near: compressed", "near: resized", "near: cropped")
RULES_OF = {
    "swapped": {"threshold"}, "truncated": {"unreadable"}, "file name": {"name"}, "too short": {"short"},
    "other language": {"language"}, "says nothing": {"empty", "short"}, "boilerplate": {"repeated"},
}  # fmt: skip
FILES = ["IMG_{n}.JPG", "DSC{n}", "photo-{n}.png", "https://example.com/a/{n}.jpg",
         "Screenshot 2021-03-{d} at 10.{d}.png",
         "{n}_{d}b3f7a9c.jpg", "P10{n}", "image ({d})", "beach_{n}.jpeg", "www.photos{d}.com"]  # fmt: skip
SHORT = ["dog", "a man", "beach", "two people", "red car", "the", "woman", "snow."]
NOTHING = [
    "a a a a a",
    "dog dog dog dog",
    "this is a photo of it",
    "... !! ...",
    "and the of in on",
    "? ? ? ?",
]
FOREIGN = [
    "Ein brauner Hund läuft über den Strand und spielt mit einem Ball.",
    "Zwei Kinder sitzen auf einer Bank im Park.",
    "Eine Frau mit einem roten Hut steht vor einem Haus.",
    "Der Mann fährt mit dem Fahrrad auf der Straße.",
    "Un chien brun court sur la plage avec une balle.",
    "Deux enfants sont assis sur un banc dans le parc.",
    "Une femme avec un chapeau rouge est devant une maison.",
    "L'homme fait du vélo dans la rue.",
    "Un perro marrón corre por la playa con una pelota.",
    "Dos niños están sentados en un banco del parque.",
    "Una mujer con un sombrero rojo está delante de una casa.",
    "El hombre monta en bicicleta por la calle.",
    "Un cane marrone corre sulla spiaggia con una palla.",
    "Due bambini sono seduti su una panchina nel parco.",
    "Twee kinderen zitten op een bank in het park.",
    "Een bruine hond rent over het strand met een bal.",
    "Um cachorro marrom corre na praia com uma bola.",
    "Hund am Strand mit Ball",
    "Dwoje dzieci siedzi na ławce w parku.",
    "En brun hund springer på stranden med en boll.",
    "Коричневая собака бежит по пляжу с мячом.",
    "一只棕色的狗在沙滩上玩球。",
    "茶色い犬がビーチでボールで遊んでいる。",
    "갈색 개가 해변에서 공을 가지고 놀고 있다.",
    "كلب بني يركض على الشاطئ مع كرة",
    "एक भूरा कुत्ता समुद्र तट पर गेंद के साथ दौड़ रहा है",
]
BOILERPLATE = "Click here to see the full size picture of this item"


def real_pairs(data: Path, which: str, rng: random.Random) -> list[tuple[bytes, str, str]]:
    """(photo, caption, another caption of it) of distinct photos, in a random order."""
    captions: dict[str, list[str]] = defaultdict(list)
    for line in (data / "flickr8k/Flickr8k.token.txt").read_text(encoding="utf-8").splitlines():
        name, text = line.split("\t")
        captions[name.partition("#")[0]].append(text)
    files = {
        "dev": ["images_dev.tar"],
        "train": ["images_train.tar", "images_extra.tar"],
        "unseen": ["images_extra.tar"],
    }
    found = [
        (photo, *rng.sample(captions[name], 2))
        for file in files[which]
        for name, photo in members(data / "flickr8k" / file)
        if len(captions.get(name, ())) > 1
    ]
    if which == "unseen":
        known = json.loads((data / "coco-dev/captions.json").read_text(encoding="utf-8"))
        found += [
            (photo, *rng.sample(known[name], 2))
            for name, photo in members(data / "coco-dev/photos.tar")
            if name in known
        ]
    rng.shuffle(found)
    return found[:6000]


def members(tar: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(tar) as opened:
        return [(Path(m.name).name, opened.extractfile(m).read()) for m in opened if m.isfile()]  # type: ignore[union-attr]


def changed(photo: bytes, how: str, rng: random.Random) -> bytes:
    """A near copy."""
    with Image.open(io.BytesIO(photo)) as opened:
        image = opened.convert("RGB")
    width, height = image.size
    quality = 90
    if how == "near: compressed":
        quality = rng.randint(30, 75)
    elif how == "near: resized":
        factor = rng.uniform(0.5, 1.8)
        image = image.resize((round(width * factor), round(height * factor)), Image.Resampling.LANCZOS)
    else:
        left, top, right, bottom = (rng.uniform(0.01, 0.05) for _ in range(4))
        box = (
            round(width * left),
            round(height * top),
            round(width * (1 - right)),
            round(height * (1 - bottom)),
        )
        image = image.crop(box)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def plant(pairs: list[tuple[bytes, str, str]], rng: random.Random) -> list[dict[str, object]]:
    """Rows with photo, caption, kind of fault (None for good), and the group of a photo and its copies."""
    rows: list[dict[str, object]] = [
        {"photo": photo, "caption": caption, "other": other, "kind": None, "group": i}
        for i, (photo, caption, other) in enumerate(pairs)
    ]
    free = list(range(len(rows)))
    rng.shuffle(free)
    counts = {kind: max(LEAST.get(kind, 8), round(share * len(rows))) for kind, share in SHARE.items()}
    taken = {kind: [free.pop() for _ in range(count)] for kind, count in counts.items()}
    moved = taken["swapped"]
    texts = [rows[i]["caption"] for i in moved]
    for i, text in zip(moved, texts[1:] + texts[:1], strict=True):
        rows[i] |= {"caption": text, "kind": "swapped"}
    for i in taken["truncated"]:
        photo = rows[i]["photo"]
        rows[i] |= {"photo": photo[: rng.randint(20, len(photo) * 9 // 10)], "kind": "truncated"}  # type: ignore[index, arg-type]
    for kind, texts_of in (("too short", SHORT), ("other language", FOREIGN), ("says nothing", NOTHING)):
        for i in taken[kind]:
            rows[i] |= {"caption": rng.choice(texts_of), "kind": kind}
    for i in taken["file name"]:
        rows[i] |= {
            "caption": rng.choice(FILES).format(n=rng.randint(1000, 9999), d=rng.randint(10, 28)),
            "kind": "file name",
        }
    for i in taken["boilerplate"]:
        rows[i] |= {"caption": BOILERPLATE, "kind": "boilerplate"}
    for kind in COPIES:
        for i in taken[kind]:
            row = rows[i]
            photo = row["photo"] if kind == "copy" else changed(row["photo"], kind, rng)  # type: ignore[arg-type]
            caption = rng.choice([row["caption"], row["other"]])
            rows.append({"photo": photo, "caption": caption, "kind": kind, "group": row["group"]})
    return rows


def write_shards(
    rows: list[dict[str, object]], folder: Path, rng: random.Random
) -> dict[str, dict[str, object]]:
    """Shards of the rows in a random order; rows by ``SHARD/KEY``."""
    order = list(range(len(rows)))
    rng.shuffle(order)
    truth = {}
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for i in order[shard::SHARDS]:
                key, row = f"{i:09d}", rows[i]
                truth[f"{shard:05d}/{key}"] = row
                for suffix, content in (("jpg", row["photo"]), ("txt", str(row["caption"]).encode())):
                    info = tarfile.TarInfo(f"{key}.{suffix}")
                    info.size = len(content)  # type: ignore[arg-type]
                    tar.addfile(info, io.BytesIO(content))  # type: ignore[arg-type]
    return truth


def removed_of(out: Path) -> dict[str, set[str]]:
    """The rules that removed each pair, by ``SHARD/KEY``."""
    found = {}
    for line in (out / "removed.jsonl").read_text().splitlines():
        row = json.loads(line)
        key = row["where"].removeprefix("member ").partition(".")[0]
        found[f"{Path(row['source']).stem}/{key}"] = {reason["rule"] for reason in row["reasons"]}
    return found


def judge(
    truth: dict[str, dict[str, object]], removed: dict[str, set[str]]
) -> dict[str, tuple[int, int, float, float]]:
    """For each kind: planted, removed by its rules, precision, recall; and in all."""
    groups = defaultdict(list)
    for name, row in truth.items():
        groups[row["group"]].append(name)
    found = {}
    right_copies: set[str] = set()
    for kind in COPIES:
        planted = [name for name, row in truth.items() if row["kind"] == kind]
        gone = 0
        for name in planted:
            lost = [n for n in groups[truth[name]["group"]] if removed.get(n)]
            gone += bool(lost)
            right_copies.update(lost[:1])
        found[kind] = (len(planted), gone, float("nan"), gone / len(planted))
    for kind, rules in RULES_OF.items():
        planted_names = {name for name, row in truth.items() if row["kind"] == kind}
        same = {
            name
            for name, row in truth.items()
            if row["kind"] and RULES_OF.get(str(row["kind"]), set()) & rules
        }
        by_rule = {name for name, why in removed.items() if why & rules}
        bad = {n for n in by_rule if truth[n]["kind"] in (None, *COPIES)}
        hit = len(planted_names & set(removed))
        right = len(by_rule & same)
        found[kind] = (
            len(planted_names),
            hit,
            right / max(1, right + len(bad)),
            hit / max(1, len(planted_names)),
        )
    by_copy = {name for name, why in removed.items() if why & {"duplicate", "near"}}
    precision = len(by_copy & right_copies) / max(1, len(by_copy))
    for kind in COPIES:
        found[kind] = (*found[kind][:2], precision, found[kind][3])
    others = {name for name, row in truth.items() if row["kind"] and row["kind"] not in COPIES}
    planted_all = len(others) + sum(found[kind][0] for kind in COPIES)
    right_all = len(others & set(removed)) + len(right_copies - others)
    hit_all = len(others & set(removed)) + sum(found[kind][1] for kind in COPIES)
    found["all"] = (planted_all, hit_all, right_all / max(1, len(removed)), hit_all / planted_all)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with flickr8k and coco-dev")
    parser.add_argument("--pairs", choices=["dev", "train", "unseen"], default="train")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="folder to keep; default: a temporary one")
    parser.add_argument(
        "--sweep", action="store_true", help="try thresholds for swapped captions and near copies"
    )
    parser.add_argument(
        "--wrong", action="store_true", help="list what was wrongly removed, and what was missed"
    )
    parser.add_argument("options", nargs="*", help="options of cliplet curate, behind --")
    given = parser.parse_args()
    folder = given.work or Path(tempfile.mkdtemp())
    for old in ("shards", "out"):
        shutil.rmtree(folder / old, ignore_errors=True)
    rng = random.Random(given.seed)
    rows = plant(real_pairs(given.data, given.pairs, rng), rng)
    truth = write_shards(rows, folder / "shards", rng)
    base = ["--language", "en", *given.options]
    tries: list[list[str]] = [[]]
    if given.sweep:
        tries = [["--min-match", f"{m:g}"] for m in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)]
        tries += [
            ["--near-cosine", f"{c:g}", "--near-bits", f"{b}"]
            for c in (0.85, 0.9, 0.93, 0.95)
            for b in (48, 64, 80, 96)
        ]
    for more in tries:
        run_cliplet([str(folder / "shards"), "--out", str(folder / "out"), "--json", *base, *more])
        removed = removed_of(folder / "out")
        found = judge(truth, removed)
        good = sum(row["kind"] is None for row in truth.values())
        print(
            f"{given.pairs}, seed {given.seed}, {len(rows)} pairs, {good} good; options {' '.join(base + more)}"
        )
        print(f"{'kind':<18}{'planted':>8}{'found':>7}{'precision':>11}{'recall':>8}")
        kinds = (
            list(found)
            if not given.sweep
            else (["swapped", "all"] if "--min-match" in more else [*COPIES, "all"])
        )
        for kind in kinds:
            planted, hit, precision, recall = found[kind]
            print(f"{kind:<18}{planted:>8}{hit:>7}{precision:>11.3f}{recall:>8.3f}")
        why = Counter(
            rule for name, rules in removed.items() if truth[name]["kind"] is None for rule in rules
        )
        print(
            f"good pairs removed, by rule (originals of copies included): {dict(why.most_common())}\n",
            flush=True,
        )
        if given.wrong:
            show_wrong(truth, removed)
    if given.work is None:
        shutil.rmtree(folder)


def show_wrong(truth: dict[str, dict[str, object]], removed: dict[str, set[str]]) -> None:
    copied = {row["group"] for row in truth.values() if row["kind"] in COPIES}
    for name, row in truth.items():
        if row["kind"] is None and name in removed and row["group"] not in copied:
            print("wrongly removed", name, sorted(removed[name]), row["caption"])
        elif row["kind"] is not None and row["kind"] not in COPIES and name not in removed:
            print("missed", row["kind"], name, row["caption"])


def run_cliplet(arguments: list[str]) -> None:
    """The command, in this process's Python, quietly."""
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "cliplet", "curate", *arguments], capture_output=True, text=True
    )
    if done.returncode not in (0, 1) or not done.stdout.startswith("{"):
        raise SystemExit(done.stderr)


if __name__ == "__main__":
    main()
