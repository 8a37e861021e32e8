"""Reading captions: every layout gives the same entries; broken files are named with their place."""

import json
import re
from datetime import datetime

import pytest

from cliplet.data.book import read_book
from cliplet.data.captions import Columns, read_captions, read_references
from cliplet.data.names import image_name
from cliplet.errors import InputError
from tests.shared_data import shared_data

EXPECTED = [
    ("a.jpg", "a dog"),
    ("a.jpg", "a brown dog"),
    ("b.jpg", 'a "cat", asleep'),
    ("ü.jpg", "🐶 naïve\nline"),
]


def pairs(path):
    return [(e.image, e.caption) for e in read_captions(path)]


def layouts():
    grouped = {"a.jpg": ["a dog", "a brown dog"], "b.jpg": 'a "cat", asleep', "ü.jpg": "🐶 naïve\nline"}
    records = [{"image_id": i, "caption": c} for i, c in EXPECTED]
    return {
        "map.json": json.dumps(grouped),
        "pretty.json": json.dumps(grouped, indent=4, ensure_ascii=False),
        "repeated_keys.json": "{" + ",".join(f"{json.dumps(i)}: {json.dumps(c)}" for i, c in EXPECTED) + "}",
        "coco_results.json": json.dumps(records),
        "filenames.json": json.dumps([{"file_name": i, "caption": c, "extra": 1} for i, c in EXPECTED]),
        "coco_annotations.json": json.dumps(
            {
                "images": [{"id": n, "file_name": i} for n, (i, _) in enumerate(EXPECTED)],
                "annotations": [{"id": 9, "image_id": n, "caption": c} for n, (_, c) in enumerate(EXPECTED)],
            }
        ),
        "karpathy.json": json.dumps(
            {
                "images": [
                    {"filename": i, "sentences": [{"raw": c, "tokens": []}], "split": "test"}
                    for i, c in EXPECTED
                ]
            }
        ),
        "lines.jsonl": "\n\n".join(json.dumps({"image": i, "caption": c}) for i, c in EXPECTED) + "\n",
        "table.csv": 'image,caption\r\na.jpg,a dog\r\na.jpg,a brown dog\r\nb.jpg,"a ""cat"", asleep"\r\n'
        'ü.jpg,"🐶 naïve\nline"\r\n',
    }


