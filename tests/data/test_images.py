"""The decode policy: what every kind of photo becomes, and what a bad one is told."""

import io
import os
import socket
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliplet.data.images import load_rgb, noted, open_image, read_file, resize_rgb, to_rgb
from cliplet.errors import InputError
from tests.photos import KINDS, as_a_viewer_shows_it, photo, shipped, twelve_megapixels


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGBA"))


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_decodes_as_a_viewer_shows_it(photos: dict[str, Path], name: str) -> None:
    expected = as_a_viewer_shows_it(photos[name])
    image = open_image(photos[name])
    assert image.mode == expected.mode
    assert np.array_equal(pixels(image), pixels(expected))
    rgb = load_rgb(photos[name])
    assert rgb.mode == "RGB"
    assert rgb.size == expected.size


@pytest.mark.parametrize("name", [f"exif{n}.png" for n in range(1, 9)])
def test_every_orientation_ends_upright(photos: dict[str, Path], name: str) -> None:
    assert np.array_equal(pixels(open_image(photos[name])), pixels(open_image(photos["exif1.png"])))


def test_the_orientation_is_not_applied_twice(photos: dict[str, Path]) -> None:
    once = open_image(photos["exif6.png"])
    assert np.array_equal(pixels(open_image(once)), pixels(once))


