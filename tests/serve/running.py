"""A service in a process of its own, as the command line starts it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx


class Service:
    """``cliplet serve`` on a free port, until :meth:`stop`."""

    def __init__(self, folder: Path, *options: object) -> None:
        self.log = folder / f"log-{time.monotonic_ns()}.jsonl"
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cliplet", "serve", "--port", "0", *map(str, options)],
                stderr=stream, env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        self.url = ""
        end = time.monotonic() + 60
        while not self.url and time.monotonic() < end and self.process.poll() is None:
            time.sleep(0.02)
            if self.process.poll() is not None:
                raise AssertionError(self.log.read_text())
            self.url = next((line["address"] for line in self.lines() if line["event"] == "listening"), "")
        assert self.url, self.log.read_text()
        while time.monotonic() < end:
            try:
                httpx.get(f"{self.url}/healthz", timeout=5)
                return
            except httpx.TransportError:
                time.sleep(0.02)
        raise AssertionError(self.log.read_text())

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def lines(self) -> list[dict[str, Any]]:
        """The log so far; a line that is no JSON is an error of the test."""
        text = self.log.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def stop(self) -> int:
        """End it as an operator would; its status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)
