"""Rows of tables: each knows its line, and a broken one takes no other with it."""

import json
from collections import Counter

import pytest

from cliplet.data.tables import as_list, cell_list, read_table, rows_of
from cliplet.errors import InputError


def rows(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [(row.where, dict(row), row.problem) for row in rows_of(path)]


def test_a_row_of_another_width_fails_alone_and_shows_its_cells(tmp_path):
    found = rows(tmp_path, "t.csv", "a,b\n1,2\n3\n4,5,6\n\n7,8\n")
    assert [where for where, _, _ in found] == ["line 2", "line 3", "line 4", "line 6"]
    assert [p for _, _, p in found] == [
        None,
        "1 cell under a header of 2: '3'",
        "3 cells under a header of 2: '4,5,6'",
        None,
    ]


@pytest.mark.parametrize(
    "lines",
    [
        ['x.jpg,"a cup', "y.jpg,a dog", "z.jpg,a cat"],  # nothing closes it
        ['x.jpg,"a cup', 'y.jpg,"a dog, asleep"', "z.jpg,a cat"],  # the next row's quote seems to
        ['x.jpg,"a cup', 'y.jpg,the "big" dog', "z.jpg,a cat"],
        ['x.jpg,"5 inch', 'y.jpg,6 inch"', "z.jpg,a cat"],  # closed by chance, two cells
        ['x.jpg,"5 inch', 'y.jpg,6 inch",7', "z.jpg,a cat"],
        ['x.jpg,"a" dog', "y.jpg,a dog", "z.jpg,a cat"],
    ],
)
def test_a_stray_quote_never_swallows_rows(tmp_path, lines):
    found = rows(tmp_path, "t.csv", "\n".join(["image,caption", "a.jpg,first", *lines]))
    assert [where for where, _, _ in found] == ["line 2", "line 3", "line 4", "line 5"]
    assert "quote" in found[1][2]
    assert found[1][1]["image"] == "x.jpg"
    assert (found[3][1]["caption"], found[3][2]) == ("a cat", None)


def test_quoted_cells_may_hold_separators_quotes_and_line_ends(tmp_path):
    text = 'id,text\r\n7,"a ""big"" dog, asleep"\r\n8,"two\r\nlines, and\r\n1999"\r\n9,"""all"""\r\n'
    found = rows(tmp_path, "t.csv", text)
    assert [row["text"] for _, row, _ in found] == [
        'a "big" dog, asleep',
        "two\r\nlines, and\r\n1999",
        '"all"',
    ]
    assert [where for where, _, _ in found] == ["line 2", "line 3", "line 6"]
    assert [problem for _, _, problem in found] == [None] * 3


def test_tabs_and_bars_know_no_quotes(tmp_path):
    assert rows(tmp_path, "t.tsv", 'a\tb\n1\t"x\n2\t"y" z\n')[0][1] == {"a": "1", "b": '"x'}
    assert rows(tmp_path, "t.csv", 'name| n| text\nq.jpg| 0| "x\n')[0][1] == {
        "name": "q.jpg",
        "n": "0",
        "text": '"x',
    }
    assert rows(tmp_path, "u.csv", "a\tb\n1\t2\n") == [("line 2", {"a": "1", "b": "2"}, None)]
    assert rows(tmp_path, "v.csv", "a;b\n1;2,5\n") == [("line 2", {"a": "1", "b": "2,5"}, None)]


def test_a_header_with_two_columns_of_one_name_is_refused(tmp_path):
    with pytest.raises(InputError, match="its header has two columns 'b'"):
        rows(tmp_path, "t.csv", "a,b,B \n1,2,3\n")
    assert rows(tmp_path, "t.csv", ",a,\n1,2,3\n")[0][2] is None, "columns without a name may be several"


def test_encodings(tmp_path):
    plain = "a,b\nü,x\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-be"):
        text = "\ufeff" + plain if encoding == "utf-16-be" else plain
        assert rows(tmp_path, "t.csv", text.encode(encoding)) == [("line 2", {"a": "ü", "b": "x"}, None)]
    with pytest.raises(InputError, match="UTF-16 without a byte-order mark"):
        rows(tmp_path, "t.csv", plain.encode("utf-16-le"))
    assert rows(tmp_path, "t.csv", b"a,b\ncaf\xe9,x\n")[0][1]["a"] == "caf\udce9"
    cut = plain.encode("utf-16")[:-1]
    assert "\udc0a" in rows(tmp_path, "t.csv", cut)[0][1]["b"], "half a character is kept as what it is"