def test_sixteen_bit_greys_keep_their_shades(photos: dict[str, Path]) -> None:
    with Image.open(photos["grey16.png"]) as stored:
        values = np.asarray(stored)
    assert values.max() > 50_000
    assert np.array_equal(np.asarray(open_image(photos["grey16.png"])), values // 256)
    assert np.asarray(load_rgb(photos["grey16.png"])).std() > 20, "a photo clipped to white has no shades"


@pytest.mark.parametrize("name", ["animated.gif", "animated.webp"])
def test_the_first_frame_of_an_animation(photos: dict[str, Path], name: str) -> None:
    first = np.asarray(photo("flower.jpg").convert("RGB").resize((300, 200)), dtype=float)
    assert (
        np.abs(np.asarray(load_rgb(photos[name]), dtype=float) - first).mean() < 12
    )  # a GIF has 256 colours


def test_transparency_is_dropped_not_painted(photos: dict[str, Path]) -> None:
    cat = np.asarray(photo("chelsea.png"))
    assert np.array_equal(np.asarray(load_rgb(photos["alpha.png"])), cat)
    with Image.open(photos["palette_alpha.png"]) as stored:
        assert np.array_equal(np.asarray(load_rgb(photos["palette_alpha.png"])), pixels(stored)[..., :3])


@pytest.mark.parametrize("name", ["plain.jpg", "exif6.jpg", "grey16.png", "palette.png", "cmyk.jpg"])
def test_all_ways_of_handing_over_a_photo_agree(photos: dict[str, Path], name: str) -> None:
    path = photos[name]
    encoded = path.read_bytes()
    expected = pixels(load_rgb(path))
    for source in (str(path), encoded, bytearray(encoded), memoryview(encoded)):
        assert np.array_equal(pixels(load_rgb(source)), expected)
    with Image.open(path) as image:
        assert np.array_equal(pixels(load_rgb(image)), expected)
    assert np.array_equal(pixels(load_rgb(np.asarray(load_rgb(path)))), expected)


def test_arrays_of_every_dtype_agree() -> None:
    grey = np.asarray(photo("camera.png"))
    colour = np.asarray(photo("astronaut.png"))
    alpha = np.dstack([colour, np.full(colour.shape[:2], 99, np.uint8)])
    expected = pixels(Image.fromarray(colour))
    for array in (
        colour,
        colour[::-1][::-1],
        np.asfortranarray(colour),
        colour / 255,
        colour.transpose(2, 0, 1),
        colour.astype(np.int32),
        colour.astype(np.int64),
        colour.astype(np.uint16),
    ):
        assert np.array_equal(pixels(load_rgb(array)), expected)
    assert np.array_equal(pixels(load_rgb(alpha.transpose(2, 0, 1))), expected)
    assert np.array_equal(pixels(load_rgb(alpha)), expected)
    assert np.array_equal(pixels(load_rgb((colour / 255).astype(np.float16))), expected)
    assert np.array_equal(pixels(load_rgb(colour.astype(np.uint16) * 257)), expected)
    for array in (grey, grey[:, :, None], grey.astype(np.uint16) * 257, grey / 255):
        assert np.array_equal(np.asarray(load_rgb(array))[..., 0], grey)
    assert np.array_equal(np.asarray(load_rgb(grey > 128))[..., 0], np.where(grey > 128, 255, 0))


def test_an_overshoot_is_clipped_and_changes_nothing_else() -> None:
    colour = np.asarray(photo("astronaut.png")) / 255
    shot = colour.copy()
    shot[0, 0], shot[1, 1] = 1.1, -0.1
    clipped = colour.copy()
    clipped[0, 0], clipped[1, 1] = 1, 0
    assert np.array_equal(pixels(load_rgb(shot)), pixels(load_rgb(clipped)))
    grey = Image.fromarray(shot[..., 0].astype(np.float32))
    assert np.array_equal(np.asarray(load_rgb(grey))[..., 0], np.asarray(load_rgb(clipped))[..., 0])


def clip_normalised(array: np.ndarray) -> np.ndarray:
    return (array / 255 - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a.astype(np.float32),
            r"from 0 to 255, outside 0\.\.1.*array / 255, or array.astype\(np.uint8\)",
        ),
        (lambda a: a / 255 * 1.2, "outside 0..1"),
        (clip_normalised, "normalised as CLIP's preprocessing.*give the photo itself"),
        (lambda a: clip_normalised(a).transpose(2, 0, 1).astype(np.float16), "normalised as CLIP's"),
        (lambda a: (a / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], "normalised as ImageNet's"),
        (lambda a: a / 127.5 - 1, r"normalised to -1\.\.1.*\(array \+ 1\) / 2"),
        (lambda a: a.astype(np.int32) * 65535, "outside 0..255 .8 bits. and 0..65535"),
        (lambda a: a.astype(np.int16) - 128, "from -128 to 127"),
    ],
)
def test_values_of_another_range_are_refused_with_the_conversion(change, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_image(change(np.asarray(photo("astronaut.png"))))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, 4, 3), np.uint8), r"several images.*\[h, w, 3\]"),
        (np.zeros((3, 224, 3), np.uint8), r"as \[h, w, 3\] and as \[3, h, w\]: give a PIL image"),
        (np.zeros((1, 224, 4), np.uint8), r"as \[h, w, 4\] and as \[1, h, w\]"),
        (np.zeros((2, 224, 224), np.uint8), r"\[h, w\], \[h, w, 3\]"),
        (np.zeros((224, 224, 2), np.uint8), r"\[h, w\], \[h, w, 3\]"),
        (np.zeros(5, np.uint8), "not an image of a known format"),  # taken for an encoded file
        (np.zeros(5, np.float32), r"\[h, w\]"),
        (np.zeros((0, 4, 3), np.uint8), r"\[h, w\]"),
        (np.zeros((4, 4), np.complex64), "dtype complex64"),
        (np.array([["a"]]), "dtype"),
        (np.array([["2020-01-01"]], dtype="datetime64[D]"), "dtype datetime64"),
        (np.array([[None]]), "dtype object"),
        (np.full((4, 4, 3), np.nan), "NaN"),
        (np.full((4, 4, 3), -0.5), "outside 0..1"),
        (np.full((4, 4, 3), 700.0), "outside 0..1"),
    ],
)
def test_unusable_arrays_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_image(array)


MODES = [
    "1",
    "L",
    "P",
    "RGB",
    "RGBA",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "LA",
    "PA",
    "RGBX",
    "RGBa",
    "La",
]


