"""Several files in one call, shards in gzip, Arrow of datasets, and what vision-language models write."""

import gzip
import io
import json
import tarfile

import pytest

from cliplet.data.captions import read_captions, read_references, read_sources
from cliplet.data.photos import PhotoTar
from cliplet.data.sources import expand
from cliplet.errors import InputError


def names(paths, folder):
    return [str(path.relative_to(folder)) for path in paths]


def test_braces_and_wildcards_name_files_in_order(tmp_path):
    for name in ("s-002.tar", "s-001.tar", "s-010.tar", "[x].tar", "{a,b}.json"):
        (tmp_path / name).touch()
    assert names(expand(f"{tmp_path}/s-{{001..003}}.tar"), tmp_path) == [
        "s-001.tar",
        "s-002.tar",
        "s-003.tar",
    ]
    assert names(expand(f"{tmp_path}/s-*.tar"), tmp_path) == ["s-001.tar", "s-002.tar", "s-010.tar"]
    assert names(expand(f"{tmp_path}/{{b,a}}{{1..2}}.csv"), tmp_path) == [
        "b1.csv",
        "b2.csv",
        "a1.csv",
        "a2.csv",
    ]
    for exact in ("[x].tar", "{a,b}.json", "missing.json"):
        assert names(expand(f"{tmp_path}/{exact}"), tmp_path) == [exact]


@pytest.mark.parametrize(
    ("pattern", "why"),
    [("none-*.tar", "no file matches"), ("{0..9999999}", "more than"), ("{1..999}{1..999}", "more than"),
     ("{3..1}.tar", "downwards")],
)  # fmt: skip
def test_patterns_that_name_nothing_or_too_much(tmp_path, pattern, why):
    with pytest.raises(InputError, match=why):
        expand(f"{tmp_path}/{pattern}")


def shard(path, members, mode="w"):
    with tarfile.open(path, mode) as out:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return path


def test_photos_of_one_name_in_two_shards_stay_two(tmp_path):
    shards = [
        shard(tmp_path / f"{n}.tar", {"0.jpg": b"photo %d" % n, "0.txt": b"a dog %d" % n}) for n in (1, 2)
    ]
    found = read_sources(shards)
    assert [(e.caption, e.photo.read_bytes()) for e in found] == [
        ("a dog 1", b"photo 1"),
        ("a dog 2", b"photo 2"),
    ]
    assert len({e.image for e in found}) == 2
    assert found[1].where == f"{shards[1]}, member 0.txt"
    assert read_sources(shards[:1])[0].image == "0.jpg"


