"""Reading captions: every layout gives the same entries; broken files are named with their place."""

import io
import json
import tarfile

import pytest

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


def test_flickr8k_token_file(tmp_path):
    path = tmp_path / "tokens.txt"
    path.write_text("a.jpg#0\tA dog .\nodd#name.jpg#4\tA cat .\n", encoding="utf-8")
    assert pairs(path) == [("a.jpg", "A dog ."), ("odd#name.jpg", "A cat .")]


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


def test_webdataset_tar(tmp_path):
    members = {
        "000.jpg": b"x",
        "000.txt": b"a dog\n",
        "001.jpg": b"x",
        "001.json": b'{"caption": "a cat"}',
        "002.txt": b"no photo",
    }
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert pairs(tmp_path / "s.tar") == [("000.jpg", "a dog"), ("001.jpg", "a cat"), ("002.txt", "no photo")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "", "is empty"),
        ("a.json", '{"a.jpg": "dog",\n "b.jpg" "cat"}', "line 2 column 10"),
        ("a.json", '{"a.jpg": "dog",\n "b.jpg": "cat"', "line 2 column 16"),
        ("a.json", '["a dog", "a cat"]', "line 1 column 2: expected an object.*found 'a dog'"),
        ("a.json", '[{"image": "a", "words": "x"}]', "line 1 column 2: no caption: .*image, words.*--caption-column"),
        ("a.json", "[" * 50_000, "nested too deeply"),
        ("a.json", '{"a.jpg": ' + "1" * 5_000 + "}", "limit .* for integer"),
        ("a.json", '{"image": {"0": "a.jpg"}, "caption": {"0": "a dog"}}', "pandas.*orient='records'"),
        ("a.json", "42", "line 1 column 1"),
        ("a.json", '[{"image": "a", "caption": "x"},]', "Trailing comma at line 1 column 33"),
        ("a.json", '{"a": "b"} {"c": "d"}', "Extra data at line 1 column 12"),
        ("a.json", "[]", "holds no captions"),
        ("a.jsonl", '{"image": }', "line 1: not valid JSON: .* column 11"),
        ("a.jsonl", '"text"\n', "line 1: expected an object"),
        ("a.csv", "file name,words\na,b\n", "line 2: no image: .*file name, words.*--image-column"),
        ("a.csv", "image,caption,Caption\na,b,c\n", "two columns 'caption'"),
        ("a.csv", "image,caption\n", "holds no captions"),
        ("a.txt", "no tab here\n", "line 1: expected image#number<TAB>caption"),
        ("a.docx", "x", "captions are read from folders and .json"),
        ("a.tar", "not a tar", "not a readable uncompressed tar"),
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