@pytest.mark.parametrize("mode", [*MODES, "I;16", "I;16B", "I;16L", "I;16N"])
def test_every_mode_of_pillow_shows_the_photo_or_says_why_not(mode: str) -> None:
    colour = photo("astronaut.png").convert("RGB").resize((64, 64))
    if mode == "La":
        image = colour.convert("LA").convert("La")
    elif mode.startswith("I;16"):
        values = (np.asarray(colour.convert("L")).astype(np.uint16) * 257).astype(
            ">u2" if mode[-1] == "B" else "<u2"
        )
        image = Image.frombytes(mode, colour.size, values.tobytes())
    else:
        image = colour.convert(mode)
    grey = np.asarray(colour.convert("L"), dtype=float)
    if mode == "F":  # Pillow's F holds 0..255 here
        with pytest.raises(InputError, match="outside 0..1"):
            load_rgb(image)
        return
    seen = np.asarray(load_rgb(image).convert("L"), dtype=float)
    assert np.abs(seen - grey).mean() < (130 if mode == "1" else 12)
    assert seen.std() > 30


def test_a_mode_that_pillow_cannot_convert_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    image = photo("astronaut.png").convert("HSV")

    def convert(self: Image.Image, mode: str) -> Image.Image:
        raise ValueError("conversion from HSV not supported")

    monkeypatch.setattr(Image.Image, "convert", convert)
    with pytest.raises(InputError, match="mode HSV, which Pillow does not convert"):
        open_image(image)


def test_integers_of_32_bits_that_hold_0_to_255_are_8_bit_values() -> None:
    grey = np.asarray(photo("camera.png"))
    for image in (Image.fromarray(grey.astype(np.int32)), grey.astype(np.uint32), grey.astype(np.int64)):
        assert np.array_equal(np.asarray(load_rgb(image))[..., 0], grey)


def heard_of(source: object) -> str:
    with noted([source]) as notes:
        open_image(source)
    return notes[id(source)]


def test_dark_16_bit_photos_get_a_note(tmp_path: Path) -> None:
    grey = np.asarray(photo("camera.png")).astype(np.uint16)
    for values, said in ((grey * 257, ""), (grey * 16, "below 4,096"), (grey, "taken for 8-bit values")):
        path = tmp_path / "dark.png"
        Image.fromarray(values).save(path)
        for source in (path, path.read_bytes(), values, Image.fromarray(values)):
            assert (said in heard_of(source)) if said else not heard_of(source)
    assert np.array_equal(np.asarray(load_rgb(grey))[..., 0], grey)
    assert np.asarray(load_rgb(grey * 16)).max() < 16


