"""Every container that people keep images, captions and references in: read by position, in order, once, by the row."""

import enum
import gc
import io
import itertools
import tracemalloc
from collections import UserList, deque

import numpy as np
import pytest
from PIL import Image, ImageSequence

import cliplet
from tests.tiny_model import build_tiny_model

CAPTIONS = ["a red dog runs", "two cat", "the man on the beach", "black and white car", "woman"]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    return cliplet.Scorer(build_tiny_model(tmp_path_factory.mktemp("model")), "cosine")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    rng = np.random.default_rng(3)
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{i}.png" for i in range(5)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture(scope="module")
def expected(scorer, photos):
    """Score of photo i with caption i; all differ."""
    scores = scorer.score(photos, CAPTIONS).score
    assert len(set(scores.round(4))) == 5
    return scores


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


class Lazy:
    """A column that decodes at each access, as Hugging Face's does."""

    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        if not isinstance(i, int):
            raise TypeError("positions only")
        return Image.open(io.BytesIO(self.paths[i].read_bytes()))


def many(photos, n=2600):
    """Rows in an order that memory addresses used again would betray."""
    rows = [(i // 7) % 5 for i in range(n)]
    rows = rows[:1024] + rows[1024:][::-1]
    return [photos[i] for i in rows], rows


@pytest.mark.parametrize(
    "make",
    [
        Lazy,
        lambda paths: (Image.open(p) for p in paths),
        lambda paths: map(pixels, paths),
        lambda paths: UserList(str(p) for p in paths),
        lambda paths: (bytearray(p.read_bytes()) for p in paths),
    ],
    ids=["column", "generator", "arrays", "strings", "bytearrays"],
)
def test_lazily_made_images_get_their_own_scores(scorer, photos, make):
    paths, _ = many(photos)
    captions = ["a dog"] * len(paths)
    np.testing.assert_array_equal(
        scorer.score(make(paths), captions).score, scorer.score(paths, captions).score
    )


def test_a_buffer_used_again_does_not_mix_rows(scorer, photos, expected):
    def one_array():
        buffer = np.empty((40, 60, 3), np.uint8)
        for path in photos:
            buffer[:] = pixels(path)
            yield buffer

    def one_image():
        canvas = Image.new("RGB", (60, 40))
        for path in photos:
            canvas.paste(Image.fromarray(pixels(path)))
            yield canvas

    def closed_behind():
        for path in photos:
            with Image.open(path) as image:
                yield image
            image.close()

    def one_mapping():
        row = {}
        for path in photos:
            row["bytes"] = path.read_bytes()
            yield row

    class Column(Lazy):
        buffer = np.empty((40, 60, 3), np.uint8)

        def __getitem__(self, i):
            self.buffer[:] = pixels(self.paths[i])
            return self.buffer

    for images in (one_array(), one_image(), closed_behind(), one_mapping(), Column(photos)):
        result = scorer.score(images, CAPTIONS)
        assert result.failures == [None] * 5
        np.testing.assert_array_equal(result.score, expected)


def test_frames_of_an_animation_are_read_one_by_one(scorer, photos, tmp_path):
    frames = [Image.fromarray(pixels(p)).quantize(256) for p in photos]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50)
    with Image.open(path) as animation:
        own = [frame.convert("RGB") for frame in ImageSequence.Iterator(animation)]
    with Image.open(path) as animation:
        result = scorer.score(ImageSequence.Iterator(animation), CAPTIONS)
    np.testing.assert_allclose(result.score, scorer.score(own, CAPTIONS).score, atol=1e-6)
    assert len(set(result.score.round(4))) == 5


def test_repeats_of_held_objects_paths_and_bytes_are_encoded_once(scorer, photos):
    class Counting:
        card, seen = scorer.encoder.card, 0

        def encode_images(self, images):
            Counting.seen += len(images)
            return scorer.encoder.encode_images(images)

        def encode_texts(self, texts):
            return scorer.encoder.encode_texts(texts)

    opened = [Image.open(p) for p in photos]
    for items, times in (
        (photos, 5),
        ([str(p) for p in photos], 5),
        ([p.read_bytes() for p in photos], 5),
        (opened, 5),
        ([pixels(p) for p in photos], 5),
    ):
        Counting.seen = 0
        cliplet.Scorer(Counting()).score([items[i % 5] for i in range(2600)], ["a dog"] * 2600)
        assert Counting.seen == times
    Counting.seen = 0
    copies = (bytes(bytearray(photos[i % 5].read_bytes())) for i in range(2600))
    cliplet.Scorer(Counting()).score(copies, ["a dog"] * 2600)
    assert Counting.seen == 5, "bytes are known by their content"


def test_lazily_made_photos_do_not_pile_up(scorer):
    def large():
        for i in range(120):
            yield np.full((1000, 1000, 3), i, np.uint8)  # 360 MB in all

    tracemalloc.start()
    scorer.score(large(), ["a dog"] * 120)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6


def test_bytes_are_not_kept_for_the_whole_call(scorer, photos):
    content = photos[0].read_bytes()
    gc.collect()
    tracemalloc.start()
    padded = (content + bytes(200_000) + str(i).encode() for i in range(1500))  # 300 MB in all
    scorer.score(padded, ["a dog"] * 1500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6


@pytest.mark.parametrize(
    "make", [list, tuple, deque, UserList, iter, lambda x: dict(enumerate(x)).values(), np.array]
)
def test_any_ordered_container_is_read_by_position(scorer, photos, expected, make):
    names = [str(p) for p in photos]
    for images, captions in ((make(names), CAPTIONS), (names, make(CAPTIONS)), (make(names), make(CAPTIONS))):
        np.testing.assert_array_equal(scorer.score(images, captions).score, expected)


def test_object_arrays_and_stacks_are_columns(scorer, photos, expected):
    opened = np.empty(5, object)
    opened[:] = [Image.open(p) for p in photos]
    stack = np.stack([pixels(p) for p in photos])
    for images in (
        np.array(photos),
        opened,
        stack,
        stack.transpose(0, 3, 1, 2),
        (stack / 255).astype(np.float32),
    ):
        np.testing.assert_array_equal(scorer.score(images, np.array(CAPTIONS, object)).score, expected)


def test_tensors_and_batches_of_a_loader(scorer, photos, expected):
    torch = pytest.importorskip("torch")
    stack = torch.from_numpy(np.stack([pixels(p) for p in photos])).permute(0, 3, 1, 2)
    for images in (stack, stack / 255, list(stack), tuple(stack / 255), stack.permute(0, 2, 3, 1)):
        np.testing.assert_array_equal(scorer.score(images, CAPTIONS).score, expected)
    half = scorer.score((stack / 255).bfloat16(), CAPTIONS)
    np.testing.assert_allclose(half.score, expected, atol=0.02)
    loader = torch.utils.data.DataLoader([(stack[i], CAPTIONS[i]) for i in range(5)], batch_size=2)
    scores = [scorer.score(images, captions).score for images, captions in loader]
    np.testing.assert_array_equal(np.concatenate(scores), expected)
    with pytest.raises(cliplet.InputError, match="3 images but 5 captions"):
        scorer.score(loader, CAPTIONS)
    one = scorer.score(stack[0] / 255, CAPTIONS)
    np.testing.assert_array_equal(one.score, scorer.score(photos[0], CAPTIONS).score)
    normalised = scorer.score((stack / 255 - 0.45) / 0.27, CAPTIONS)
    assert all("normalised as CLIP's" in reason for reason in normalised.failures)


def test_an_array_that_can_be_read_in_two_ways_is_refused(scorer):
    grey = np.zeros((3, 20, 20), np.uint8)
    with pytest.raises(cliplet.InputError, match=r"one image \[3, h, w\] or 3 greys"):
        scorer.score(grey, CAPTIONS[:3])
    assert scorer.score(grey, CAPTIONS).failures == [None] * 5
    assert scorer.score(list(grey), CAPTIONS[:3]).failures == [None] * 3


def test_pandas_is_read_by_position(scorer, photos, expected):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"image": [str(p) for p in photos], "caption": CAPTIONS, "true": expected})
    for rows in (frame.sample(frac=1, random_state=1), frame.sort_values("caption"), frame[frame.index > 1]):
        result = scorer.score(rows["image"], rows["caption"])
        np.testing.assert_array_equal(result.score, rows["true"].to_numpy(np.float32))
        np.testing.assert_array_equal(scorer.score(rows["image"], list(rows["caption"])).score, result.score)
    frame["photo"] = [Image.open(p) for p in photos]
    shuffled = frame.sample(frac=1, random_state=2)
    np.testing.assert_array_equal(
        scorer.score(shuffled["photo"], shuffled["caption"]).score, shuffled["true"].to_numpy(np.float32)
    )
    with pytest.raises(cliplet.InputError, match="whole table .DataFrame. with the columns image, caption"):
        scorer.score(frame, frame["caption"])


