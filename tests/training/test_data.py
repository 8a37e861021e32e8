"""Training data from every source, and an order that depends on seeds alone."""

import dataclasses
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from cliplet.errors import InputError
from cliplet.training.config import DataConfig
from cliplet.training.pairs import PairSet, epoch_batches, expand_paths, fingerprint, read_pairs
from tests.shared_data import shared_data
from tests.training import make


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make.dataset(tmp_path_factory.mktemp("data") / "d", count=8)


def pairs_of(config: DataConfig) -> dict[str, list[str]]:
    pairs = read_pairs(config)
    return {
        n: [pairs.captions[c] for c in own] for n, own in zip(pairs.names, pairs.captions_of(), strict=True)
    }


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def expected(data) -> dict[str, list[str]]:
    lines = [json.loads(line) for line in (data / "captions.jsonl").read_text().splitlines()]
    found: dict[str, list[str]] = {}
    for line in lines:
        found.setdefault(line["image"], []).append(line["caption"])
    return found


def test_folder_and_jsonl(data, expected):
    config = DataConfig(captions=(f"{data}/captions.jsonl",), photos=(f"{data}/photos",))
    assert pairs_of(config) == expected


def test_tar_and_csv(data, expected, tmp_path):
    rows = ["image,caption", *(f'{n},"{c}"' for n, own in expected.items() for c in own)]
    (tmp_path / "captions.csv").write_text("\n".join(rows))
    tar = write_tar(
        tmp_path / "photos.tar", {f"x/{p.name}": p.read_bytes() for p in (data / "photos").iterdir()}
    )
    found = pairs_of(DataConfig(captions=(f"{tmp_path}/captions.csv",), photos=(str(tar),)))
    assert {n.removeprefix("x/"): c for n, c in found.items()} == expected


def test_webdataset_shards(data, expected, tmp_path):
    for shard in range(2):
        members = {}
        for i, (name, captions) in enumerate(expected.items()):
            if i % 2 == shard:  # both shards use the same names inside
                members[f"{i // 2:04}.png"] = (data / "photos" / name).read_bytes()
                members[f"{i // 2:04}.txt"] = captions[0].encode()
        write_tar(tmp_path / f"shard-{shard:02}.tar", members)
    for pattern in ("shard-{00..01}.tar", "shard-*.tar"):
        pairs = read_pairs(DataConfig(captions=(f"{tmp_path}/{pattern}",)))
        assert len(pairs.photos) == len(pairs.captions) == 8
        for caption, photo in zip(pairs.captions, pairs.photo_of, strict=True):
            name = next(n for n, own in expected.items() if own[0] == caption)
            own = [(data / "photos" / n).read_bytes() for n, c in expected.items() if c[0] == caption]
            assert pairs.photos[photo].read_bytes() in own, name


def test_several_folders_and_a_split(data, tmp_path):
    other = make.dataset(tmp_path / "other", count=2, seed=5)
    for photo in (other / "photos").iterdir():
        photo.rename(photo.with_name("other" + photo.name))
    (tmp_path / "names.txt").write_text("other001.png\n003.png\n")
    config = DataConfig(photos=(f"{data}/photos", f"{other}/photos"), names=f"{tmp_path}/names.txt")
    assert sorted(read_pairs(config).names) == ["003.png", "other001.png"]


def test_captions_without_photos(tmp_path):
    (tmp_path / "texts.txt").write_text("a red bar\n\nthe blue square\n")
    pairs = read_pairs(DataConfig(captions=(f"{tmp_path}/texts.txt",)))
    assert pairs.captions == ["a red bar", "the blue square"]
    assert pairs.photo_of.tolist() == [-1, -1]


def test_rows_that_cannot_be_used_are_listed_and_names_meet_in_any_spelling(data, tmp_path):
    (tmp_path / "c.csv").write_bytes(
        b"image,caption\nphotos/000.PNG,a red bar\n001.png,caf\xe9\n002.png\n003,the square\n003.png,new\n9.png,x\n"
    )
    (tmp_path / "names.txt").write_text("000.png\n001.png\n003.jpg\n9.png\n")
    config = DataConfig(captions=(f"{tmp_path}/c.csv",), photos=(f"{data}/photos",))
    pairs = read_pairs(config)
    assert (pairs.names, pairs.captions) == (["000.png", "003.png"], ["a red bar", "the square", "new"])
    assert [line.partition("c.csv ")[2][:20] for line in pairs.skipped] == [
        "line 3: the caption ",
        "line 4: 1 cell under",
        "line 7: there is no ",
    ]
    some = read_pairs(dataclasses.replace(config, names=f"{tmp_path}/names.txt"))
    assert some.names == ["000.png", "003.png"]


