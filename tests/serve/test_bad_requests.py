"""Bad requests of all kinds: a clear refusal, never a traceback, never what was sent; the service lives on."""

import json

import httpx
import pytest

from tests.serve.bad_requests import CAPTION, JPEG, KINDS, PHOTO, SECRET, Kind, form, post, send
from tests.serve.running import Service


def test_there_are_forty_kinds():
    assert len({kind.name for kind in KINDS}) >= 40


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.name) for kind in KINDS])
def test_a_bad_request_is_refused(service: Service, kind: Kind):
    status, answer = send(service.port, kind)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert status in kind.statuses, answer[:500]
    assert SECRET.encode() not in answer
    assert b"Traceback" not in answer
    assert b"cliplet/" not in answer
    if b"x-request-id" in head.lower():  # what is no HTTP is refused by the web server itself
        error = json.loads(body)["error"]
        assert error["code"]
        assert error["message"]
        assert error["request_id"].encode() in head


def test_after_all_of_them_a_good_request_is_answered_and_the_log_is_json(service: Service):
    for kind in KINDS:
        send(service.port, kind)
    status, answer = send(service.port, Kind("good", post(form(PHOTO, CAPTION)), (200,)))
    assert status == 200, answer
    lines = service.lines()
    assert not [line for line in lines if line["level"] == "error"]
    assert SECRET not in service.log.read_text()
    admitted = httpx.get(f"{service.url}/metrics").text
    assert "cliplet_admitted 0.0" in admitted
    assert "cliplet_admitted_bytes 0.0" in admitted


def test_a_client_that_waits_to_be_asked_never_sends_a_body_that_is_too_large(service: Service):
    import socket

    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/score HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Type: image/jpeg\r\n"
            b"Content-Length: 50000000\r\n\r\n"
        )
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer.lower()


def test_a_good_request_stays_good(service: Service):
    answer = httpx.post(
        f"{service.url}/v1/score",
        files={"photo": ("../../etc/x.jpg", JPEG)},
        data={"captions": ["a dog", "a cat"]},
    )
    assert answer.status_code == 200
    assert len(answer.json()["results"]) == 2