def test_series_with_the_same_labels_in_another_order_are_refused(scorer, photos):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"image": [str(p) for p in photos], "caption": CAPTIONS})
    mixed = frame.sample(frac=1, random_state=1)
    for images, captions, references in (
        (frame["image"], mixed["caption"], None),
        (frame["image"], frame["caption"], mixed["caption"]),
    ):
        with pytest.raises(
            cliplet.InputError, match=r"same labels in another order.*reset_index\(drop=True\)"
        ):
            scorer.score(images, captions, references)
    with pytest.raises(cliplet.InputError, match="same labels"):
        scorer.text_similarity(frame["caption"], mixed["caption"])
    ways_out = scorer.score(frame["image"], mixed["caption"].reset_index(drop=True))
    assert ways_out.failures == [None] * 5
    assert ways_out.notes == []
    shifted = scorer.score(frame["image"][:3], frame["caption"][1:4])
    assert "paired by position" in shifted.notes[0]


def test_a_hugging_face_column(scorer, photos, expected):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"image": [str(p) for p in photos], "caption": CAPTIONS})
    for decode in (True, False):
        rows = data.cast_column("image", datasets.Image(decode=decode))
        np.testing.assert_array_equal(scorer.score(rows["image"], rows["caption"]).score, expected)
    with pytest.raises(cliplet.InputError, match="whole table .Dataset. with the columns"):
        scorer.score(rows, CAPTIONS)