def test_flickr8k():
    config = DataConfig(
        captions=(str(shared_data("flickr8k/Flickr8k.token.txt")),),
        photos=(str(shared_data("flickr8k/images_dev.tar")),),
        names=str(shared_data("flickr8k/split_dev.txt")),
    )
    pairs = read_pairs(config)
    assert (len(pairs.photos), len(pairs.captions), len(pairs.skipped)) == (1000, 5000, 0)
    assert {len(own) for own in pairs.captions_of()} == {5}


def test_what_is_missing_is_named(data, tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        read_pairs(DataConfig(photos=(f"{tmp_path}/nowhere",)))
    with pytest.raises(InputError, match="no file matches"):
        expand_paths([f"{tmp_path}/shard-*.tar"])
    (tmp_path / "one.jsonl").write_text('{"image": "absent.png", "caption": "x"}\n')
    with pytest.raises(InputError, match=r"nothing|no photo and no caption.*absent\.png"):
        read_pairs(DataConfig(captions=(f"{tmp_path}/one.jsonl",), photos=(f"{data}/photos",)))


def test_some_photos_stay_with_their_captions():
    pairs = PairSet(
        list("abc"), [1, 2, 3], ["of c", "of a", "of none", "of b"], np.array([2, 0, -1, 1]), ["x"]
    )
    kept = pairs.keep(np.array([True, False, True]), ["b: broken"])
    assert (kept.names, kept.photos, kept.captions) == (["a", "c"], [1, 3], ["of c", "of a", "of none"])
    assert kept.photo_of.tolist() == [1, 0, -1]
    assert kept.skipped == ["x", "b: broken"]
    assert PairSet(["a"], [1]).keep(np.array([False])).photos == []
    texts = PairSet(captions=["a", "b"], photo_of=np.array([-1, -1]))
    assert texts.keep(np.zeros(0, bool)).captions == ["a", "b"]


def test_processes_share_an_epoch():
    whole = epoch_batches(50, 12, seed=0, epoch=3)
    parts = [epoch_batches(50, 4, 0, 3, rank, 3) for rank in range(3)]
    for i, batch in enumerate(whole):
        np.testing.assert_array_equal(batch, np.concatenate([p[i] for p in parts]))
    assert len(whole) == 4
    assert sorted(np.concatenate(whole)) != sorted(np.concatenate(epoch_batches(50, 12, 0, 4)))
    with pytest.raises(InputError, match="lower batch_size"):
        epoch_batches(5, 4, 0, 0, 0, 2)


def test_fingerprints_of_photos_in_a_file_follow_their_content(tmp_path):
    """The same names at the same places, with other photos: teachers' embeddings must not be taken from before."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    found = []
    for colour in ("red", "blue"):
        stream = io.BytesIO()
        make.drawing(colour, "bar", 0).save(stream, "bmp")  # of one size
        table = {"image": [{"bytes": stream.getvalue(), "path": "a.bmp"}], "caption": ["a bar"]}
        parquet.write_table(pyarrow.table(table), tmp_path / "t.parquet")
        write_tar(tmp_path / "t.tar", {"a.bmp": stream.getvalue(), "a.txt": b"a bar"})
        os.utime(tmp_path / "t.tar", ns=(len(found), len(found)))
        pairs = [read_pairs(DataConfig(captions=(f"{tmp_path}/t.{kind}",))) for kind in ("parquet", "tar")]
        found.append([fingerprint(p.photos) for p in pairs])
    assert found[0][0] != found[1][0]
    assert found[0][1] != found[1][1]


def test_fingerprint_follows_content(tmp_path):
    (tmp_path / "a").write_text("x")
    before = fingerprint([tmp_path / "a"])
    (tmp_path / "a").write_text("xy")
    assert fingerprint([tmp_path / "a"]) != before
    assert fingerprint(["a", "b"]) != fingerprint(["b", "a"])