def png16(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, which Pillow reads but does not write: uint16 ``[h, w, 3]``."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_12_bit_colours_get_a_note_too() -> None:
    colour = np.asarray(photo("astronaut.png")).astype(np.uint16)
    assert "below 4,096" in heard_of(png16(colour * 16))
    assert heard_of(png16(colour * 257)) == ""
    assert heard_of(shipped("astronaut.png")) == ""


def test_notes_are_heard_only_by_who_asked_for_that_object() -> None:
    dark = np.full((20, 20), 900, np.uint16)
    with noted([dark, b"other"]) as mine, noted([dark.copy()]) as others:
        open_image(dark)
    assert sum(map(bool, mine.values())) == 1
    assert not any(others.values())
    open_image(dark)  # nobody listens


def test_tensors_files_mappings_and_encoded_arrays_agree_with_the_path(photos: dict[str, Path]) -> None:
    torch = pytest.importorskip("torch")
    path = photos["square.png"]
    expected = load_rgb(path)
    shown = torch.from_numpy(np.array(expected))
    first = shown.permute(2, 0, 1)
    moved = io.BytesIO(path.read_bytes())
    moved.seek(100)
    with path.open("rb") as stream:
        sources = [shown, first, first / 255, (first / 255).double().requires_grad_(), first.int(), stream]
        sources += [moved, torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)]
        sources += [
            {"bytes": path.read_bytes(), "path": None},
            {"bytes": None, "path": str(path)},
            {"path": path},
        ]
        sources += [np.frombuffer(path.read_bytes(), np.uint8), np.array(str(path))]
        for source in sources:
            assert np.array_equal(pixels(load_rgb(source)), pixels(expected)), type(source)
    assert moved.tell() == 100, "an open file stays where it was"
    for dtype in (torch.half, torch.bfloat16):
        near = np.asarray(load_rgb((first / 255).to(dtype)), dtype=float)
        assert np.abs(near - np.asarray(expected, dtype=float)).max() <= 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"image": 1, "caption": "a dog"}, "the fields image, caption: give the photo itself"),
        ({"bytes": None, "path": None}, "the fields bytes, path"),
        ({}, "the fields none"),
        (io.StringIO("a"), "not bytes: open it with mode 'rb'"),
        (io.BytesIO(), "is empty"),
        ("https://example.org/dog.jpg", "is an address, which is not fetched"),
        ("data:image/png;base64,iVBORw0KGgo=", "is an address"),
        ("/9j/4AAQ" * 1000, "base64.b64decode"),
        (np.float64("nan"), "must be a path.* not float64"),
        (np.zeros((2, 2), np.float32)[0, 0], "must be a path"),
    ],
)
def test_other_things_are_refused_with_the_way_out(source: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_image(source)


def test_a_closed_file_and_a_stored_photo_that_is_gone_are_refused(tmp_path: Path) -> None:
    closed = io.BytesIO(b"1")
    closed.close()

    class Stored:
        def read_bytes(self) -> bytes:
            raise KeyError("no such member")

    for source in (closed, Stored()):
        with pytest.raises(InputError, match="cannot be read"):
            open_image(source)


@pytest.mark.timeout(20)
def test_fifos_sockets_devices_and_folders_are_refused_and_never_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "fifo.jpg")
    with socket.socket(socket.AF_UNIX) as bound:
        monkeypatch.chdir(tmp_path)  # the path of a socket must be short
        bound.bind("socket.jpg")
        for source in ("fifo.jpg", "link.jpg", "socket.jpg", "/dev/zero"):
            for read in (open_image, read_file):
                with pytest.raises(InputError, match="fifo, a socket or a device"):
                    read(tmp_path / source)
    with pytest.raises(InputError, match="is a folder"):
        read_file(tmp_path)


def test_threads_may_decode_one_lazily_opened_photo(photos: dict[str, Path]) -> None:
    expected = pixels(load_rgb(photos["plain.jpg"]))
    for _ in range(5):
        with Image.open(photos["plain.jpg"]) as image, ThreadPoolExecutor(8) as pool:
            for seen in pool.map(load_rgb, [image] * 8):
                assert np.array_equal(pixels(seen), expected)


@pytest.mark.parametrize("source", [None, 3, ["a.jpg"], object()])
def test_other_objects_are_refused(source: object) -> None:
    with pytest.raises(InputError, match="must be a path, encoded bytes, a PIL image or an array"):
        open_image(source)


