"""Finding photos by the names that captions files use."""

import io
import tarfile

import pytest
from PIL import Image

from cliplet.data.images import open_image
from cliplet.data.photos import open_photos
from cliplet.errors import InputError


def encoded() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "PNG")
    return stream.getvalue()


NAMES = ["dog.jpg", "sub/cat.PNG", "COCO_val2014_000000000042.jpg", "000000000139.jpg", "Upper.JPG", "7.jpg"]


@pytest.fixture(params=["folder", "tar"])
def photos(request, tmp_path):
    if request.param == "folder":
        for name in NAMES:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(encoded())
        return open_photos(tmp_path)
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for name in NAMES:
            info = tarfile.TarInfo(name)
            info.size = len(encoded())
            tar.addfile(info, io.BytesIO(encoded()))
    return open_photos(tmp_path / "photos.tar")


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("dog.jpg", "dog.jpg"),
        ("dog", "dog.jpg"),
        ("sub/cat.PNG", "sub/cat.PNG"),
        ("cat.PNG", "sub/cat.PNG"),
        ("cat", "sub/cat.PNG"),
        ("elsewhere/cat.PNG", "sub/cat.PNG"),
        (42, "COCO_val2014_000000000042.jpg"),
        ("139", "000000000139.jpg"),
        (139, "000000000139.jpg"),
        (7, "7.jpg"),
        ("upper.jpg", "Upper.JPG"),
        ("UPPER", "Upper.JPG"),
    ],
)
def test_names_numbers_stems_and_cases(photos, key, found):
    name, photo = photos.find(key)
    assert name == found
    assert open_image(photo).size == (8, 8)
    assert photos.names() == sorted(NAMES)


@pytest.mark.parametrize("key", ["none.jpg", 43, "", "a\0b", "x" * 5000])
def test_a_missing_photo_is_named(photos, key):
    with pytest.raises(InputError, match="there is no photo"):
        photos.find(key)


def test_names_that_differ_only_in_case_are_never_guessed(tmp_path):
    for name in ("Dog.jpg", "dog.jpg"):
        (tmp_path / name).write_bytes(encoded())
    photos = open_photos(tmp_path)
    assert photos.find("dog.jpg")[0] == "dog.jpg"
    assert photos.find("Dog.jpg")[0] == "Dog.jpg"
    with pytest.raises(InputError, match=r"several photos.*Dog\.jpg, dog\.jpg"):
        photos.find("DOG.jpg")


def test_what_is_neither_folder_nor_tar_is_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"x")
    with pytest.raises(InputError, match="neither a folder nor a .tar"):
        open_photos(tmp_path / "a.zip")
    with pytest.raises(InputError, match="does not exist"):
        open_photos(tmp_path / "none")