@pytest.mark.parametrize("name", layouts())
def test_every_layout_reads_the_same(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(layouts()[name].encode("utf-8"))
    assert pairs(path) == EXPECTED


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marked_encodings_are_understood(tmp_path, encoding):
    path = tmp_path / "table.csv"
    path.write_bytes(layouts()["table.csv"].encode(encoding))
    assert pairs(path) == EXPECTED


@pytest.mark.parametrize("name", ["tokens.txt", "results_20130124.token", "tokens", "captions.tok", "v1.5"])
def test_token_files_of_any_name(tmp_path, name):
    path = tmp_path / name
    path.write_text("a.jpg#0\tA dog .\r\nodd#name.jpg#4\tA cat .\n", encoding="utf-8-sig")
    assert pairs(path) == [("a.jpg", "A dog ."), ("odd#name.jpg", "A cat .")]
    assert [entry.id for entry in read_captions(path)] == ["a.jpg#0", "odd#name.jpg#4"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.txt", 'image,caption\na.jpg,A dog .\na.jpg,"A dog , asleep ."\n'),  # Kaggle's Flickr8k
        ("captions.txt", "caption\timage\nA dog .\ta.jpg\nA dog , asleep .\ta.jpg\n"),
        ("results.csv", "image_name| comment_number| comment\na.jpg| 0| A dog .\na.jpg| 1| A dog , asleep .\n"),
        ("train.csv", 'filepath,title\na.jpg,A dog .\na.jpg,"A dog , asleep ."\n'),  # open_clip
        ("train.csv", "filepath\ttitle\na.jpg\tA dog .\na.jpg\tA dog , asleep .\n"),
        ("f.csv", 'raw,split,filename\n"[""A dog ."", ""A dog , asleep .""]",test,a.jpg\n'),  # Flickr30k on the hub
        ("f.csv", "image,caption\na.jpg,\"['A dog .', 'A dog , asleep .']\"\n"),  # pandas with Python lists
        ("f.csv", "image,caption\na.jpg,\"['A dog .' 'A dog , asleep .']\"\n"),  # and with NumPy arrays
        ("r.json", '{"model": "m", "results": [{"image_id": "a.jpg", "caption": ["A dog .", "A dog , asleep ."]}]}'),
        ("c.json", '{"image": "a.jpg", "caption": "A dog ."}\n{"image": "a.jpg", "caption": "A dog , asleep ."}\n'),
        ("c.jsonl", '[{"image": "a.jpg", "caption": "A dog ."},\n{"image": "a.jpg", "caption": "A dog , asleep ."}]'),
        ("c.ndjson", '{"a.jpg": ["A dog .", "A dog , asleep ."]}'),
        ("c.json", '{"a.jpg": [{"id": 1, "caption": "A dog ."}, {"id": 2, "caption": "A dog , asleep ."}]}'),
        ("c.json", '{"0": {"file_name": "a.jpg", "text": "A dog ."}, "1": {"file_name": "a.jpg", "text": '
                   '"A dog , asleep ."}}'),
        ("c.json", '{"train": [{"image": "a.jpg", "caption": "A dog ."}], "val": [{"image": "a.jpg", "caption": '
                   '"A dog , asleep ."}]}'),
        ("c.jsonl", '{"image": "a.jpg", "caption": ["A dog .", "A dog , asleep ."]}'),
        ("c.json", '{"images": null, "annotations": [{"id": 3, "image_id": "a.jpg", "caption": "A dog ."}, '
                   '{"id": 4, "image_id": "a.jpg", "caption": "A dog , asleep ."}]}'),
    ],
)  # fmt: skip
def test_files_that_people_bring(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert pairs(tmp_path / name) == [("a.jpg", "A dog ."), ("a.jpg", "A dog , asleep .")]


@pytest.mark.parametrize(
    ("name", "text", "reasons"),
    [
        ("a.csv", "image,caption\na.jpg,x\nb.jpg\nc.jpg,y\n", [None, "1 cell under a header of 2", None]),
        ("a.csv", "image,caption\na.jpg,x\n,y\n", [None, "the image is not a name or a number but ''"]),
        ("a.csv", "image,caption\na.jpg,x\nb.jpg,\"['y', nan]\"\n", [None, "looks like a list that cannot be read"]),
        ("a.jsonl", '{"image": "a", "caption": "x"}\n{"image": "b", "error": "timeout"}\n{"caption": "y"}\n{"ima',
         [None, "no caption: found the fields image, error", "no image: found the fields caption", "not valid JSON"]),
        ("a.json", '[{"image": "a", "caption": "x"}, {"img_name": "b"}, 7, {"image": null, "id": 1, "caption": "y"}]',
         [None, "no caption: found the fields img_name", "expected an object", "the image is not a name .* None"]),
        ("a.json", '{"annotations": [{"id": 1, "image_id": 42, "caption": "x"}, {"id": 2, "caption": "y"}, null]}',
         [None, "no image", "expected an object"]),
        ("a.txt", "a.jpg#0\tx\nno tab\n#0\ty\n", [None, "expected image#number<TAB>caption", "it names no image"]),
        ("a.json", '[{"image": "a", "caption": "x"}, {"image": "b", "caption": "\\udce9"}]', [None, "not valid UTF-8"]),
    ],
)  # fmt: skip
def test_a_broken_record_fails_alone(tmp_path, name, text, reasons):
    (tmp_path / name).write_text(text, encoding="utf-8")
    entries = read_captions(tmp_path / name)
    assert len(entries) == len(reasons)
    for entry, reason in zip(entries, reasons, strict=True):
        assert entry.reason is None if reason is None else re.search(reason, str(entry.reason))
        assert reason is None or entry.caption is None


def test_columns_and_separator_can_be_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("key,caption_a,caption\na,A dog,no\n")
    columns = Columns(image="Key", caption="caption_a")
    assert [(e.image, e.caption, e.extra) for e in read_captions(path, columns)] == [
        ("a", "A dog", {"caption": "no"})
    ]
    path.write_text("image,it;caption\na.jpg;A dog, asleep\n")
    assert [e.caption for e in read_captions(path, Columns(image="image,it", separator=";"))] == [
        "A dog, asleep"
    ]
    with pytest.raises(InputError, match="no caption: found the fields image,it, caption"):
        read_captions(path, Columns(image="image,it", caption="text", separator=";"))


def test_references_of_a_file_with_both(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("image,caption,references,score\na.jpg,A dog,one | two,3\nb.jpg,A cat,\"['three']\",4\n")
    entries = read_captions(path)
    assert [(e.caption, e.references, e.extra) for e in entries] == [
        ("A dog", ("one", "two"), {"score": "3"}),
        ("A cat", ("three",), {"score": "4"}),
    ]
    assert read_references(path) == {"a.jpg": ["one", "two"], "b.jpg": ["three"]}


def test_references_that_cannot_be_used_are_counted(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a.jpg": ["x", "", null], "b.jpg": "y"}')
    notes = []
    assert read_references(path, notes) == {"a.jpg": ["x"], "b.jpg": ["y"]}
    assert notes == [f"2 captions left out of {path}, such as line 1 column 2: the caption is empty"]


def test_karpathys_splits_are_kept(tmp_path):
    images = [
        {"filename": f"{s}.jpg", "filepath": "val2014", "split": s, "sentences": [{"raw": s}]} for s in "ab"
    ]
    (tmp_path / "k.json").write_text(json.dumps({"images": images, "dataset": "x"}))
    assert [(e.caption, e.extra["split"]) for e in read_captions(tmp_path / "k.json")] == [
        ("a", "a"),
        ("b", "b"),
    ]
    book = read_book([tmp_path / "k.json"], "b")
    assert list(book.images) == ["b.jpg"]
    with pytest.raises(InputError, match="no image of split 'test'; it has a, b"):
        read_book([tmp_path / "k.json"], "test")


def test_a_book_keeps_shards_apart_and_lists_what_failed(tmp_path):
    for shard in "xy":
        (tmp_path / shard).mkdir()
        (tmp_path / shard / "0.jpg").write_bytes(b"photo")
        (tmp_path / shard / "0.txt").write_text(f"caption {shard}")
    (tmp_path / "x" / "1.txt").write_text("no photo")
    book = read_book([tmp_path / "x", tmp_path / "y"])
    assert [text for own in book.images.values() for text in own] == ["caption x", "caption y"]
    assert sorted(map(str, book.photos.values())) == [str(tmp_path / s / "0.jpg") for s in "xy"]
    assert "no photo goes with it" in book.failures[0]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table(
        {"n": [1, 2, 3, 4], "image": [i for i, _ in EXPECTED], "caption": [c for _, c in EXPECTED]}
    )
    parquet.write_table(table, tmp_path / "t.parquet")
    assert pairs(tmp_path / "t.parquet") == EXPECTED
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match="not a valid Parquet file"):
        read_captions(tmp_path / "bad.parquet")


def test_parquet_with_photos_inside(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    photo, other = b"one photo", b"another"
    columns = {
        "image": [{"bytes": photo, "path": "x.jpg"}, {"bytes": photo, "path": None}, {"bytes": other, "path": "x.jpg"},
                  {"bytes": None, "path": "y.jpg"}, None, {"bytes": other + b"!", "path": None}],
        "img_id": [1, 2, 3, 4, 5, 6],
        "caption": [["a", "b"], ["c"], ["d"], ["e"], ["f"], ["g"]],
        "made": pyarrow.array([datetime(2020, 1, 1)] * 6, pyarrow.timestamp("ns")),
    }  # fmt: skip
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet", row_group_size=2)
    entries = read_captions(tmp_path / "t.parquet")
    read = [(e.image, e.caption, e.photo and e.photo.read_bytes()) for e in entries]
    assert read == [
        ("x.jpg", "a", photo),
        ("x.jpg", "b", photo),
        ("x.jpg", "c", photo),
        ("x.jpg (row 3)", "d", other),
        ("y.jpg", "e", None),
        ("", None, None),
        ("row 6", "g", other + b"!"),
    ]
    assert entries[0].photo is entries[2].photo
    assert entries[5].reason == "the image is not a name or a number but None"
    parquet.write_table(
        pyarrow.table({"file": [photo, other], "text": [b"caf\xc3\xa9", b"\xe9"]}), tmp_path / "b.parquet"
    )
    entries = read_captions(tmp_path / "b.parquet")
    assert [(e.caption, e.reason) for e in entries] == [
        ("café", None),
        (None, "the caption is not valid UTF-8"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "", "is empty"),
        ("a.json", '{"a.jpg": "dog",\n "b.jpg" "cat"}', "line 2 column 10"),
        ("a.json", '{"a.jpg": "dog",\n "b.jpg": "cat"', "line 2 column 16"),
        ("a.json", '["a dog", "a cat"]', "line 1 column 2: expected an object.*found 'a dog'"),
        (
            "a.json",
            '[{"image": "a", "words": "x"}]',
            "line 1 column 2: no caption: .*image, words.*--caption-column",
        ),
        ("a.json", "[" * 50_000, "nested too deeply"),
        ("a.json", '{"a.jpg": ' + "1" * 5_000 + "}", "limit .* for integer"),
        ("a.json", '{"image": {"0": "a.jpg"}, "caption": {"0": "a dog"}}', "pandas.*orient='records'"),
        ("a.json", "42", "line 1 column 1"),
        ("a.json", '[{"image": "a", "caption": "x"},]', "Trailing comma at line 1 column 33"),
        ("a.json", '{"a": "b"} {"c": "d"}', "Extra data at line 1 column 12"),
        ("a.json", "[]", "holds no captions"),
        ("a.jsonl", '{"image": }', "line 1: not valid JSON: .* column 11"),
        ("a.jsonl", '"text"\n', "line 1: expected an object"),
        (
            "a.jsonl",
            '{"file_name": "a.jpg", "prompt": "x"}',
            "no caption: found the fields file_name, prompt",
        ),
        (
            "a.csv",
            "file name,words\na,b\n",
            "line 2: no image and no caption: .*file name, words.*--image-column",
        ),
        ("a.csv", "image,caption,Caption\na,b,c\n", "two columns 'caption'"),
        ("a.csv", "image,caption\n", "holds no captions"),
        ("a.txt", "no tab here\n", "line 1: expected image#number<TAB>caption"),
        ("a.docx", "x", "captions are read from folders .*; JSON .*, .jsonl"),
        ("a.tar", "not a tar", "not a readable tar"),
    ],
)
def test_broken_files_are_named_with_their_place(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message) as error:
        read_captions(path)
    assert str(path) in str(error.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        read_captions(tmp_path / "none.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(InputError, match="holds no captions"):
        read_captions(tmp_path / "folder.json")


def test_bytes_that_are_not_utf8_stay_in_their_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"image,caption\na.jpg,caf\xe9\nb.jpg,fine\n")
    entries = read_captions(path)
    assert [e.image for e in entries] == ["a.jpg", "b.jpg"]
    assert (entries[0].caption, entries[0].reason) == (None, "the caption is not valid UTF-8")
    assert entries[1].caption == "fine"


def test_non_string_captions_are_kept_for_the_scorer_to_report(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a.jpg": 5, "b.jpg": null, "c.jpg": "", "d.jpg": [], "e.jpg": {"x": 1}}')
    assert pairs(path) == [("a.jpg", 5), ("b.jpg", None), ("c.jpg", ""), ("d.jpg", None), ("e.jpg", {"x": 1})]


def test_references_gather_under_one_name(tmp_path):
    path = tmp_path / "refs.json"
    path.write_text('[{"image_id": 42, "caption": "x"}, {"image_id": "000042", "caption": "y"}]')
    assert read_references(path) == {"42": ["x", "y"]}
    assert image_name(0) == "0"


def test_the_official_coco_files():
    results = read_captions(shared_data("coco-captions-val2017/captions_val2017_fakecap_results.json"))
    references = read_references(shared_data("coco-captions-val2017/captions_val2017.json"))
    raw = json.loads(shared_data("coco-captions-val2017/captions_val2017_fakecap_results.json").read_text())
    assert [(e.image, e.caption) for e in results] == [(r["image_id"], r["caption"]) for r in raw]
    assert sum(map(len, references.values())) == 25_014
    assert len(references) == 5_000
