"""`cliplet curate` beside Data-Juicer's ``image_text_similarity_filter``: the same pairs, the same CLIP, the same CPU.

    python -m benchmarks.curate_peer --data DIR --data-juicer VENV/bin/dj-process

The CLIP is ViT-B/32 with random weights, laid out as the hub has it: for speed, and to see that both compute the same
cosines. Each tool is a process of its own, from its start to its outputs; what measuring took is what the tools say
themselves, both with the model's loading in their workers. Data-Juicer lives in an environment of
its own: ``pip install py-data-juicer torch transformers aiohttp``.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from tests.parity.local_models import _write_clip_vocabulary, _write_json, random_weights

PREPROCESSING = {
    "image_processor_type": "CLIPImageProcessor", "crop_size": {"height": 224, "width": 224}, "do_center_crop": True,
    "do_convert_rgb": True, "do_normalize": True, "do_resize": True, "resample": 3, "size": {"shortest_edge": 224},
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip


def save_clip(folder: Path) -> None:
    """CLIP ViT-B/32 with random weights; the scale of its logits is the trained models', 100."""
    import torch

    from cliplet.models.compat import prepare_torchvision

    prepare_torchvision()
    from transformers import CLIPConfig, CLIPModel

    folder.mkdir(parents=True)
    _write_clip_vocabulary(folder)
    config = CLIPConfig(
        text_config={"bos_token_id": 49406, "eos_token_id": 49407}, vision_config={"patch_size": 32}
    )
    model = random_weights(CLIPModel(config))
    with torch.no_grad():
        model.logit_scale.fill_(float(np.log(100)))  # type: ignore[attr-defined]
    model.save_pretrained(folder)  # type: ignore[attr-defined]
    _write_json(folder / "preprocessor_config.json", PREPROCESSING)


def write_pairs(data: Path, folder: Path, count: int) -> tuple[Path, Path]:
    """Photos in a folder with captions as both tools read them."""
    captions = {}
    for line in (data / "flickr8k/Flickr8k.token.txt").read_text(encoding="utf-8").splitlines():
        name, text = line.split("\t")
        captions.setdefault(name.partition("#")[0], text)
    ours, theirs = [], []
    (folder / "photos").mkdir()
    with tarfile.open(data / "flickr8k/images_dev.tar") as tar:
        for member in tar:
            name = Path(member.name).name
            if member.isfile() and name in captions and len(ours) < count:
                path = folder / "photos" / name
                path.write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]
                ours.append({"image": f"photos/{name}", "caption": captions[name]})
                text = f"<__dj__image> {captions[name]} <|__dj__eoc|>"
                theirs.append({"text": text, "images": [str(path)], "name": name})
    for file, rows in ((folder / "ours.jsonl", ours), (folder / "theirs.jsonl", theirs)):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "ours.jsonl", folder / "theirs.jsonl"


def run(command: list[str], threads: int) -> tuple[float, float, str]:
    """Seconds and processor seconds of a process with its children, and what it said."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
    for name in ("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment.pop(name, None)
    if "dj-process" in command[0]:
        environment.pop("PYTHONPATH", None)
    start, before = time.monotonic(), os.times()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}")
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - start, used, done.stdout + done.stderr


def data_juicer(
    binary: str, pairs: Path, clip: Path, folder: Path, processes: int
) -> tuple[float, float, float, dict[str, float]]:
    """Seconds in all, seconds of the filter by its own log, and its similarity of each photo."""
    out = folder / f"dj-{processes}"
    out.mkdir()
    config = {
        "project_name": "peer", "dataset_path": str(pairs), "export_path": str(out / "kept.jsonl"), "np": processes,
        "keep_stats_in_res_ds": True, "use_cache": False, "ds_cache_dir": str(out / "cache"), "work_dir": str(out),
        "process": [{"image_text_similarity_filter": {"hf_clip": str(clip), "min_score": -1.0}}],
    }  # fmt: skip
    file = out / "config.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    seconds, used, said = run([binary, "--config", str(file)], max(1, (os.cpu_count() or 1) // processes))
    found = re.search(r"image_text_similarity_filter\]? Done in ([\d.]+)", said)
    rows = [json.loads(line) for line in (out / "kept.jsonl").read_text().splitlines()]
    stats = {}
    for row in rows:
        stat = row.get("__dj__stats__") or {}
        stats[row["name"]] = float(np.ravel(stat.get("image_text_similarity", [np.nan]))[0])
    return seconds, used, float(found[1]) if found else float("nan"), stats


def cliplet(
    pairs: Path, clip: Path, folder: Path, precision: str, count: int
) -> tuple[float, float, float, dict[str, float]]:
    """The same of `cliplet curate`, which also hashes and looks for copies; a process a core, as Data-Juicer's."""
    out, cores = folder / f"cliplet-{precision}", os.cpu_count() or 1
    command = [sys.executable, "-m", "cliplet", "curate", str(pairs), "--out", str(out), "--model", f"hf:{clip}",
               "--preset", "cosine", "--min-cosine", "-1", "--json", "--precision", precision, "--workers",
               str(cores), "--part-rows", str(-(-count // (2 * cores)))]  # fmt: skip
    seconds, used, _ = run(command, 1)
    rows = [
        json.loads(line)
        for name in ("kept", "removed")
        for line in (out / f"{name}.jsonl").read_text().splitlines()
    ]
    measured = json.loads((out / "summary.json").read_text())["seconds"]["measure"]
    return seconds, used, measured, {Path(row["image"]).name: row["cosine"] for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with flickr8k")
    parser.add_argument("--data-juicer", required=True, metavar="FILE", help="dj-process of its environment")
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[os.cpu_count() or 1], help="Data-Juicer's np"
    )
    parser.add_argument("--precisions", nargs="+", default=["bf16", "fp32"])
    parser.add_argument("--clip", type=Path, help="folder of the CLIP, made if it is not there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clip = given.clip or folder / "clip"
        if not clip.exists():
            save_clip(clip)
        ours, theirs = write_pairs(given.data, folder, given.pairs)
        print(f"{'':<24}{'whole process':>22}{'processors':>22}{'measuring alone':>22}")
        best, stats = (float("inf"),) * 3, {}
        for processes in given.processes:
            *took, stats = data_juicer(given.data_juicer, theirs, clip, folder, processes)
            show(f"Data-Juicer, np={processes}", given.pairs, *took)
            best = min(best, tuple(took))
        for precision in given.precisions:
            *took, found = cliplet(ours, clip, folder, precision, given.pairs)
            show(f"cliplet curate, {precision}", given.pairs, *took)
            same = [name for name in found if name in stats and stats[name] == stats[name]]
            apart = np.array([abs(found[name] - stats[name]) for name in same])
            whole, used, alone = (theirs_took / own for theirs_took, own in zip(best, took, strict=True))
            print(
                f"  pairs a second against Data-Juicer's: whole process {whole:.2f}, a processor second {used:.2f}, "
                f"measuring {alone:.2f}; cosines of {len(same)} pairs at most {apart.max():.1e} apart, "
                f"mean {apart.mean():.1e}",
                flush=True,
            )


def show(name: str, pairs: int, *took: float) -> None:
    print(f"{name:<24}" + "".join(f"{s:>9.1f} s {pairs / s:>7.1f} /s" for s in took), flush=True)


if __name__ == "__main__":
    main()
