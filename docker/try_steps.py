"""Run the steps of docker/Dockerfile in a fresh Debian folder (debootstrap and chroot), where there is no Docker.

    sudo python docker/try_steps.py [--folder DIR] [--pip-conf FILE] [--ca FILE]

Debian's Python stands in for the base image. COPY, RUN, ENV, USER and the start command are done as the Dockerfile
says; then the service is asked for its health and for a score, as the user that the image names. The folder is removed
at the end. An image is not built by this: layers, the base image and HEALTHCHECK stay untried.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUITE, MIRROR = "trixie", "http://deb.debian.org/debian"
PACKAGES = "python3,python3-venv,ca-certificates"
KEY = "a-key-for-this-try-only"


def steps(dockerfile: Path) -> list[tuple[str, str]]:
    """Instructions and their arguments, continued lines joined."""
    text = "\n".join(line for line in dockerfile.read_text().splitlines() if not line.startswith("#"))
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def prepare(folder: Path, pip_conf: str | None, ca: str | None) -> None:
    """A Debian with Python; this machine's name server, and its pip settings and certificates where they are named."""
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(folder), MIRROR]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    folder.chmod(0o755)  # a temporary folder is its owner's alone
    shutil.copy("/etc/resolv.conf", folder / "etc/resolv.conf")
    if pip_conf:
        shutil.copy(pip_conf, folder / "etc/pip.conf")
    if ca:
        shutil.copy(ca, folder / "etc/ssl/certs/ca-certificates.crt")


def copy(folder: Path, arguments: str) -> None:
    """What COPY does."""
    *sources, target = arguments.split()
    for source in sources:
        to = folder / target.lstrip("/")
        if target.endswith("/"):
            to = to / Path(source).name
        to.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, to, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, to)


def inside(
    folder: Path, environment: dict[str, str], user: str | None = None
) -> tuple[list[str], dict[str, str]]:
    """The chroot's command, and the environment that it gets: nothing of ours."""
    as_user = [f"--userspec={user}:{user}"] if user else []
    return [shutil.which("chroot") or "/usr/sbin/chroot", *as_user, str(folder)], {
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        **environment,
    }


def build(folder: Path) -> tuple[dict[str, str], str, list[str]]:
    """Do the steps: environment, user and start command at their end."""
    environment: dict[str, str] = {}
    user, start = "", []
    for name, arguments in steps(ROOT / "docker" / "Dockerfile"):
        if name == "COPY":
            copy(folder, arguments)
        elif name == "ENV":
            environment |= dict(item.split("=", 1) for item in shlex.split(arguments))
        elif name == "USER":
            user = arguments
        elif name == "RUN":
            print("RUN", " ".join(arguments.split()), flush=True)
            command, env = inside(folder, environment)
            subprocess.run([*command, "/bin/sh", "-c", arguments], env=env, check=True)
        elif name in ("ENTRYPOINT", "CMD"):
            start += json.loads(arguments)
    return environment, user, start


def try_service(folder: Path, environment: dict[str, str], user: str, start: list[str], port: int) -> None:
    """Start it as the image would, on ``port``, and ask it."""
    keys = folder / "run/secrets/cliplet-keys"
    keys.parent.mkdir(parents=True, exist_ok=True)
    keys.write_text(KEY + "\n")
    start[start.index("--port") + 1] = str(port)
    command, env = inside(folder, environment, user)
    process = subprocess.Popen([*command, *start], env=env)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(100):
            try:
                print(urllib.request.urlopen(f"{url}/healthz", timeout=2).read().decode()[:60])
                break
            except OSError:
                time.sleep(0.1)
        described = json.load(asked(f"{url}/openapi.json"))
        body = described["paths"]["/v1/score"]["post"]["requestBody"]["content"]["application/json"][
            "example"
        ]
        print(asked(f"{url}/v1/score", json.dumps(body).encode()).read().decode())
        owner = Path(f"/proc/{process.pid}/status").read_text().split("Uid:")[1].split()[0]
        print(f"user {owner}")
        assert owner == user
    finally:
        process.terminate()
        print(f"status {process.wait(30)}")


def asked(url: str, body: bytes | None = None) -> "urllib.request.addinfourl":
    """The answer to a request with the key."""
    headers = {"X-API-Key": KEY, "Content-Type": "application/json"}
    return urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30)


def main() -> None:
    """Make the folder, do the steps, ask the service, remove the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", help="a new folder for the Debian; default: a temporary one")
    parser.add_argument("--pip-conf", help="a pip.conf to use, for machines with an index of their own")
    parser.add_argument("--ca", help="certificates to use, for machines behind a proxy of their own")
    parser.add_argument("--port", type=int, default=8765)
    options = parser.parse_args()
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        sys.exit("this needs root and debootstrap (apt-get install debootstrap)")
    folder = Path(options.folder or tempfile.mkdtemp(prefix="cliplet-image-"))
    try:
        prepare(folder, options.pip_conf, options.ca)
        try_service(folder, *build(folder), options.port)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
