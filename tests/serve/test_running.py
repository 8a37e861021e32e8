"""Keys, admission, origins, root path and shutdown of a running service."""

import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from cliplet.encoders.base import BaseEncoder
from cliplet.encoders.card import ModelCard
from tests.serve.bad_requests import CAPTION, JPEG, PHOTO, form, post
from tests.serve.running import Service

KEYS = ("0123456789abcdef0123", "fedcba9876543210fedc")
SECONDS = 0.5


class SlowEncoder(BaseEncoder):
    """A model that takes half a second for each batch."""

    card = ModelCard("slow", 4)

    def encode_images_safely(self, images, normalise=True):
        time.sleep(SECONDS)
        return np.full((len(images), 4), 0.5, dtype=np.float32), {}

    def encode_texts_safely(self, texts, normalise=True):
        return np.full((len(texts), 4), 0.5, dtype=np.float32), np.zeros(len(texts), dtype=bool), {}


SLOW = ("--model", f"{__name__}:SlowEncoder")


def ask(url: str, **options: object) -> httpx.Response:
    return httpx.post(
        f"{url}/v1/score", files={"photo": JPEG}, data={"captions": ["a dog"]}, timeout=30, **options
    )


@pytest.fixture(scope="module")
def guarded(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "keys.txt").write_text("# ours\n" + "\n".join(KEYS) + "\n")
    running = Service(
        folder, "--model", tiny, "--api-key-file", folder / "keys.txt", "--host", "0.0.0.0",
        "--cors-origin", "https://example.org", "--root-path", "/cliplet",
    )  # fmt: skip
    running.url = f"http://127.0.0.1:{running.port}"
    yield running
    assert running.stop() == 0


@pytest.mark.parametrize(
    "headers", [{}, {"x-api-key": KEYS[0][:-1]}, {"authorization": "Basic x"}, {"authorization": "Bearer"}]
)
def test_without_a_key_nothing_is_read(guarded, headers):
    answer = ask(guarded.url, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["connection"] == "close"
    assert httpx.get(f"{guarded.url}/metrics", headers=headers).status_code == 401


@pytest.mark.parametrize("headers", [{"x-api-key": KEYS[1]}, {"authorization": f"Bearer {KEYS[0]}"}])
def test_with_any_key_all_is_served(guarded, headers):
    assert ask(guarded.url, headers=headers).status_code == 200
    assert httpx.get(f"{guarded.url}/metrics", headers=headers).status_code == 200
    assert not [line for line in guarded.log.read_text().splitlines() if any(key in line for key in KEYS)]


def test_health_and_page_need_no_key(guarded):
    assert httpx.get(f"{guarded.url}/healthz").json()["key_required"] is True
    assert httpx.get(guarded.url).status_code == 200
    assert httpx.get(f"{guarded.url}/page/app.js").status_code == 200


def test_the_root_path_may_be_there_or_stripped(guarded):
    headers = {"x-api-key": KEYS[0]}
    assert ask(f"{guarded.url}/cliplet", headers=headers).status_code == 200
    assert ask(f"{guarded.url}/cliplet").status_code == 401
    described = httpx.get(f"{guarded.url}/openapi.json", headers=headers).json()
    assert described["servers"] == [{"url": "/cliplet"}]


def test_one_origin_may_call_and_others_may_not(guarded):
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    allowed = httpx.options(f"{guarded.url}/v1/score", headers={"origin": "https://example.org", **asked})
    assert allowed.headers["access-control-allow-origin"] == "https://example.org"
    other = httpx.options(f"{guarded.url}/v1/score", headers={"origin": "https://evil.example", **asked})
    assert "access-control-allow-origin" not in other.headers
    refused = ask(guarded.url, headers={"origin": "https://example.org"})
    assert refused.headers["access-control-allow-origin"] == "https://example.org"


def test_without_an_option_no_origin_may_call(service):
    answer = httpx.get(f"{service.url}/healthz", headers={"origin": "https://example.org"})
    assert "access-control-allow-origin" not in answer.headers


def test_over_the_bound_requests_are_refused_at_once_and_all_are_answered(tmp_path):
    running = Service(tmp_path, *SLOW, "--queue", 6)
    try:
        with ThreadPoolExecutor(30) as pool:
            answers = list(pool.map(lambda _: ask(running.url), range(30)))
        counts = Counter(answer.status_code for answer in answers)
        assert set(counts) == {200, 503}
        assert counts[200] >= 6
        refused = [answer for answer in answers if answer.status_code == 503]
        assert all(answer.headers["retry-after"] == "1" for answer in refused)
        assert all(answer.headers["connection"] == "close" for answer in refused)
        assert min(answer.elapsed.total_seconds() for answer in refused) < SECONDS
        assert ask(running.url).status_code == 200
        assert 'cliplet_refused_total{reason="queue"}' in httpx.get(f"{running.url}/metrics").text
    finally:
        assert running.stop() == 0


def test_one_client_may_not_take_all_places(tmp_path):
    running = Service(tmp_path, *SLOW, "--per-client", 2)
    try:
        with ThreadPoolExecutor(8) as pool:
            counts = Counter(pool.map(lambda _: ask(running.url).status_code, range(8)))
        assert set(counts) == {200, 429}
        assert ask(running.url).status_code == 200
    finally:
        assert running.stop() == 0


def test_a_request_that_waits_too_long_is_answered_and_one_that_went_away_is_dropped(tmp_path):
    running = Service(tmp_path, *SLOW, "--timeout", 0.7)
    try:
        for _ in range(12):  # each goes away at once
            with socket.create_connection(("127.0.0.1", running.port)) as connection:
                connection.sendall(post(form(PHOTO, CAPTION)))
                time.sleep(0.005)
        time.sleep(3 * SECONDS)
        with ThreadPoolExecutor(24) as pool:
            counts = Counter(pool.map(lambda _: ask(running.url).status_code, range(24)))
        assert set(counts) == {200, 503}
        metrics = httpx.get(f"{running.url}/metrics").text
        assert 'cliplet_dropped_total{reason="gone"}' in metrics
        assert "cliplet_admitted 0.0" in metrics
        assert any(line.get("code") == "client_gone" for line in running.lines())
    finally:
        assert running.stop() == 0


def test_a_shutdown_finishes_what_was_taken(tmp_path):
    running = Service(tmp_path, *SLOW)
    answers: list[httpx.Response] = []
    asking = [threading.Thread(target=lambda: answers.append(ask(running.url))) for _ in range(10)]
    for thread in asking:
        thread.start()
    time.sleep(0.6 * SECONDS)
    assert running.stop() == 0
    for thread in asking:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 10
    assert running.lines()[-1]["event"] == "stopped"


def test_a_failure_of_the_model_is_500_without_its_detail(tmp_path):
    running = Service(tmp_path, "--model", f"{__name__}:FailingEncoder")
    try:
        answer = ask(running.url)
        assert answer.status_code == 500
        assert "secret detail" not in answer.text
        assert ask(running.url).status_code == 500  # and it lives on
        logged = [line for line in running.lines() if line["level"] == "error"]
        assert "secret detail" in logged[0]["exception"]
        assert logged[0]["request_id"] == answer.headers["x-request-id"]
    finally:
        assert running.stop() == 0


class FailingEncoder(SlowEncoder):
    """A model that fails after its first call."""

    card = ModelCard("failing", 4)
    calls = 0

    def encode_images_safely(self, images, normalise=True):
        FailingEncoder.calls += 1
        if FailingEncoder.calls > 1:
            raise RuntimeError("secret detail")
        return np.full((len(images), 4), 0.5, dtype=np.float32), {}
