"""The endpoints: their scores are the library's, their answers have one shape, their bounds hold."""

import base64
import io
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from cliplet import Scorer, load
from tests.serve.bad_requests import JPEG, photo
from tests.serve.running import Service

CAPTIONS = [
    "a dog runs on the grass",
    "two cats",
    "a red car of a woman and a man on the beach . a dog a cat a man",
    "  ",
]
REFERENCES = ["a dog", "the dog sits on grass"]


def score(service: Service, content: bytes = JPEG, **data: object) -> httpx.Response:
    return httpx.post(f"{service.url}/v1/score", files={"photo": content}, data=data, timeout=30)


@pytest.mark.parametrize("preset", ["paper", "torchmetrics", "cosine"])
def test_scores_are_the_librarys(service, tiny, preset):
    own = Scorer(tiny, preset).score([JPEG] * 4, CAPTIONS, [REFERENCES] * 4)
    answer = score(service, captions=CAPTIONS, references=REFERENCES, preset=preset)
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert content["score_name"] == own.preset.column
    assert content["model"] == {"name": "tiny-0", "fingerprint": own.card.fingerprint}
    for row, (caption, found) in enumerate(zip(CAPTIONS, content["results"], strict=True)):
        assert found["caption"] == caption
        for name in ("score", "cosine", "reference_cosine", "ref_clip_score", "ref_mix_score"):
            value = float(getattr(own, name)[row])
            assert found[name] == (pytest.approx(value, abs=1e-6) if value == value else None), name
        assert found["truncated"] == own.truncated[row]
        assert found["reason"] == own.failures[row]
        assert found["match"] is None
    assert content["match_reason"]


def test_json_and_form_give_the_same(service):
    coded = {"photo": base64.b64encode(JPEG).decode(), "captions": CAPTIONS, "references": REFERENCES}
    by_json = httpx.post(f"{service.url}/v1/score", json=coded)
    assert by_json.json() == score(service, captions=CAPTIONS, references=REFERENCES).json()


def test_scores_do_not_depend_on_who_asks_beside(service, tiny):
    photos = [photo((40 + i, 60)) for i in range(40)]
    own = Scorer(tiny).score(photos, [CAPTIONS[i % 3] for i in range(40)]).score
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda i: score(service, photos[i], captions=[CAPTIONS[i % 3]]), range(40)))
    assert [a.status_code for a in answers] == [200] * 40
    found = [a.json()["results"][0]["score"] for a in answers]
    np.testing.assert_allclose(found, own, atol=1e-6)
    batches = httpx.get(f"{service.url}/metrics").text
    assert "cliplet_batch_requests_bucket" in batches


def test_embeddings_are_the_encoders(service, tiny):
    encoder = load(tiny)
    broken = photo((400, 300))[:2000]
    answer = httpx.post(
        f"{service.url}/v1/embed",
        files=[("photos", JPEG), ("photos", broken)],
        data={"texts": ["a dog", " "]},
    )
    assert answer.status_code == 200, answer.text
    content = answer.json()
    np.testing.assert_allclose(content["photos"][0]["embedding"], encoder.encode_images([JPEG])[0], atol=1e-6)
    np.testing.assert_allclose(
        content["texts"][0]["embedding"], encoder.encode_texts(["a dog"])[0], atol=1e-6
    )
    assert content["photos"][1]["embedding"] is None
    assert "truncated or corrupt" in content["photos"][1]["reason"]
    assert content["texts"][1] == {"embedding": None, "truncated": False, "reason": "the caption is empty"}
    assert content["dimension"] == 16


def test_a_photo_that_cannot_be_read_is_refused_with_its_reason(service):
    answer = score(service, photo((400, 300))[:2000], captions=["a dog"])
    assert answer.status_code == 422
    assert "truncated or corrupt" in answer.json()["error"]["message"]


def test_exif_is_obeyed_and_never_comes_back(service, tiny):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a private remark"
    stream = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(stream, "JPEG", exif=exif)
    answer = score(service, stream.getvalue(), captions=["a dog"])
    assert "private" not in answer.text
    assert answer.json()["results"][0]["score"] == pytest.approx(
        float(Scorer(tiny).score(stream.getvalue(), "a dog").score[0]), abs=1e-6
    )


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
def test_other_formats_are_taken_where_pillow_reads_them(service, kind):
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    elif kind == "AVIF":
        from PIL import features

        if not features.check("avif"):
            pytest.skip("this Pillow reads no AVIF")
    assert score(service, photo(kind=kind), captions=["a dog"]).status_code == 200


def test_health_metrics_and_page_say_what_they_should(service):
    health = httpx.get(f"{service.url}/healthz").json()
    assert (health["status"], health["key_required"], health["search"]) == ("ok", False, False)
    assert health["limits"]["max_body"] == 300 * 1024
    metrics = httpx.get(f"{service.url}/metrics")
    assert 'cliplet_requests_total{path="/healthz",status="200"}' in metrics.text
    page = httpx.get(service.url)
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert "unsafe" not in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    again = httpx.get(
        f"{service.url}/page/app.js",
        headers={"if-none-match": httpx.get(f"{service.url}/page/app.js").headers["etag"]},
    )
    assert again.status_code == 304
    assert httpx.get(f"{service.url}/docs").status_code == 404


def test_a_request_id_is_kept_or_made_and_logged(service):
    kept = httpx.get(f"{service.url}/healthz", headers={"x-request-id": "abc-1.2"})
    assert kept.headers["x-request-id"] == "abc-1.2"
    end = time.monotonic() + 5  # the line is written after the answer
    while not any(line.get("request_id") == "abc-1.2" and line["status"] == 200 for line in service.lines()):
        assert time.monotonic() < end
    made = httpx.get(f"{service.url}/healthz", headers={"x-request-id": "a b<script>"}).headers[
        "x-request-id"
    ]
    assert len(made) == 32


def test_the_openapi_page_is_valid_and_its_examples_work(service):
    described = httpx.get(f"{service.url}/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    references = [
        part.split('"')[0] for part in json.dumps(described).split('"$ref": "#/components/schemas/')[1:]
    ]
    assert references
    assert set(references) <= set(described["components"]["schemas"])
    for path, operations in described["paths"].items():
        if path not in ("/v1/score", "/v1/embed", "/v1/explain"):
            continue
        body = operations["post"]["requestBody"]["content"]
        assert set(body) == {"application/json", "multipart/form-data"}
        answer = httpx.post(service.url + path, json=body["application/json"]["example"], timeout=60)
        assert answer.status_code == 200, (path, answer.text)
        assert {"400", "413", "422", "503"} <= set(operations["post"]["responses"])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--host", "0.0.0.0"], "can be reached by others: give --api-key-file"),
        (["--api-key-file", "none.txt"], "there is no such file"),
        (["--max-body", "much"], "is no size"),
        (["--cors-origin", "*"], "must look like https://example.org"),
        (["--root-path", "a/"], "must look like /cliplet"),
        (["--model", "nowhere"], "no model"),
        (["--index", "nowhere.lance"], "nowhere.lance"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(tmp_path, options, complaint):
    command = [sys.executable, "-m", "cliplet", "serve", "--port", "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2
    assert complaint in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
