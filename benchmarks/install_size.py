"""How much room a fresh base install takes.

    python benchmarks/install_size.py

makes a virtual environment in a temporary folder, installs cliplet without extras, and prints the size in MB of the
whole environment, of each large package in it, and the seconds that the install took.
"""

import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

LIMIT_MB = 300
ROOT = Path(__file__).resolve().parents[1]


def size_mb(path: Path) -> float:
    """Bytes of all files below a path, in MB."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(f.lstat().st_size for f in files if f.is_file()) / 1e6


def main() -> None:
    """Install and measure."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        start = time.perf_counter()
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, str(ROOT)], check=True)
        seconds = time.perf_counter() - start
        total = size_mb(Path(folder))
        packages = next(Path(folder).glob("lib/python*/site-packages"))
        sizes = sorted(((size_mb(p), p.name) for p in packages.iterdir()), reverse=True)
    for mb, name in sizes[:8]:
        print(f"{mb:8.1f} MB  {name}")
    print(f"{total:8.1f} MB  whole environment with pip (limit {LIMIT_MB}), installed in {seconds:.0f} s")
    sys.exit(total > LIMIT_MB)


if __name__ == "__main__":
    main()