def test_a_shard_in_gzip_is_read_and_its_cut_is_said(tmp_path):
    content = {
        f"{n}.{s}": (b"a dog" if s == "txt" else bytes(range(256)) * 900)
        for n in range(40)
        for s in ("jpg", "txt")
    }
    plain = shard(tmp_path / "a.tar", content)
    packed = shard(tmp_path / "a.tar.gz", content, "w:gz")
    assert [(e.image, e.caption) for e in read_captions(packed)] == [
        (e.image, e.caption) for e in read_captions(plain)
    ]
    assert PhotoTar(packed).find("7.jpg")[1].read_bytes() == content["7.jpg"]
    (tmp_path / "b.tgz").write_bytes(gzip.compress(plain.read_bytes(), 1)[:-30_000])
    found = read_captions(tmp_path / "b.tgz")
    assert "gzip is cut off" in found[-1].reason
    assert any(e.problem is None for e in found)
    (tmp_path / "c.tar.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(InputError, match="not a readable tar"):
        read_captions(tmp_path / "c.tar.gz")


def test_arrow_as_datasets_saves_it(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table(
        {"image": [{"bytes": b"photo %d" % n, "path": f"{n}.jpg"} for n in range(600)],
         "caption": [f"a dog {n}" for n in range(600)]}
    )  # fmt: skip
    folder = tmp_path / "train"
    folder.mkdir()
    for part in range(2):
        with (
            pyarrow.OSFile(str(folder / f"data-{part}.arrow"), "wb") as sink,
            pyarrow.ipc.new_stream(sink, table.schema) as writer,
        ):
            writer.write_table(table.slice(300 * part, 300), max_chunksize=70)
    files = [{"filename": f"data-{part}.arrow"} for part in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": files}))
    for source, count in ((folder, 600), (folder / "data-0.arrow", 300)):
        found = read_captions(source)
        assert [(e.image, e.caption) for e in found] == [(f"{n}.jpg", f"a dog {n}") for n in range(count)]
        assert all(e.photo.read_bytes() == b"photo %d" % n for n, e in enumerate(found))
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(InputError, match=r"several splits.*train"):
        read_captions(tmp_path)
    (folder / "data-1.arrow").write_bytes(b"ARROW1 or not")
    with pytest.raises(InputError, match="not a valid Arrow file"):
        read_captions(folder)
    (folder / "state.json").write_text("[]")
    with pytest.raises(InputError, match="no state of a saved data set"):
        read_captions(folder)


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_conversations_give_what_the_model_says(tmp_path):
    asked = {"from": "human", "value": "<image>\nDescribe it."}
    found = read_captions(lines(
        tmp_path / "c.jsonl",
        {"image": "a.jpg", "conversations": [asked, {"from": "gpt", "value": "a dog"}]},
        {"image": "b.jpg", "messages": [{"role": "user", "content": "?"},
                                        {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]}]},
        {"image": "c.jpg", "conversations": [asked, *[{"from": "gpt", "value": "a cow"}] * 2]},
        {"image": "d.jpg", "conversations": [asked, None, 3]},
    ))  # fmt: skip
    assert [(e.image, e.caption) for e in found] == [
        ("a.jpg", "a dog"), ("b.jpg", "a cat"), ("c.jpg", None), ("d.jpg", None),
    ]  # fmt: skip
    assert [e.reason and e.reason[:21] for e in found[2:]] == [
        "conversations has 2 t",
        "conversations has 0 t",
    ]


@pytest.mark.parametrize("rows", [1, 2])
def test_samples_of_lmms_eval(tmp_path, rows):
    doc = {"img_id": "7", "filename": "a.jpg", "caption": ["a dog", "a brown dog"], "sentids": [1, 2]}
    row = {
        "doc_id": 0,
        "doc": doc,
        "target": "x",
        "resps": [["a dog "]],
        "filtered_resps": ["a dog"],
        "cider": {},
    }
    path = lines(tmp_path / "samples.jsonl", *[row] * rows)
    found = read_captions(path)
    assert [(e.image, e.caption, e.references) for e in found] == [
        ("a.jpg", "a dog", ("a dog", "a brown dog"))
    ] * rows
    two = lines(tmp_path / "two.jsonl", row, {**row, "filtered_resps": ["a", "b"]})
    assert read_captions(two)[1].reason == "it has 2 answers; a caption is one"


def test_predictions_come_before_captions_and_answers_are_their_references(tmp_path):
    rows = {"image": "a.jpg", "answer": ["a dog", "a puppy"], "prediction": "a cat", "question": "?"}
    path = lines(tmp_path / "p.jsonl", rows, rows)
    assert read_captions(path)[0][:2] == ("a.jpg", "a cat")
    assert read_captions(path)[0].references == ("a dog", "a puppy")
    assert read_references(path) == {"a.jpg": ["a dog", "a puppy"] * 2}
    only = lines(
        tmp_path / "o.jsonl", {"image": "a.jpg", "answer": "a cow"}, {"image": "b.jpg", "answer": "a"}
    )
    assert (read_captions(only)[0].caption, read_captions(only)[0].references) == ("a cow", None)


def test_a_column_of_web_addresses_is_refused_with_the_reason(tmp_path):
    path = lines(tmp_path / "u.jsonl", *[{"url": "https://x.org/a.jpg", "caption": "a dog"}] * 2)
    with pytest.raises(
        InputError, match=r"found the fields url, caption; web addresses \(url\) are not fetched"
    ):
        read_captions(path)
