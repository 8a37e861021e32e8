"""Finding photos by the names that captions files use."""

import gc
import io
import pickle
import tarfile

import pytest
from PIL import Image

from cliplet.data.images import open_image
from cliplet.data.photos import PhotoStore, open_photos
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


def test_linked_folders_are_searched_once_and_circles_end(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for name in ("root/a/1.jpg", "elsewhere/deep/2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(encoded())
    (root / "linked").symlink_to(elsewhere)
    (root / "again").symlink_to(elsewhere / "deep")
    (elsewhere / "back").symlink_to(root)
    photos = open_photos(root)
    assert [name.rpartition("/")[2] for name in photos.names()] == ["1.jpg", "2.jpg"]
    assert photos.find("2.jpg")[1].read_bytes() == encoded()
    assert photos.find("linked/deep/2.jpg")[1].is_file(), "the whole path still leads there"


def test_a_name_is_the_one_in_the_folder_however_it_is_spelled(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "1.jpg").write_bytes(encoded())
    photos = open_photos(tmp_path)
    for key in ("s/1.jpg", "./s/1.jpg", "s//1.jpg", str(tmp_path / "s/1.jpg"), "1"):
        assert photos.find(key)[0] == "s/1.jpg"


def test_web_addresses_are_not_fetched(tmp_path):
    with pytest.raises(InputError, match="web addresses are not fetched: download the photos"):
        open_photos(tmp_path).find("https://example.org/1.jpg")


def test_a_store_searches_all_its_sources_as_one(tmp_path):
    for name in ("a/1.jpg", "a/x/2.jpg", "b/2.jpg", "b/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded())
    store = PhotoStore([tmp_path / "a", tmp_path / "b"], {"mine.jpg": b"at hand"})
    found, missing = store.photos(["1.jpg", "2.jpg", "MINE", "3.jpg"])
    assert found == [tmp_path / "a/1.jpg", tmp_path / "b/2.jpg", b"at hand", None]
    assert missing == {"3.jpg": f"there is no photo '3.jpg' in {tmp_path / 'a'} and {tmp_path / 'b'}"}
    assert PhotoStore(beside=tmp_path / "a").photo("1.jpg") == tmp_path / "a/1.jpg", (
        "without sources names are paths"
    )


def test_photos_of_one_name_in_a_tar_are_never_guessed(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name in ("1.jpg", "2.jpg", "1.jpg"):
            info = tarfile.TarInfo(name)
            tar.addfile(info, io.BytesIO())
    photos = open_photos(tmp_path / "t.tar")
    assert photos.find("2.jpg")[0] == "2.jpg"
    with pytest.raises(InputError, match=r"holds two files 1\.jpg"):
        photos.find("1.jpg")


def test_a_tar_goes_to_another_process_by_its_path(tmp_path):
    """An open file's number means another file there: the tar is opened again, and must be the same."""
    paths = []
    for name, content in (("a", b"first"), ("b", b"other")):
        paths.append(tmp_path / f"{name}.tar")
        with tarfile.open(paths[-1], "w") as tar:
            info = tarfile.TarInfo("dog.jpg")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    first = open_photos(paths[0])
    packed = pickle.dumps(first.get("dog.jpg"))
    assert "descriptor" not in first.__getstate__()
    del first
    gc.collect()
    others = [
        open_photos(paths[1]) for _ in range(4)
    ]  # one of them most likely takes the number that the first had
    assert all(other.get("dog.jpg").read_bytes() == b"other" for other in others)
    assert pickle.loads(packed).read_bytes() == b"first"
    paths[0].write_bytes(paths[0].read_bytes() + bytes(10_240))
    with pytest.raises(InputError, match=r"a.tar has changed since it was listed"):
        pickle.loads(packed)
    paths[0].unlink()
    with pytest.raises(InputError, match=r"a.tar cannot be read: No such file"):
        pickle.loads(packed)