def test_json_by_content(tmp_path):
    records = [{"a": 1, "b": "x"}, {"a": 2}]
    by_line = "\n".join(map(json.dumps, records))
    for name in ("t.json", "t.jsonl", "t.ndjson"):
        for text in (by_line, json.dumps(records), json.dumps(records, indent=1)):
            assert [row for _, row, _ in rows(tmp_path, name, text)] == records
    wrapped = {"x": 1, "rows": records}
    assert [row for _, row, _ in rows(tmp_path, "t.json", json.dumps(wrapped))] == records
    assert rows(tmp_path, "t.jsonl", json.dumps(wrapped)) == [("line 1", wrapped, None)]
    found = rows(tmp_path, "t.jsonl", '{"a": 1}\n{"a": \n[1]\n{"a": 2}\n' + "[" * 100_000)
    assert [where for where, _, problem in found if problem is None] == ["line 1", "line 4"]
    assert "not valid JSON" in found[1][2]
    assert "expected an object" in found[2][2]
    assert "nested too deeply" in found[4][2]


def test_usable_rows_come_with_a_count_of_the_others(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3\n4\n")
    notes: Counter[str] = Counter()
    assert read_table(tmp_path / "t.csv", notes) == [{"a": "1", "b": "2"}]
    assert notes == {"rows left out, such as line 3: 1 cell under a header of 2: '3'": 2}
    (tmp_path / "t.csv").write_text("a,b\n3\n")
    with pytest.raises(InputError, match="line 2: 1 cell under a header of 2"):
        read_table(tmp_path / "t.csv", notes)


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ('["a dog", "it\'s"]', ["a dog", "it's"]),
        ("['a dog', \"it's\"]", ["a dog", "it's"]),
        ("['a dog' 'a cat'\n \"it's\"]", ["a dog", "a cat", "it's"]),  # NumPy
        ("array(['a dog', 'a cat'], dtype=object)", ["a dog", "a cat"]),
        ('["a", null]', ["a", None]),
        ("[0, 1]", None),
        ("[music] a dog", None),
        ("a dog ['x']", None),
        ("[]", None),
    ],
)
def test_lists_written_into_cells(cell, found):
    assert cell_list(cell) == found


@pytest.mark.parametrize("cell", ["['a', nan]", '["a", "b]', "['a' ... 'z']", "['a''b']"])
def test_a_list_that_cannot_be_read_is_no_text(cell):
    with pytest.raises(ValueError, match="looks like a list that cannot be read"):
        cell_list(cell)


@pytest.mark.parametrize(
    "cell",
    [
        "['a','b",
        '["a", "b',
        '["a"',
        '["a", ',
        "['a' 'b",
        "['a', \"b's",
        '["a dog on',
        r'["a\"b", "c',
        "array(['a'",
    ],
)
def test_a_list_that_is_cut_off_is_no_text(cell):
    with pytest.raises(ValueError, match="begins a list and is cut off before its end"):
        cell_list(cell)
    with pytest.raises(ValueError, match="cut off"):
        as_list(cell)


@pytest.mark.parametrize(
    "caption",
    ["[photo] a dog", "['Hello'] says a sign", "['tis the season] a dog", "[ a dog", '["a" sign on a door'],
)
def test_a_caption_that_begins_with_a_bracket_is_a_caption(caption):
    assert cell_list(caption) is None


def test_references_in_one_cell():
    assert as_list(" one | two|") == ["one", "two"]
    assert as_list("a|b ||| c") == ["a|b", "c"]
    assert as_list(None) == []
    assert as_list(("x", "y")) == ["x", "y"]
    assert as_list(4.5) == [4.5]
