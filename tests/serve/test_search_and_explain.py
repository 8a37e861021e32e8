"""Search and its thumbnails over HTTP, with an index of the form that is promised; explanations."""

import base64
import io
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image

from cliplet import Index, load
from cliplet.serve.app import build_app
from cliplet.serve.settings import Settings
from tests.serve.bad_requests import JPEG
from tests.serve.in_thread import Served, Shelf
from tests.serve.running import Service


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture(scope="module")
def url(tiny, shelf) -> Iterator[str]:
    running = Served(build_app(load(tiny), Settings(), shelf))
    yield running.url
    running.stop()


@pytest.mark.parametrize(
    "query",
    [
        {"json": {"text": "a dog", "top": 3}},
        {"data": {"text": "a dog", "top": "3"}, "files": {"photo": JPEG}},
    ],
)
def test_a_search_gives_the_indexs_photos(url, shelf, query):
    answer = httpx.post(f"{url}v1/search", **query)
    assert answer.status_code == 200, answer.text
    assert [found["path"] for found in answer.json()["photos"]] == shelf.paths[:3]
    assert answer.json()["photos"][1]["also"] == ["copy.jpg"]


def test_what_shall_not_be_there_is_passed_on(url, shelf):
    answer = httpx.post(f"{url}v1/search", json={"text": "a dog", "without": "red"})
    assert [found["path"] for found in answer.json()["photos"]] == shelf.paths[1:]


@pytest.mark.parametrize(
    ("query", "status"),
    [({}, 422), ({"text": ""}, 422), ({"text": " "}, 422), ({"text": "a", "top": 0}, 422),
     ({"text": "a", "top": 10**6}, 422), ({"text": "a", "top": "3"}, 422), ({"without": "a dog"}, 422),
     ({"path": "/etc"}, 422), ({"photo": "bm8="}, 422)],
)  # fmt: skip
def test_a_query_that_does_not_fit_is_refused(url, query, status):
    assert httpx.post(f"{url}v1/search", json=query).status_code == status


def test_thumbnails_are_small_and_without_exif(url):
    found = httpx.post(f"{url}v1/search", json={"text": "a dog"}).json()["photos"][0]
    answer = httpx.get(f"{url}v1/photos/{found['id']}", params={"size": 100})
    assert answer.headers["content-type"] == "image/jpeg"
    assert b"private" not in answer.content
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.size == (100, 67)
        assert not dict(image.getexif())


@pytest.mark.parametrize("made", ["0", "x" * 40, "..%2F..%2Fetc%2Fpasswd", "é"])
def test_no_client_can_name_a_photo(url, shelf, made):
    assert httpx.get(f"{url}v1/photos/{made}").status_code == 404


def test_a_forged_seal_is_no_key_to_a_file(url, shelf):
    forged = base64.urlsafe_b64encode(bytes(16) + shelf.paths[0].encode()).decode().rstrip("=")
    answer = httpx.get(f"{url}v1/photos/{forged}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_photo")


def test_a_photo_that_went_away_is_said_to_be_gone(tiny, tmp_path):
    shelf = Shelf(tmp_path)
    running = Served(build_app(load(tiny), Settings(), shelf))
    try:
        found = httpx.post(f"{running.url}v1/search", json={"text": "a dog"}).json()["photos"][0]
        (tmp_path / found["path"]).unlink()
        assert httpx.get(f"{running.url}v1/photos/{found['id']}").json()["error"]["code"] == "photo_gone"
    finally:
        running.stop()


def test_a_real_index_is_searched_as_from_python(tiny, tmp_path):
    pytest.importorskip("lancedb")
    shelf = Shelf(tmp_path)  # writes photos
    index = Index.make(tmp_path / "photos.lance", tiny)
    index.update([tmp_path])
    running = Service(tmp_path, "--model", tiny, "--index", tmp_path / "photos.lance")
    try:
        query = {"text": "a red car", "without": "a dog", "top": 4}
        found = httpx.post(f"{running.url}/v1/search", json=query).json()["photos"]
        hits = index.search(**query)
        assert [photo["path"] for photo in found] == [hit.path for hit in hits]
        assert [photo["score"] for photo in found] == pytest.approx([hit.score for hit in hits], abs=1e-5)
        assert set(shelf.paths) >= {photo["path"] for photo in found}
        assert httpx.get(f"{running.url}/v1/photos/{found[0]['id']}").status_code == 200
        described = httpx.get(f"{running.url}/openapi.json").json()["paths"]
        assert {"/v1/search", "/v1/photos/{photo_id}"} <= set(described)
    finally:
        assert running.stop() == 0


def test_an_explanation_holds_the_captions_words(url):
    caption = "a red dog runs on the grass"
    answer = httpx.post(f"{url}v1/explain", files={"photo": JPEG}, data={"caption": caption}, timeout=60)
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert content["units"]
    assert all(caption[unit["start"] : unit["end"]] == unit["text"] for unit in content["units"])
    assert content["sentence"]
    score = httpx.post(f"{url}v1/score", files={"photo": JPEG}, data={"captions": [caption]}).json()
    assert content["score"] == pytest.approx(score["results"][0]["score"], abs=1e-5)


@pytest.mark.parametrize("caption", ["", "  "])
def test_nothing_cannot_be_explained(url, caption):
    answer = httpx.post(
        f"{url}v1/explain", json={"photo": base64.b64encode(JPEG).decode(), "caption": caption}
    )
    assert answer.status_code == 422
