"""Captions beside their photos: which belong together, and what is said where that is unclear."""

import io
import os
import tarfile

import pytest

from cliplet.data.captions import read_captions
from cliplet.errors import InputError

A, B = b"photo a", b"photo b"


def tar(path, members):
    with tarfile.open(path, "w") as out:
        for name, content in members if isinstance(members, list) else members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return path


def folder(path, members):
    for name, content in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def content(photo):
    return photo if photo is None else photo.read_bytes()


@pytest.fixture(params=["tar", "folder"])
def read(request, tmp_path):
    """Image, caption and photo of every usable entry, and the reasons of the others."""

    def reader(members):
        source = (
            tar(tmp_path / "s.tar", members) if request.param == "tar" else folder(tmp_path / "s", members)
        )
        entries = read_captions(source)
        good = {e.image: (e.caption, content(e.photo)) for e in entries if e.reason is None}
        return good, {e.where.split()[1]: e.reason for e in entries if e.reason is not None}

    return reader


def test_photos_and_captions_of_one_key(read):
    good, bad = read(
        {"0.jpg": A, "0.txt": b"a dog\n", "sub.v1/1.PNG": B, "sub.v1/1.json": b'{"caption": "a cat"}'}
    )
    assert good == {"0.jpg": ("a dog", A), "sub.v1/1.PNG": ("a cat", B)}
    assert bad == {}


def test_the_key_ends_at_the_first_dot(read):
    members = {"s0.input.jpg": A, "s0.output.txt": b"a dog", "s1.input.jpg": B, "s1.output.txt": b"a cat"}
    assert read(members)[0] == {"s0.input.jpg": ("a dog", A), "s1.input.jpg": ("a cat", B)}


def test_dotted_names_are_told_apart_by_the_last_dot(read):
    members = {
        "1.5.jpg": A,
        "1.5.txt": b"a dog",
        "1.6.jpg": B,
        "1.6.txt": b"a cat",
        "x.jpg": A,
        "x.txt": b"a man",
    }
    assert read(members)[0] == {"1.5.jpg": ("a dog", A), "1.6.jpg": ("a cat", B), "x.jpg": ("a man", A)}


def test_what_is_unclear_fails_and_names_its_files(read):
    good, bad = read(
        {"0.jpg": A, "0.png": B, "0.txt": b"which?", "1.a.jpg": A, "1.b.txt": b"fine", "2.jpg": B, "2.x.txt": b"x",
         "2.y.txt": b"y"}
    )  # fmt: skip
    assert good == {"1.a.jpg": ("fine", A)}
    assert set(bad) == {"0.txt", "2.x.txt", "2.y.txt"}
    assert "0.jpg, 0.png, 0.txt" in bad["0.txt"]


def test_texts_before_json_but_not_an_empty_one(read):
    good, bad = read(
        {"0.jpg": A, "0.txt": b" \n", "0.json": b'{"caption": "from json", "width": 3}', "1.jpg": B,
         "1.txt": b"from text", "1.json": b'{"caption": "no"}', "2.jpg": A, "2.txt": b"", "3.jpg": B, "3.json": b"{",
         "4.jpg": A, "4.json": b'{"url": "x"}', "5.jpg": A, "5.json": b'["one", "two"]'}
    )  # fmt: skip
    assert good == {
        "0.jpg": ("from json", A),
        "1.jpg": ("from text", B),
        "2.jpg": ("", A),
        "5.jpg": ("two", A),
    }
    assert "not valid JSON" in bad["3.json"]
    assert bad["4.json"] == "no caption: found the fields url"


def test_encodings_and_line_ends(read):
    good, bad = read(
        {"0.jpg": A, "0.txt": "\ufeffa dog\r\n".encode(), "1.jpg": B, "1.txt": "a cat".encode("utf-16"), "2.jpg": A,
         "2.txt": b"caf\xe9", "3.jpg": B, "3.txt": b"two\r\nlines\n"}
    )  # fmt: skip
    assert good == {"0.jpg": ("a dog", A), "1.jpg": ("a cat", B), "3.jpg": ("two\nlines", B)}
    assert bad == {"2.txt": "the caption is not valid UTF-8"}


def test_captions_without_photos_are_listed(read):
    good, bad = read(
        {"0.jpg": A, "0.txt": b"a dog", "stats.json": b'{"count": 3}', "1.img": B, "1.cap": b"a cat"}
    )
    assert set(good) == {"0.jpg"}
    assert bad["stats.json"] == "no caption: found the fields count"
    assert "no photo goes with it: there is 1." in bad["1.cap"]
    assert "1.img" in bad["1.cap"]
    assert "photos have .jpg, " in bad["1.cap"]


def test_nothing_usable_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"member 1\.cap: no photo goes with it"):
        read_captions(tar(tmp_path / "s.tar", {"1.img": B, "1.cap": b"a cat"}))
    with pytest.raises(InputError, match="holds no captions"):
        read_captions(folder(tmp_path / "f", {"1.jpg": B}))


def test_members_of_one_name_are_never_guessed(tmp_path):
    members = [("0.jpg", A), ("0.txt", b"a dog"), ("0.jpg", B), ("1.jpg", B), ("1.txt", b"a cat")]
    entries = read_captions(tar(tmp_path / "s.tar", members))
    assert [(e.image, e.caption) for e in entries] == [("0.txt", None), ("1.jpg", "a cat")]
    assert "0.jpg, 0.txt, 0.jpg" in entries[0].reason


def test_members_that_lie_apart_are_noted(tmp_path):
    notes = []
    members = {"0.jpg": A, "1.jpg": B, "0.txt": b"a dog", "1.txt": b"a cat"}
    entries = read_captions(tar(tmp_path / "s.tar", members), notes=notes)
    assert [e.caption for e in entries] == ["a dog", "a cat"]
    assert "the files of 2 samples do not lie side by side" in notes[0]


def test_links_in_a_tar_are_followed(tmp_path):
    path = tar(tmp_path / "s.tar", {"0.jpg": A, "0.txt": b"a dog"})
    with tarfile.open(path, "a") as out:
        for name, kind, target in (
            ("d/1.jpg", tarfile.SYMTYPE, "../0.jpg"),
            ("d/1.txt", tarfile.LNKTYPE, "0.txt"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            out.addfile(info)
    assert [(e.image, e.caption, content(e.photo)) for e in read_captions(path)][1] == ("d/1.jpg", "a dog", A)


@pytest.mark.parametrize("cut", ["in a photo", "in a header", "in a text"])
def test_a_cut_shard_says_so_and_keeps_what_is_whole(tmp_path, cut):
    path = tar(tmp_path / "s.tar", {"0.jpg": A, "0.txt": b"a dog", "1.txt": b"a long caption", "1.jpg": B})
    with tarfile.open(path) as whole:
        member = whole.getmember("1.txt" if cut == "in a text" else "1.jpg")
        end = member.offset + 100 if cut == "in a header" else member.offset_data + 3
    os.truncate(path, end)
    entries = read_captions(path)
    assert (entries[0].caption, content(entries[0].photo)) == ("a dog", A)
    assert "the tar is" in entries[-1].reason
    assert entries[-1].where == f"byte {end}"
    assert all(entry.reason is not None for entry in entries[1:])
    assert len(entries) == 3, "the cut sample is a row of its own"
