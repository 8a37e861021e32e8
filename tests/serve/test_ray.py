"""The same service on Ray Serve: two replicas answer what one process answers."""

import json
import os
import signal
import subprocess
import sys
import time

import httpx
import pytest

from cliplet import Scorer
from tests.serve.bad_requests import JPEG

pytest.importorskip("grpc_reflection", reason="ray without its extra [serve]")
pytest.importorskip("ray.serve")


def test_two_replicas_answer_as_the_library_does(tiny, tmp_path):
    with (tmp_path / "log.jsonl").open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "cliplet", "serve", "--engine", "ray", "--replicas", "2", "--workers", "1",
             "--port", "0", "--model", str(tiny)],
            stderr=stream, stdout=subprocess.DEVNULL, env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        )  # fmt: skip
    try:
        url, end = "", time.monotonic() + 120
        while not url and time.monotonic() < end and process.poll() is None:
            time.sleep(0.2)
            lines = [
                line for line in (tmp_path / "log.jsonl").read_text().splitlines() if line.startswith("{")
            ]
            url = next((json.loads(line)["address"] for line in lines if '"listening"' in line), "")
        assert url, (tmp_path / "log.jsonl").read_text()
        own = float(Scorer(tiny).score(JPEG, "a dog").score[0])
        for _ in range(10):
            answer = httpx.post(
                f"{url}/v1/score", files={"photo": JPEG}, data={"captions": ["a dog"]}, timeout=30
            )
            assert answer.status_code == 200, answer.text
            assert answer.json()["results"][0]["score"] == pytest.approx(own, abs=1e-6)
        refused = httpx.post(
            f"{url}/v1/score", files={"photo": b"no photo"}, data={"captions": ["a dog"]}, timeout=30
        )
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "photo")
        assert httpx.get(url).headers["content-security-policy"].startswith("default-src 'none'")
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
    assert status == 0, (tmp_path / "log.jsonl").read_text()