def test_values_of_pyarrow_and_of_other_columns(scorer, photos, expected):
    pyarrow = pytest.importorskip("pyarrow")
    contents = pyarrow.array([p.read_bytes() for p in photos])
    structs = pyarrow.array([{"bytes": p.read_bytes(), "path": p.name} for p in photos])
    captions = pyarrow.chunked_array([CAPTIONS[:2], CAPTIONS[2:]])
    for images in (contents, structs, pyarrow.chunked_array([contents[:1], contents[1:]])):
        np.testing.assert_array_equal(scorer.score(images, captions).score, expected)
    values = [list(structs), list(contents)]
    assert all(scorer.score(images, list(captions)).failures == [None] * 5 for images in values)
    references = pyarrow.array([["a dog"], None, [], ["a", "b"], ["c"]])
    for given in (references, list(references)):
        result = scorer.score(photos, captions, given)
        assert np.isnan(result.reference_cosine).tolist() == [False, True, True, False, False]


@pytest.mark.parametrize(
    ("images", "captions", "message"),
    [
        (lambda p: p, lambda c: iter(c[:4]), "5 images but 4 captions"),
        (lambda p: p, lambda c: itertools.cycle(c), "5 images but 6 captions"),
        (lambda p: iter(p[:4]), lambda c: c, "4 images but 5 captions"),
        (lambda p: itertools.cycle(p), lambda c: c, "more than 5 images but 5 captions"),
        (lambda p: set(p), lambda c: c, "images are a set, which has no order"),
        (lambda p: p, lambda c: frozenset(c), "captions are a frozenset"),
        (
            lambda p: dict.fromkeys(p),
            lambda c: c,
            r"images are a dict: give a list.*list\(images.values\(\)\)",
        ),
        (lambda p: p, lambda c: dict.fromkeys(c), "captions are a dict"),
        (lambda p: 5, lambda c: c, "images must be a list or another sequence, not int"),
        (lambda p: None, lambda c: "a dog", "images must be a list or another sequence, not NoneType"),
        (lambda p: p, lambda c: None, "captions must be a list or another sequence, not NoneType"),
        (lambda p: iter(p), lambda c: "a dog", "images without a length need a list of captions"),
    ],
)
def test_containers_that_do_not_fit_are_named(scorer, photos, images, captions, message):
    with pytest.raises(cliplet.InputError, match=message):
        scorer.score(images(photos), captions(CAPTIONS))


def test_lengths_are_compared_before_any_work(photos):
    class Never:
        card = cliplet.ModelCard(name="never", embedding_dim=3)

        def encode_images(self, images):
            raise AssertionError("work began")

        encode_texts = encode_images

    scorer = cliplet.Scorer(Never())
    for images, captions, references in (
        (photos, CAPTIONS[:4], None),
        (Lazy(photos), iter(CAPTIONS[:4]), None),
        (iter(photos), CAPTIONS, [["a"]] * 4),
        (iter(photos), CAPTIONS, iter([["a"]] * 6)),
    ):
        with pytest.raises(cliplet.InputError, match=r"\d .* but \d captions"):
            scorer.score(images, captions, references)