def test_missing_empty_folder_and_nul(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    for source, message in [
        (tmp_path / "gone.jpg", r"gone\.jpg: there is no such file"),
        (tmp_path / "empty.jpg", r"empty\.jpg is empty"),
        (b"", "is empty"),
        (tmp_path, "is a folder"),
        ("nul\0.jpg", "cannot be opened"),
        ("x" * 5000, "cannot be opened"),
    ]:
        with pytest.raises(InputError, match=message):
            open_image(source)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.touch(0o000)
    with pytest.raises(InputError, match="Permission denied"):
        open_image(path)


@pytest.mark.parametrize(
    "name", ["plain.jpg", "square.png", "animated.gif", "alpha.webp", "progressive.jpg", "big.bmp"]
)
def test_truncated_files_are_refused(photos: dict[str, Path], tmp_path: Path, name: str) -> None:
    encoded = photos[name].read_bytes()
    for kept in (3, len(encoded) // 20, len(encoded) // 4):
        path = tmp_path / f"{kept}{name}"
        path.write_bytes(encoded[:kept])
        with pytest.raises(InputError, match=name):
            open_image(path)


@pytest.mark.parametrize("name", ["square.png", "alpha.webp"])
def test_corrupt_files_are_refused(photos: dict[str, Path], name: str) -> None:
    encoded = bytearray(photos[name].read_bytes())
    middle = len(encoded) // 2
    encoded[200 : middle + 500] = bytes(len(encoded[200 : middle + 500]))
    with pytest.raises(InputError, match="corrupt|not an image"):
        open_image(bytes(encoded))


@pytest.mark.parametrize(
    "content", [b"a photo, or so they say\n" * 50, b"\x00" * 1000, b"%PDF-1.7\n", b"<svg></svg>"]
)
def test_files_that_are_no_images_are_refused(content: bytes) -> None:
    with pytest.raises(InputError, match="not an image of a known format"):
        open_image(content)


def test_a_lazily_opened_truncated_image_is_refused(photos: dict[str, Path]) -> None:
    encoded = photos["plain.jpg"].read_bytes()
    truncated = io.BytesIO(encoded[: len(encoded) // 2])
    with Image.open(truncated) as image, pytest.raises(InputError, match="the image is truncated"):
        open_image(image)
    with Image.open(io.BytesIO(encoded)) as image:
        pass
    with pytest.raises(InputError, match="closed"):
        open_image(image)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_cost_the_photo() -> None:
    stream = io.BytesIO()
    photo("china.jpg").save(stream, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(range(40)))
    assert open_image(stream.getvalue()).size == (640, 427)


def declared_png(width: int, height: int) -> bytes:
    """A few bytes that claim to be a huge picture."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(50_000, 50_000), (14_000, 14_500), (2_000_000_000, 1), (1, 300_000_000)])
def test_decompression_bombs_are_refused_without_their_memory(size: tuple[int, int]) -> None:
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(InputError, match="bomb|corrupt"):
        open_image(declared_png(*size))
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_a_large_photo_below_the_limit_is_not_taken_for_a_bomb() -> None:
    stream = io.BytesIO()
    Image.new("1", (12_000, 8_000)).save(stream, "PNG")  # 96 megapixels: Pillow alone would warn
    assert open_image(stream.getvalue()).size == (12_000, 8_000)


def test_scaled_decoding_hardly_changes_what_a_tower_sees() -> None:
    stream = io.BytesIO()
    twelve_megapixels().save(stream, "JPEG", quality=90)
    fast = open_image(stream.getvalue(), at_least=448)
    assert 448 <= min(fast.size) < 1000, "the JPEG was not decoded at a fraction of its size"
    whole = load_rgb(stream.getvalue())
    assert whole.size == (4000, 3000)
    seen = resize_rgb(to_rgb(fast), 224, "squash", "bicubic").astype(float)
    exact = resize_rgb(whole, 224, "squash", "bicubic").astype(float)
    assert np.abs(seen - exact).mean() < 1.0  # of 255
    assert np.abs(seen - exact).max() < 24


def test_small_jpegs_and_other_formats_are_never_scaled(photos: dict[str, Path]) -> None:
    for name in ("plain.jpg", "big.bmp"):
        assert open_image(photos[name], at_least=448).size == open_image(photos[name]).size


@pytest.mark.parametrize(
    "size", [(640, 427), (427, 640), (225, 224), (224, 224), (1, 1), (500, 3), (301, 300)]
)
def test_resizing_gives_a_square_of_the_photo_s_middle(size: tuple[int, int]) -> None:
    image = photo("astronaut.png").resize(size)
    for resize in ("squash", "shortest"):
        assert resize_rgb(image, 224, resize, "bicubic").shape == (224, 224, 3)
    centre = resize_rgb(image, 224, "shortest", "bicubic")
    scale = 224 / min(size)
    whole = np.asarray(image.resize([max(224, int(s * scale)) for s in size], Image.Resampling.BICUBIC))
    left, top = round((whole.shape[1] - 224) / 2), round((whole.shape[0] - 224) / 2)
    assert np.array_equal(centre, whole[top : top + 224, left : left + 224])


def test_a_needle_thin_image_does_not_eat_the_memory() -> None:
    needle = Image.new("RGB", (1, 100_000))
    with pytest.raises(InputError, match="too narrow"):
        resize_rgb(needle, 224, "shortest", "bicubic")
    assert resize_rgb(needle, 224, "squash", "bicubic").shape == (224, 224, 3)
