"""An index of photos: what an update does, what a search finds, and what a killed run leaves."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cliplet.cli.main import cli
from cliplet.errors import InputError, MissingExtraError
from tests.evaluation.colours import ColourEncoder, jpeg, write_photos
from tests.tiny_model import build_tiny_model

pytest.importorskip("lancedb")

from cliplet.search.index import Index, _first, photo_of
from cliplet.search.store import Store

NAMES = {"red.jpg": "red", "green.jpg": "green", "sub/blue.jpg": "blue", "it's yellow.jpg": "yellow"}


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", NAMES)


@pytest.fixture
def index(tmp_path, photos):
    made = Index.make(tmp_path / "x" / "photos.lance", ColourEncoder())
    made.update([photos])
    return made


def names(hits):
    return [Path(hit.path).name for hit in hits]


def test_a_text_finds_its_photos_the_nearest_first(index):
    hits = index.search("something red", top=4)
    assert names(hits)[0] == "red.jpg"
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert hits[0].score == pytest.approx(1, abs=0.01)
    assert len(index) == index.photos == 4


def test_scores_are_the_cosines_of_the_encoder(index, photos):
    text = index.encoder.encode_texts(["blue"])[0]
    image = index.encoder.encode_images([photos / "sub/blue.jpg"])[0]
    assert index.search("blue", top=1)[0].score == pytest.approx(float(text @ image), abs=1e-6)


def test_a_photo_finds_those_like_it(index):
    assert names(index.search(photo=jpeg("green"), top=1)) == ["green.jpg"]
    both = index.search("yellow", photo=jpeg("red"), top=2)
    assert set(names(both)) == {"red.jpg", "it's yellow.jpg"}


def test_what_is_not_wanted_goes_down(index):
    with_yellow = names(index.search("red and yellow", top=2))
    assert with_yellow == ["it's yellow.jpg", "red.jpg"] or set(with_yellow) == {"it's yellow.jpg", "red.jpg"}
    assert names(index.search("red and yellow", without="yellow", top=1)) == ["red.jpg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give a text or a photo"),
        ({"text": "  "}, "empty"),
        ({"text": "a", "top": 0}, "at least 1"),
        ({"photo": b"no photo"}, "image"),
    ],
)
def test_bad_queries_are_refused(index, arguments, message):
    with pytest.raises(InputError, match=message):
        index.search(**arguments)


@pytest.mark.parametrize("vector", [np.zeros(3, np.float32), np.full(4, np.nan, np.float32)])
def test_bad_vectors_are_refused(index, vector):
    with pytest.raises(InputError, match="4 finite numbers"):
        index.search_vector(vector)


def test_equal_scores_come_by_path():
    scores = np.array([0.5, 0.9, 0.5, 0.9, 0.5, 0.1], dtype=np.float32)
    assert _first(scores, 4) == [1, 3, 0, 2]
    assert _first(scores, 99) == [1, 3, 0, 2, 4, 5]
    assert _first(scores[:0], 3) == []


def test_the_first_are_those_of_a_whole_sort():
    rng = np.random.default_rng(0)
    for n in (1, 63, 64, 65, 1000, 5003):
        scores = rng.integers(0, 50, n).astype(np.float32)  # many equals
        for count in (1, 7, 60, n):
            assert _first(scores, count) == np.lexsort((np.arange(n), -scores))[:count].tolist()


def test_an_empty_index_finds_nothing(tmp_path):
    empty = Index.make(tmp_path / "e.lance", ColourEncoder())
    (tmp_path / "none").mkdir()
    assert empty.update([tmp_path / "none"]).added == 0
    assert empty.search("red") == []


# ---------------------------------------------------------------- updates
def test_an_update_does_only_what_is_new(index, photos):
    again = index.update([photos])
    assert (again.added, again.changed, again.removed, again.unchanged) == (0, 0, 0, 4)
    (photos / "green.jpg").write_bytes(jpeg("red", 60))
    os.utime(photos / "green.jpg", (1, 1))
    (photos / "red.jpg").unlink()
    (photos / "new.jpg").write_bytes(jpeg("grey"))
    third = index.update([photos])
    assert (third.added, third.changed, third.removed, third.unchanged) == (1, 1, 1, 2)
    assert set(names(index.search("red", top=9))) == {"green.jpg", "blue.jpg", "it's yellow.jpg", "new.jpg"}
    assert names(index.search("red", top=9)).count("red.jpg") == 0


def test_a_touched_or_moved_photo_is_not_embedded_again(index, photos):
    def never(*_arguments, **_options):
        raise AssertionError("embedded again")

    os.utime(photos / "red.jpg", (5, 5))
    (photos / "green.jpg").rename(photos / "moved.jpg")
    index.encoder.encode_images_safely = never
    done = index.update([photos])
    assert (done.added, done.changed, done.removed, done.copied) == (1, 0, 1, 1)
    assert index.update([photos]).unchanged == 4


def test_only_places_that_are_given_lose_photos(index, photos, tmp_path):
    other = write_photos(
        tmp_path / "photos2", {"grey.jpg": "grey"}
    )  # a name that begins as the other folder's
    index.update([other])
    (photos / "red.jpg").unlink()
    assert index.update([other]).removed == 0
    assert len(index) == 5
    assert index.update([photos]).removed == 1
    assert len(index) == 4


def test_bad_photos_are_named_and_never_in_the_way(index, photos):
    (photos / "bad.jpg").write_bytes(b"no photo")
    (photos / "empty.jpg").write_bytes(b"")
    done = index.update([photos])
    assert {Path(path).name for path in done.failed} == {"bad.jpg", "empty.jpg"}
    assert len(index) == 4
    (photos / "red.jpg").write_bytes(b"broken now")
    done = index.update([photos])
    assert "red.jpg" in {Path(path).name for path in done.failed}
    assert "red.jpg" not in names(index.search("red", top=9))  # not the former photo's vector


def test_photos_in_a_tar(tmp_path):
    folder = write_photos(tmp_path / "p", NAMES)
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name in NAMES:
            tar.add(folder / name, name)
    index = Index.make(tmp_path / "t.lance", ColourEncoder())
    assert index.update([tmp_path / "shard.tar"]).added == 4
    hit = index.search("blue", top=1)[0]
    assert hit.path == f"{tmp_path / 'shard.tar'}:sub/blue.jpg"
    assert photo_of(hit.path).read_bytes() == (folder / "sub/blue.jpg").read_bytes()
    assert index.update([tmp_path / "shard.tar"]).unchanged == 4


@pytest.mark.parametrize("place", ["none", "notes.txt"])
def test_wrong_places_are_refused_before_work(index, tmp_path, place):
    (tmp_path / "notes.txt").write_text("a dog")
    with pytest.raises(InputError, match=place):
        index.update([tmp_path / place])


def test_a_photo_is_taken_out_for_good(index, photos):
    assert [Path(p).name for p in index.remove([photos / "it's yellow.jpg"])] == ["it's yellow.jpg"]
    assert len(index) == 3
    done = index.update([photos])
    assert (done.added, done.hidden) == (0, 1)
    assert "it's yellow.jpg" not in names(index.search("yellow", top=9))
    with pytest.raises(InputError, match="no photo of that name is in the index"):
        index.remove([photos / "it's yellow.jpg"])
    index.restore([photos / "it's yellow.jpg"])
    assert index.update([photos]).added == 1
    assert names(index.search("yellow", top=1)) == ["it's yellow.jpg"]
    assert len(index.remove([photos])) == 4  # a whole folder


def test_repeated_photos_are_one_hit(index, photos):
    shutil.copy(photos / "red.jpg", photos / "a copy.jpg")
    (photos / "nearly.jpg").write_bytes(jpeg("red", 2))
    index.update([photos])
    first = index.search("red", top=2)
    assert len(first) == 2
    assert {Path(p).name for p in [first[0].path, *first[0].also]} == {"red.jpg", "a copy.jpg", "nearly.jpg"}


def test_a_hundred_copies_do_not_fill_the_list(index, photos):
    for i in range(100):
        shutil.copy(photos / "red.jpg", photos / f"copy {i}.jpg")
    index.update([photos])
    assert len(index.search("red", top=4)) == 4


# ---------------------------------------------------------------- what cannot be listed
def packed(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_a_tar_in_a_folder_keeps_its_photos(index, photos):
    shard = packed(photos / "x.tar", [("a:b.jpg", jpeg("grey")), ("c.jpg", jpeg("red", 70))])
    assert index.update([photos, shard]).added == 2
    assert index.update([photos]).removed == 0  # the folder's listing says nothing of the tar's photos
    assert photo_of(f"{shard}:a:b.jpg").read_bytes() == jpeg("grey")
    packed(shard, [("c.jpg", jpeg("red", 70))])
    assert index.update([photos, shard]).removed == 1
    with pytest.raises(InputError, match=r"x.tar holds no photo a:b.jpg"):
        photo_of(f"{shard}:a:b.jpg")
    shard.unlink()
    assert index.update([photos]).removed == 1


def test_a_damaged_tar_keeps_its_photos_and_stops_nothing(index, photos, tmp_path):
    shard = packed(tmp_path / "s.tar", [("a.jpg", jpeg("grey")), ("b.jpg", jpeg("red", 70))])
    index.update([shard])
    whole = shard.read_bytes()
    for broken in (whole[:1800], b"junk" * 500):
        shard.write_bytes(broken)
        (photos / "new.jpg").write_bytes(jpeg("blue", len(broken) % 90))
        done = index.update([shard, photos])
        assert str(shard) in done.failed
        assert (done.removed, done.added + done.changed) == (0, 1)
    assert len(index) == 7
    packed(shard, [("a.jpg", jpeg("grey")), ("b.jpg", b"one"), ("b.jpg", b"two")])
    done = index.update([shard])
    assert "holds two files b.jpg" in done.failed[f"{shard}:b.jpg"]


def test_a_folder_that_cannot_be_listed_keeps_its_photos(index, photos, monkeypatch):
    walk = os.walk

    def unreadable(top, onerror=None, **options):
        for folder, inside, files in walk(top, **options):
            if Path(folder).name == "sub":
                onerror(PermissionError(13, "Permission denied", folder))
            else:
                yield folder, inside, files

    monkeypatch.setattr(os, "walk", unreadable)
    done = index.update([photos])
    assert done.failed == {str(photos / "sub"): "Permission denied"}
    assert done.removed == 0
    assert len(index) == 4


def test_a_name_that_is_not_utf8_is_named(index, photos):
    (photos / os.fsdecode(b"caf\xe9.jpg")).write_bytes(jpeg("grey"))
    (photos / "new.jpg").write_bytes(jpeg("grey", 9))
    done = index.update([photos])
    assert list(done.failed.values()) == ["its name is not valid UTF-8: rename it"]
    assert done.added == 1


def test_a_photo_that_became_empty_is_no_longer_found(index, photos):
    (photos / "red.jpg").write_bytes(b"")
    assert list(index.update([photos]).failed.values()) == ["the file is empty"]
    assert "red.jpg" not in names(index.search("red", top=9))


# ---------------------------------------------------------------- who made it
def test_an_index_of_another_model_is_refused(index):
    with pytest.raises(InputError, match=r"made by colours \(colours\), not by other \(other\).*--rebuild"):
        Index.open(index.store.address, ColourEncoder("other"))
    again = Index.make(index.store.address, ColourEncoder("other"), rebuild=True)
    assert len(again) == 0


@pytest.mark.parametrize("name", ["photos", "photos.lance.txt", ".lance"])
def test_an_index_ends_in_lance(tmp_path, name):
    with pytest.raises(InputError, match=r"ends in \.lance"):
        Store(tmp_path / name)


def test_what_is_no_index_is_refused(tmp_path):
    import lancedb

    with pytest.raises(InputError, match="there is no such index"):
        Index.open(tmp_path / "none.lance", ColourEncoder())
    lancedb.connect(tmp_path).create_table("other", [{"a": 1}])
    with pytest.raises(InputError, match="not an index that this version"):
        Index.open(tmp_path / "other.lance", ColourEncoder())
    (tmp_path / "empty.lance").mkdir()
    with pytest.raises(InputError, match="cannot be opened as an index"):
        Index.open(tmp_path / "empty.lance", ColourEncoder())


def test_without_lancedb_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'cliplet\[search\]'"):
        Index.make(tmp_path / "x.lance", ColourEncoder())


# ---------------------------------------------------------------- several processes, kills
def test_an_open_index_sees_what_others_add(index, photos, monkeypatch):
    reader = Index.open(index.store.address, ColourEncoder())
    assert len(reader.search("red", top=9)) == 4
    (photos / "new.jpg").write_bytes(jpeg("grey"))
    index.update([photos])
    monkeypatch.setattr("cliplet.search.index.FRESH", 0)
    assert "new.jpg" in names(reader.search("red", top=9))


def test_threads_may_search_while_it_grows(index, photos):
    wrong = []

    def ask():
        for _ in range(30):
            found = names(index.search("red", top=1))
            if found != ["red.jpg"]:
                wrong.append(found)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    writer = Index.open(index.store.address, ColourEncoder())
    for i in range(5):
        (photos / f"more {i}.jpg").write_bytes(jpeg("blue", i))
        writer.update([photos])
    for thread in threads:
        thread.join()
    assert not wrong


def test_two_writers_at_once_are_one_too_many(index, photos):
    other = Store(index.store.address)
    with other.locked(), pytest.raises(InputError, match="being written by another run"):
        index.update([photos])
    assert index.update([photos]).unchanged == 4


def test_what_a_killed_run_left_is_removed(index, photos):
    left = Path(index.store.address) / "data" / ".tmpabc"
    left.write_bytes(bytes(1000))
    index.update([photos])
    assert not left.exists()


SLOW = """
import sys, time
from cliplet.search import update
from cliplet.search.index import Index
from tests.evaluation.colours import ColourEncoder
update.COMMIT = 5
class Slow(ColourEncoder):
    def encode_images(self, images):
        time.sleep(0.05)
        return super().encode_images(images)
