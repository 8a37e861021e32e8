"""Whether the lowest versions that pyproject.toml declares work, on each Python that it declares.

    pip install uv
    python benchmarks/lowest_versions.py --python 3.11 3.12 3.13

makes fresh virtual environments in a temporary folder. For each Python: one with the newest version of everything, one
in which all dependencies of the base package and of the extra ``parquet`` are at their lowest, one for each dependency
of the base package alone at its lowest beside the newest others, and one for each other light extra at its lowest. In
each the same photo is scored, Parquet is read, and a few tests run. Prints a table and saves it under
``benchmarks/results``; ends with status 1 when anything fails.
"""

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "lowest_versions.csv"
TESTS = ("tests/data/test_tables.py", "tests/data/test_captions.py", "tests/weights/test_packaged_model.py")
PARTS = {
    "search": """
import lancedb, tempfile
table = lancedb.connect(tempfile.mkdtemp()).create_table("t", [{"vector": [1.0, 0.0], "name": "a"}])
assert table.search([1.0, 0.0]).limit(1).to_list()[0]["name"] == "a"
""",
    "serve": """
from fastapi import FastAPI, File, UploadFile
import prometheus_client, uvicorn
app = FastAPI()
@app.post("/score")
def score(photo: UploadFile = File()):
    return photo.filename
assert "/score" in app.openapi()["paths"]
uvicorn.Config(app).load()
""",
}
"""What must work with an extra installed."""
SMOKE = """
import json, subprocess, sys
import numpy as np
from PIL import Image
import pyarrow, pyarrow.parquet
import cliplet
ramp = np.linspace(0, 255, 240).astype(np.uint8)
Image.fromarray(np.stack(np.broadcast_arrays(ramp, ramp[:, None], 90), axis=2).astype(np.uint8)).save("photo.png")
photo = open("photo.png", "rb").read()
table = pyarrow.table({"image": [{"bytes": photo, "path": "photo.png"}] * 2, "caption": ["a colourful wall", "a dog"]})
pyarrow.parquet.write_table(table, "captions.parquet")
def run(*arguments):
    done = subprocess.run([sys.executable, "-m", "cliplet", *arguments, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {row["caption"]: row.get("clip_score", row.get("score")) for row in json.loads(done.stdout)["rows"]}
alone, table = run("score", "photo.png", "a colourful wall", "a dog"), run("score", "captions.parquet")
assert alone == table, (alone, table)
print("scores", *(f"{score:.4f}" for score in alone.values()))
"""


def uv(*arguments: str, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    """Run uv quietly."""
    return subprocess.run(
        [sys.executable, "-m", "uv", *arguments, "--quiet"], capture_output=True, text=True, cwd=cwd
    )


def lowest(python: str, extras: list[str]) -> dict[str, str]:
    """The lowest version of each declared dependency that is there for a Python: name to version."""
    chosen = [part for extra in extras for part in ("--extra", extra)]
    done = uv(
        "pip", "compile", "pyproject.toml", "--python", python, "--only-binary", ":all:", "--no-header",
        "--no-annotate", "--resolution", "lowest-direct", *chosen,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{python}: {done.stderr}")
    return dict(line.split(" ")[0].split("==") for line in done.stdout.splitlines() if "==" in line)


def declared() -> list[str]:
    """Names of the base package's dependencies."""
    with open(ROOT / "pyproject.toml", "rb") as stream:
        project: dict[str, Any] = tomllib.load(stream)["project"]
    return list(dict.fromkeys(re.split(r"[^\w.-]", line)[0] for line in project["dependencies"]))


def check(python: str, extras: list[str], pinned: dict[str, str]) -> tuple[str, str]:
    """What a fresh environment with these versions says: its scores or the first complaint, and its NumPy."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pins.txt").write_text("".join(f"{n}=={v}\n" for n, v in pinned.items()))
        environment = folder / "venv"
        steps = [
            uv("venv", "--python", python, str(environment)),
            uv("pip", "install", "--python", str(environment), "--constraint", str(folder / "pins.txt"),
               f"{ROOT}[{','.join(extras)}]", "pytest>=8.2", "pytest-timeout>=2.3"),
        ]  # fmt: skip
        for done in steps:
            if done.returncode:
                return f"not installed: {_last(done.stderr)}", "-"
        inside = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}

        def run(*arguments: str, cwd: Path = folder) -> "subprocess.CompletedProcess[str]":
            command = [str(environment / "bin" / "python"), *arguments]
            return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=inside)

        numpy = run("-c", "import numpy; print(numpy.__version__)").stdout.strip()
        programs = [SMOKE, *(PARTS[extra] for extra in extras if extra in PARTS)]
        done = run("-c", programs[0])
        said = done.stdout.strip()
        for program in programs[1:]:
            done = done if done.returncode else run("-c", program)
        if done.returncode:
            return f"fails: {_last(done.stderr)}", numpy
        tests = run("-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", *TESTS, cwd=ROOT)
        if tests.returncode:
            failed = [line for line in tests.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
            return f"fails: {(failed or [_last(tests.stdout + tests.stderr)])[0]}", numpy
        return f"{said}, {tests.stdout.strip().splitlines()[-1].split(' in ')[0]}", numpy


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"\w*(Error|Exception)\b|Fatal", line)]
    return (errors or lines or ["nothing said"])[-1][:300]


def environments(python: str, extras: list[str]) -> list[tuple[str, list[str], dict[str, str]]]:
    """What is tried on one Python: its name, extras and pinned versions."""
    base = lowest(python, ["parquet"])
    names = [*declared(), "pyarrow"]
    tried = [("all newest", ["parquet"], {})]
    tried.append(("all lowest", ["parquet"], {name: base[name] for name in names}))
    tried += [(f"{name} {base[name]}, others newest", ["parquet"], {name: base[name]}) for name in names]
    with open(ROOT / "pyproject.toml", "rb") as stream:
        optional = tomllib.load(stream)["project"]["optional-dependencies"]
    for extra in extras:
        own = [re.split(r"[^\w.-]", line)[0] for line in optional[extra] if not line.startswith("cliplet")]
        versions = lowest(python, ["parquet", extra])
        pins = {name: versions[name] for name in (*names, *own)}
        tried.append((f"all lowest with [{extra}]", ["parquet", extra], pins))
    return tried


def main() -> None:
    """Try everything."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--python", nargs="+", default=["3.11", "3.12", "3.13"], help="versions or programs")
    parser.add_argument("--extras", nargs="*", default=["demo", "search", "serve"])
    parser.add_argument("--out", type=Path, default=RESULTS, help="CSV for the table")
    wanted = parser.parse_args()
    rows = []
    for python in wanted.python:
        asked = subprocess.run(
            [sys.executable, "-m", "uv", "python", "find", python], capture_output=True, text=True
        )
        if asked.returncode:
            sys.exit(asked.stderr)
        program = asked.stdout.strip()
        version = subprocess.run([program, "-V"], capture_output=True, text=True).stdout.split()[-1]
        for name, extras, pins in environments(program, wanted.extras):
            said, numpy = check(program, extras, pins)
            rows.append((version, name, numpy, said))
            print(f"{version:<8} {name:<40} numpy {numpy:<8} {said}", flush=True)
    with open(wanted.out, "w", newline="") as stream:
        csv.writer(stream).writerows([("python", "environment", "numpy", "result"), *rows])
    sys.exit(any(not row[3].startswith("scores") for row in rows))


if __name__ == "__main__":
    main()
