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
from tests.stream.failing_proxy import FailingProxy


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
    server = pytest.importorskip("moto.server")
    import boto3
    import s3fs

    moto = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    port = moto.get_host_and_port()[1]
    proxy = FailingProxy(port)
    try:
        for name, value in (("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b"),
                            ("AWS_DEFAULT_REGION", "us-east-1"), ("AWS_ENDPOINT_URL", proxy.address)):  # fmt: skip
            monkeypatch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
        client.create_bucket(Bucket="shards")
        for path in shards:
            client.put_object(Bucket="shards", Key=f"data/{path.name}", Body=path.read_bytes())
        s3fs.S3FileSystem.clear_instance_cache()
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
    finally:
        proxy.close()
        moto.stop()


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