print("ready", flush=True)
Index.make(sys.argv[1], Slow()).update([sys.argv[2]])
"""


def test_a_killed_update_goes_on_where_it_was(tmp_path):
    folder = write_photos(
        tmp_path / "many", {f"{i}.jpg": c for i, c in enumerate(["red", "blue", "green"] * 20)}
    )
    address = tmp_path / "k.lance"
    for wait in (0.4, 0.7):
        run = subprocess.Popen([sys.executable, "-c", SLOW, address, folder], stdout=subprocess.PIPE)
        assert run.stdout is not None
        run.stdout.readline()
        time.sleep(wait)
        run.send_signal(signal.SIGKILL)
        run.wait()
        run.stdout.close()
    index = Index.make(address, ColourEncoder())
    before = len(index)
    done = index.update([folder])
    assert (done.added, done.unchanged) == (60 - before, before)
    assert len(index) == len(index.store.rows()) == 60
    assert not list(address.glob("**/.tmp*"))


def test_above_the_bound_the_search_is_approximate_and_says_how_good(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "many"
    folder.mkdir()
    from PIL import Image

    for i in range(300):
        Image.new("RGB", (8, 8), tuple(int(v) for v in rng.integers(0, 256, 3))).save(folder / f"{i}.png")
    index = Index.make(tmp_path / "a.lance", ColourEncoder(), ann_above=200)
    index.update([folder])
    assert index.store.has_ann()
    assert index.recall(10, 50) > 0.8
    exact = Index.open(tmp_path / "a.lance", ColourEncoder())
    a, b = index.search("red", top=5), exact.search("red", top=5)
    assert [h.path for h in a] == [h.path for h in b]
    assert [h.score for h in a] == pytest.approx([h.score for h in b], abs=1e-5)


# ---------------------------------------------------------------- the commands
@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_tiny_model(tmp_path_factory.mktemp("model"))


def run(*arguments):
    return CliRunner().invoke(cli, list(map(str, arguments)), terminal_width=80)


def test_index_and_search(model, photos, tmp_path):
    (photos / "bad.jpg").write_bytes(b"no photo")
    done = run("index", photos, "--out", tmp_path / "p.lance", "--model", model)
    assert done.exit_code == 0, done.output
    assert "4 added" in done.output
    assert "bad.jpg" in done.output
    assert run("index", photos, "--out", tmp_path / "p.lance", "--model", model, "--strict").exit_code == 1
    found = run("search", tmp_path / "p.lance", "a red car", "--model", model, "--top", "3", "--out",
                tmp_path / "sheet.html")  # fmt: skip
    assert found.exit_code == 0, found.output
    assert max(map(len, found.output.splitlines()[:3])) <= 80
    page = (tmp_path / "sheet.html").read_text()
    assert page.count("data:image/jpeg") == 3
    assert "it&#x27;s yellow.jpg" in page or "it's yellow.jpg" not in page
    rows = [json.loads(line) for line in run(
        "search", tmp_path / "p.lance", "a red car", "--model", model, "--json").stdout.splitlines()]  # fmt: skip
    assert len(rows) == 4
    assert set(rows[0]) == {"path", "score", "also"}
    out = run("index", "--out", tmp_path / "p.lance", "--model", model, "--remove", photos / "red.jpg")
    assert "taken out: 1 photos" in out.output
    assert "3 photos" in out.output


def test_a_wrong_place_makes_no_index(model, photos, tmp_path):
    done = run("index", photos, tmp_path / "none", "--out", tmp_path / "p.lance", "--model", model)
    assert "none: there is no such photo, folder or tar" in str(done.exception)
    assert not (tmp_path / "p.lance").exists()


def test_usage_errors(model, photos, tmp_path):
    assert "give photos" in run("index", "--out", tmp_path / "p.lance").output
    assert run("search", tmp_path / "p.lance").exit_code == 2
    run("index", photos, "--out", tmp_path / "p.lance", "--model", model)
    refused = run("index", "--out", tmp_path / "p.lance", "--model", model, "--rebuild", "--remove", photos)
    assert "--rebuild is for photos alone" in refused.output
    assert "4 photos" in run("index", photos, "--out", tmp_path / "p.lance", "--model", model).output
    assert run("index", "--out", tmp_path / "typo.lance", "--model", model, "--remove", photos).exit_code
    assert not (tmp_path / "typo.lance").exists()
    assert "--top" in run("search", tmp_path / "p.lance", "a", "--top", "0").output
    assert "NAME=VALUE" in run("index", photos, "--out", tmp_path / "p.lance", "--storage", "x").output


@pytest.mark.parametrize(
    ("arguments", "status"), [(["--version"], 0), (["--none"], 2), (["search", "none.lance", "a"], 2)]
)
def test_a_command_that_used_lancedb_ends_at_once(arguments, status):
    """Its threads may keep the interpreter from ending: nothing is waited for once all is written."""
    code = (
        "import atexit, sys, time, types; sys.modules['lancedb'] = types.ModuleType('lancedb'); "
        f"atexit.register(time.sleep, 60); sys.argv = ['cliplet', *{arguments!r}]; "
        "from cliplet.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=40)
    assert done.returncode == status
    assert ("version" in done.stdout and not done.stderr) if status == 0 else "rror" in done.stderr