def test_a_damaged_item_of_a_lazy_column_fails_its_row(scorer, photos, expected, tmp_path):
    (tmp_path / "bad.png").write_bytes(photos[1].read_bytes()[:200])
    paths = [photos[0], tmp_path / "bad.png", photos[2], tmp_path / "gone.png", photos[4]]
    result = scorer.score(Lazy(paths), CAPTIONS)
    assert [bool(f) for f in result.failures] == [False, True, False, True, False]
    np.testing.assert_array_equal(result.score[[0, 2, 4]], expected[[0, 2, 4]])

    def broken():
        yield photos[0]
        raise OSError("the disk is gone")

    with pytest.raises(cliplet.InputError, match="end with an error at number 1: the disk is gone"):
        scorer.score(broken(), CAPTIONS)


def test_rows_with_a_bad_caption_take_their_image_from_a_generator_all_the_same(scorer, photos, expected):
    result = scorer.score((p for p in photos), [CAPTIONS[0], None, CAPTIONS[2], "", CAPTIONS[4]])
    np.testing.assert_array_equal(result.score[[0, 2, 4]], expected[[0, 2, 4]])
    assert np.isnan(result.score[[1, 3]]).all()


def test_odd_captions_fail_their_row_with_a_reason(scorer, photos):
    class Word(str, enum.Enum):  # noqa: UP042 (its str() is not its value)
        DOG = "a dog"

    pandas = pytest.importorskip("pandas")
    odd = [
        None,
        float("nan"),
        b"a dog",
        7,
        ["a dog"],
        np.float32("nan"),
        pandas.NA,
        np.bytes_(b"a dog"),
        {"a": 1},
    ]
    good = [np.str_("a dog"), Word.DOG, "a dog"]
    result = scorer.score(photos[0], [*odd, *good])
    assert all(reason.startswith("the caption is") for reason in result.failures[: len(odd)])
    assert "decode" in result.failures[2]
    assert result.failures[len(odd) :] == [None] * 3
    assert len(set(result.score[len(odd) :])) == 1
    assert "decode" in scorer.score(photos[0], b"a dog").failures[0]


def test_one_caption_goes_with_every_image(scorer, photos):
    result = scorer.score(photos, "a dog", ["a cat", "a red dog"])
    np.testing.assert_array_equal(result.score, scorer.score(photos, ["a dog"] * 5).score)
    assert len(set(result.reference_cosine)) == 1


def test_references_of_every_shape(scorer, photos):
    pandas = pytest.importorskip("pandas")
    lists = [["a dog", "a cat"], ["two man"], ["a", "b"], ["red car", "car"], ["woman on the beach"]]
    true = scorer.score(photos, CAPTIONS, lists).reference_cosine
    series = pandas.Series([np.array(r, object) for r in lists], index=[5, 3, 1, 2, 4])
    padded = np.full((5, 2), None, object)
    for i, row in enumerate(lists):
        padded[i, : len(row)] = row
    for references in (
        series,
        series.map(pandas.Series),
        [tuple(r) for r in lists],
        (iter(r) for r in lists),
        padded,
        [[*r, None, float("nan")] for r in lists],
        pandas.Series(lists).to_numpy(),
    ):
        result = scorer.score(photos, CAPTIONS, references)
        np.testing.assert_array_equal(result.reference_cosine, true)
        assert result.notes == []
    none = [["a dog"], None, float("nan"), [], pandas.NA]
    assert np.isnan(scorer.score(photos, CAPTIONS, none).reference_cosine).tolist() == [False] + [True] * 4
    strings = [r[0] for r in lists]
    one_each = scorer.score(photos, CAPTIONS, [[r] for r in strings]).reference_cosine
    for references in (strings, np.array(strings), pandas.Series(strings), iter(strings)):
        np.testing.assert_array_equal(scorer.score(photos, CAPTIONS, references).reference_cosine, one_each)
    for references in (["a dog", "a cat"], [["a dog", "a cat"]], iter(["a dog", "a cat"])):
        single = scorer.score(photos[0], CAPTIONS[0], references)
        assert single.reference_cosine[0] == pytest.approx(true[0])
    assert scorer.score(photos[0], CAPTIONS[0], "a dog").reference_cosine.shape == (1,)


def test_references_that_cannot_be_used_are_counted(scorer, photos):
    odd = [["a dog", 7, b"x", ""], [{"raw": "a cat"}], 5, b"a dog", [["a", "b"]]]
    result = scorer.score(photos, CAPTIONS, odd)
    assert np.isnan(result.reference_cosine).tolist() == [False] + [True] * 4
    assert result.notes[0].startswith("7 references are no usable text")


def test_plain_strings_beside_one_image_are_refused(scorer, photos):
    with pytest.raises(cliplet.InputError, match=r"give \[references\] \* 5 where all captions share them"):
        scorer.score(photos[0], CAPTIONS, CAPTIONS)
    with pytest.raises(cliplet.InputError, match="references are a set"):
        scorer.score(photos, CAPTIONS, set(CAPTIONS))
