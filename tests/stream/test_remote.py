"""Shards at addresses: found, fetched whole whatever fails on the way, or failed with a reason."""

import json
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

pytest.importorskip("fsspec")

from cliplet.errors import InputError
from cliplet.stream import remote
from cliplet.stream.score import score_stream
from cliplet.stream.scores import ScoreWork
from cliplet.stream.sources import find_sources
from tests.stream.conftest import contents, rows, shard
from tests.stream.failing_proxy import failing_store


@pytest.fixture
def memory():
    """fsspec's file system in memory, empty."""
    import fsspec

    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


@pytest.fixture
def work(here):
    return ScoreWork(str(here / "tiny"))


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(remote, "CHUNK", 4096)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Three shards on disk."""
    folder = tmp_path_factory.mktemp("shards")
    return [shard(folder / f"{i:03d}.tar", 10 * i, 10) for i in range(3)]


def test_braces_wildcards_and_folders_of_addresses(memory, shards):
    for path in shards:
        memory.pipe(f"/data/{path.name}", path.read_bytes())
    memory.pipe("/data/notes.txt", b"x")
    names = [f"memory://data/{path.name}" for path in shards]
    for text in ("memory://data/{000..002}.tar", "memory://data/*.tar", "memory://data"):
        assert [source.name for source in find_sources([text])] == names
    for text in ("memory://data/9.tar", "memory://data/*.parquet"):
        with pytest.raises(InputError, match="there is no such file"):
            find_sources([text])


def test_a_stream_of_addresses_gives_the_scores_of_local_files(memory, shards, work, tmp_path):
    for path in shards:
        memory.pipe(f"/data/{path.name}", path.read_bytes())
    score_stream(["memory://data/*.tar"], tmp_path / "a", work, workers=0, quiet=True)
    score_stream([str(shards[0].parent)], tmp_path / "b", work, workers=0, quiet=True)
    far, near = rows(tmp_path / "a"), rows(tmp_path / "b")
    assert len(far) == 30
    assert [row["cosine"] for row in far] == [row["cosine"] for row in near]
    assert far[0]["image"] == "memory://data/000.tar/0000.jpg"


def test_reads_that_fail_are_repeated_where_they_began(memory, shards, work, tmp_path, monkeypatch):
    memory.pipe("/data/0.tar", shards[0].read_bytes())
    read, calls = type(memory).cat_file, []

    def failing(self, path, start=None, end=None, **more):
        calls.append((start, end))
        content = read(self, path, start=start, end=end, **more)
        if len(calls) % 3 == 0:
            raise ConnectionResetError("the line went dead")
        return content[:-1] if len(calls) % 3 == 1 else content

    monkeypatch.setattr(type(memory), "cat_file", failing)
    score_stream(["memory://data/0.tar"], tmp_path, work, workers=0, quiet=True)
    found = rows(tmp_path)
    assert len(found) == 10
    assert not any(row["reason"] for row in found)
    assert len(calls) > len(set(calls)) > 2


def test_a_shard_that_cannot_be_had_whole_is_a_failed_part_with_its_reason(
    memory, shards, work, tmp_path, monkeypatch
):
    for path in shards:
        memory.pipe(f"/data/{path.name}", path.read_bytes())
    read = type(memory).cat_file

    def failing(self, path, start=None, end=None, **more):
        if path.endswith("001.tar") and start:
            raise TimeoutError("no answer")
        return read(self, path, start=start, end=end, **more)

    monkeypatch.setattr(type(memory), "cat_file", failing)
    done = score_stream(["memory://data/*.tar"], tmp_path, work, workers=0, quiet=True)
    assert len(rows(tmp_path)) == 20
    assert (
        "reading memory://data/001.tar at byte 4096 failed 6 times: TimeoutError: no answer"
        in done.run.failed[1]
    )
    failed = json.loads((tmp_path / "summary.json").read_text())["failed_parts"]
    assert list(failed) == ["part-00001"]


def test_a_file_that_changed_at_its_address_is_refused(memory, shards, work, tmp_path):
    memory.pipe("/data/0.tar", shards[0].read_bytes())
    score_stream(["memory://data/0.tar"], tmp_path, work, workers=0, quiet=True)
    memory.pipe("/data/0.tar", shards[1].read_bytes())
    with pytest.raises(InputError, match="memory://data/0.tar has another"):
        score_stream(["memory://data/0.tar"], tmp_path, work, workers=0, quiet=True)


def test_an_unknown_kind_of_address_is_refused():
    with pytest.raises(InputError, match="nowhere://x.tar"):
        find_sources(["nowhere://x.tar"])


@pytest.mark.filterwarnings("ignore")
def test_a_store_that_fails_every_tenth_request_loses_nothing(shards, work, tmp_path, monkeypatch):
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    with failing_store(monkeypatch, "shards") as (client, proxy):
        for path in shards:
            client.put_object(Bucket="shards", Key=f"data/{path.name}", Body=path.read_bytes())
        done = score_stream(
            ["s3://shards/data/{000..002}.tar"], tmp_path / "far", work, workers=0, quiet=True
        )
        assert not done.run.failed
        score_stream([str(shards[0].parent)], tmp_path / "near", work, workers=0, quiet=True)
        far, near = rows(tmp_path / "far"), rows(tmp_path / "near")
        assert [row["cosine"] for row in far] == [row["cosine"] for row in near]
        assert [row["caption"] for row in far] == [row["caption"] for row in near]
        assert proxy.failed >= 3
        again = score_stream(
            ["s3://shards/data/{000..002}.tar"], tmp_path / "far", work, workers=0, quiet=True
        )
        assert again.run.before == 3
        assert contents(tmp_path / "far")


def test_an_address_of_the_web_is_read(here, tmp_path, monkeypatch):
    pytest.importorskip("aiohttp")
    path = shard(tmp_path / "a.tar", 0, 6)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/a.tar"
        (found,) = find_sources([address])
        assert (found.name, found.size) == (address, path.stat().st_size)
        with pytest.raises(InputError, match="whole file where a range"):  # this server does not know ranges
            remote.fetch(found, tmp_path / "copy.tar", lambda doing: None)
        monkeypatch.setattr(remote, "CHUNK", 1 << 20)
        remote.fetch(found, tmp_path / "copy.tar", lambda doing: None)
        server.shutdown()
    assert (tmp_path / "copy.tar").read_bytes() == path.read_bytes()


def test_a_file_whose_length_is_not_told_is_refused_not_taken_for_empty(memory, monkeypatch):
    memory.pipe("/s/a.tar", b"x" * 100)
    monkeypatch.setattr(
        type(memory), "info", lambda self, path, **_: {"name": path, "type": "file", "size": None}
    )
    with pytest.raises(InputError, match="how long it is"):
        find_sources(["memory://s/a.tar"])


# ---------------------------------------------------------------- photos at an address
def test_photos_in_a_folder_at_an_address_give_the_scores_of_local_ones(here, memory, tmp_path, monkeypatch):
    for photo in (here / "photos").iterdir():
        memory.pipe(f"/p/deep/{photo.name}", photo.read_bytes())
    memory.pipe("/p/readme.txt", b"x")
    read, calls = type(memory).cat_file, []

    def failing(self, path, start=None, end=None, **more):
        calls.append(path)
        if len(calls) % 3 == 0:
            raise ConnectionResetError("the line went dead")
        return read(self, path, start=start, end=end, **more)

    monkeypatch.setattr(type(memory), "cat_file", failing)
    captions = [str(here / "captions.csv")]
    far = ScoreWork(str(here / "tiny"), images="memory://p")
    done = score_stream(captions, tmp_path / "far", far, workers=0, part_rows=30, quiet=True)
    assert not done.run.failed
    score_stream(captions, tmp_path / "near", ScoreWork(str(here / "tiny"), images=str(here / "photos")), workers=0,
                 part_rows=30, quiet=True)  # fmt: skip
    assert contents(tmp_path / "far") == contents(tmp_path / "near")
    assert "data:image/jpeg" in (tmp_path / "far" / "report.html").read_text()


def test_photos_in_tars_at_addresses_are_found(here, memory, tmp_path):
    import tarfile

    for i in range(2):
        with tarfile.open(tmp_path / f"{i}.tar", "w") as tar:
            for k in range(4 * i, 4 * i + 4):
                tar.add(here / "photos" / f"{k}.jpg", f"{k}.jpg")
        memory.pipe(f"/p/{i}.tar", (tmp_path / f"{i}.tar").read_bytes())
    captions = [str(here / "captions.csv")]
    far = ScoreWork(str(here / "tiny"), images="memory://p/{0..1}.tar")
    score_stream(captions, tmp_path / "far", far, workers=0, part_rows=30, quiet=True)
    found = rows(tmp_path / "far")
    assert not any(row["reason"] for row in found)
    assert found[0]["member"] == "0.jpg"
    memory.pipe("/p/1.tar", (tmp_path / "0.tar").read_bytes())
    with pytest.raises(InputError, match="tars of images was"):
        score_stream(captions, tmp_path / "far", far, workers=0, part_rows=30, quiet=True)


def test_a_store_that_gives_no_photo_ends_the_part_and_a_missing_photo_its_row(
    here, memory, tmp_path, monkeypatch
):
    for photo in (here / "photos").iterdir():
        if photo.name != "3.jpg":
            memory.pipe(f"/p/{photo.name}", photo.read_bytes())
    captions, work = [str(here / "captions.csv")], ScoreWork(str(here / "tiny"), images="memory://p/")
    score_stream(captions, tmp_path / "a", work, workers=0, quiet=True)
    reasons = {row["image"]: row["reason"] for row in rows(tmp_path / "a") if row["reason"]}
    assert reasons == {"3.jpg": "there is no photo '3.jpg' in memory://p"}

    def failing(self, path, start=None, end=None, **more):
        raise TimeoutError("no answer")

    with monkeypatch.context() as broken:
        broken.setattr(type(memory), "cat_file", failing)
        done = score_stream(captions, tmp_path / "b", work, workers=0, quiet=True)
    assert "failed 6 times: TimeoutError: no answer" in done.run.failed[0]
    done = score_stream(captions, tmp_path / "b", work, workers=0, quiet=True, retry_failed=True)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_no_photo_at_the_address_ends_the_run_before_any_part(here, memory, tmp_path):
    memory.pipe("/p/other.jpg", b"x")
    for images, why in (
        ("memory://p", "none of the 100 images was found"),
        ("memory://nothing", "there are no photos"),
        ("memory://p/other.jpg", "neither a folder"),
    ):
        with pytest.raises(InputError, match=why):
            score_stream([str(here / "captions.csv")], tmp_path, ScoreWork(str(here / "tiny"), images=images),
                         workers=0, quiet=True)  # fmt: skip


# ---------------------------------------------------------------- addresses with a query
@pytest.fixture
def web(tmp_path):
    """A folder on the web whose server asks for a key."""
    pytest.importorskip("aiohttp")
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            asked.append(self.path)
            if "key=secret" not in self.path:
                self.send_error(403)
                return
            super().do_GET()

        do_HEAD = do_GET

    (tmp_path / "web").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "web"))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path / "web", f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.filterwarnings("ignore")
def test_an_address_with_a_query_is_what_its_path_says_and_the_query_stays_out_of_outputs(
    web, work, tmp_path, monkeypatch
):
    folder, address, _ = web
    monkeypatch.setattr(remote, "CHUNK", 1 << 20)
    for i in range(2):
        shard(folder / f"{i}.tar", 10 * i, 6)
    given = [f"{address}/{{0..1}}.tar?key=secret&x=[1]"]
    found = find_sources(given)
    assert [(one.kind, one.file_name, one.name) for one in found] == [
        ("tar", f"{i}.tar", f"{address}/{i}.tar") for i in range(2)
    ]
    done = score_stream(given, tmp_path / "out", work, workers=0, quiet=True)
    assert not done.run.failed
    assert len(rows(tmp_path / "out")) == 12
    kept = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(b"secret" in content for content in kept)
    again = score_stream([f"{address}/{{0..1}}.tar?key=secret&signed=anew"], tmp_path / "out", work, workers=0,
                         quiet=True)  # fmt: skip
    assert again.run.before == 2
    failed = remote._QUERY.sub(r"\1?...", f"403, url='{address}/0.tar?key=secret'")
    assert failed == f"403, url='{address}/0.tar?...'"


def test_addresses_that_only_their_queries_tell_apart_keep_them(web, monkeypatch):
    folder, address, _ = web
    shard(folder / "a.tar", 0, 2)
    given = [f"{address}/a.tar?key=secret&part={i}" for i in range(2)]
    assert [source.name for source in find_sources(given)] == given
