"""Rules and verdicts on measured rows made by hand; the tables are small, the files on disk real."""

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from cliplet.curate import near, spill
from cliplet.curate.decide import Measured, decide, part_name
from cliplet.curate.measure import SCHEMA
from cliplet.curate.rules import Rules, own_reasons
from cliplet.errors import InputError

DIM = 32


def row(number: int, **given):
    """A good row whose photo and caption are its own."""
    rng = np.random.default_rng(given.pop("same_as", number))
    found = {
        "source": "a.tar", "where": f"member {number}.txt", "image": f"{number}.jpg",
        "caption": f"a dog is number {number}",
        "score": 0.8, "cosine": 0.5, "match": 0.7, "truncated": False, "bytes": 10,
        "width": 300, "height": 200,
        "photo": number.to_bytes(16, "little"), "content": rng.bytes(16),
        "pixels": rng.bytes(16), "look": rng.bytes(32),
        "embedding": rng.normal(size=DIM).astype(np.float16).tobytes(),
        "caption_key": (1000 + number).to_bytes(16, "little"), "words": 5, "name": None, "empty": None, "reason": None,
        "extra": None,
    }  # fmt: skip
    return found | given


def near_row(number: int, other: int, bits: int = 10, noise: float = 0.05, **given):
    """A row whose photo is nearly another's."""
    first = row(other)
    rng = np.random.default_rng(number + 10_000)
    look = np.unpackbits(np.frombuffer(first["look"], np.uint8))
    look[rng.choice(256, bits, replace=False)] ^= 1
    vector = np.frombuffer(first["embedding"], np.float16).astype(np.float32)
    vector = vector + noise * np.linalg.norm(vector) / DIM**0.5 * rng.normal(size=DIM)
    return row(
        number, look=np.packbits(look).tobytes(), embedding=vector.astype(np.float16).tobytes(), **given
    )


def verdicts(tmp_path, parts, **rules):
    """Rules that removed each row, what is kept in its place, and the counts."""
    paths = []
    for i, rows in enumerate(parts):
        paths.append(tmp_path / f"part-{i:05d}.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows, SCHEMA), paths[-1])
    counts = decide(Measured(paths), Rules(**rules), tmp_path / "decided", tmp_path / "scratch")
    assert not (tmp_path / "scratch").exists()
    found = [
        r
        for i in range(len(parts))
        for r in parquet.read_table(tmp_path / "decided" / part_name(i)).to_pylist()
    ]
    assert [not r["reasons"] for r in found] == [r["kept"] for r in found]
    assert counts.kept + sum(bool(r["reasons"]) for r in found) == counts.pairs == len(found)
    return [[reason["rule"] for reason in r["reasons"]] for r in found], found, counts


@pytest.mark.parametrize(
    ("change", "rules", "rule"),
    [
        ({"reason": "a.jpg is truncated", "match": None, "cosine": None, "score": None}, {}, "unreadable"),
        ({"match": 0.19}, {"min_match": 0.2}, "threshold"),
        ({"score": 0.19}, {"min_score": 0.2}, "threshold"),
        ({"cosine": -0.1}, {"min_cosine": 0.0}, "threshold"),
        ({"words": 2}, {}, "short"),
        ({"name": "it is a file's name"}, {}, "name"),
        ({"empty": "it has only stop words"}, {}, "empty"),
        ({"caption": "Ein Hund läuft auf der Straße"}, {"language": "en"}, "language"),
        ({"height": 99}, {"min_side": 100}, "size"),
        ({"width": 700}, {"max_aspect": 3.0}, "size"),
    ],
)
def test_each_rule_removes_what_it_is_for_and_nothing_when_skipped(tmp_path, change, rules, rule):
    assert own_reasons(row(1), Rules(**rules)) == []
    (reason,) = own_reasons(row(1, **change), Rules(**rules))
    assert reason.rule == rule
    assert reason.why
    names, _, counts = verdicts(tmp_path, [[row(0), row(1, **change)]], **rules)
    assert names == [[], [rule]]
    assert counts.rules == counts.only == {rule: 1}
    if rule != "unreadable":
        assert own_reasons(row(1, **change), Rules(**rules, skip=(rule,))) == []


def test_a_pair_at_the_threshold_is_kept():
    assert own_reasons(row(1, match=0.2), Rules(min_match=0.2)) == []


@pytest.mark.parametrize(
    "rules",
    [{"min_match": 1.2}, {"top_share": 0}, {"language": "xx"}, {"skip": ("nothing",)}, {"duplicates": "all"}],
)
def test_rules_that_mean_nothing_are_refused(rules):
    with pytest.raises(InputError, match="--"):
        Rules(**rules)


def test_the_top_share_is_exact_over_all_parts(tmp_path):
    cosines = np.random.default_rng(0).permutation(np.linspace(-0.9, 0.9, 200))
    rows = [row(i, cosine=float(c)) for i, c in enumerate(cosines)]
    names, _, counts = verdicts(tmp_path, [rows[:70], rows[70:]], top_share=0.3)
    kept = {i for i, found in enumerate(names) if not found}
    assert kept == set(np.argsort(-cosines)[:60].tolist())
    assert counts.rules == {"share": 140}


def test_a_caption_of_too_many_photos_is_removed_from_all(tmp_path):
    parts = [
        [row(i, caption_key=bytes(16)) for i in range(2)],
        [row(i, caption_key=bytes(16)) for i in (2, 3)],
    ]
    parts[1].append(row(4))
    assert verdicts(tmp_path, parts, max_repeats=3)[0] == [["repeated"]] * 4 + [[]]
    assert verdicts(tmp_path, parts, max_repeats=4)[0] == [[]] * 5
    assert verdicts(tmp_path, parts, max_repeats=0)[0] == [[]] * 5


def test_one_photo_with_its_captions_repeats_nothing(tmp_path):
    photo = {k: row(0)[k] for k in ("photo", "content", "pixels", "look", "embedding")}
    rows = [row(i, **photo) for i in range(5)] + [row(5)]
    assert verdicts(tmp_path, [rows[:3], rows[3:]])[0] == [[]] * 6
    rows[4]["caption_key"] = rows[1]["caption_key"]  # but the same photo with the same caption does
    names, found, _ = verdicts(tmp_path, [rows[:3], rows[3:]])
    assert names == [[], [], [], [], ["duplicate"], []]
    assert found[4]["reasons"][0]["row"] == 1


def test_of_copies_in_other_parts_the_best_scored_is_kept_and_named(tmp_path):
    rows = [row(0), row(1, same_as=0, cosine=0.6), row(2), row(3, same_as=0, cosine=0.6, content=b"0" * 16)]
    names, found, _ = verdicts(tmp_path, [rows[:1], rows[1:3], rows[3:]])
    assert names == [["duplicate"], [], [], ["duplicate"]]
    assert [r["reasons"][0]["of"] for r in found if r["reasons"]] == ["a.tar: 1.jpg", "a.tar: 1.jpg"]
    assert "the same bytes" in found[0]["reasons"][0]["why"]
    assert "the same pixels" in found[3]["reasons"][0]["why"]


def test_a_copy_that_another_rule_removes_is_not_the_one_kept(tmp_path):
    rows = [row(0, cosine=0.9, words=1), row(1, same_as=0, cosine=0.3)]
    names, _, _ = verdicts(tmp_path, [rows])
    assert names == [["short", "duplicate"], []]


def test_pairs_and_keep(tmp_path):
    rows = [row(0), row(1, same_as=0), row(2, same_as=0, caption_key=row(0)["caption_key"])]
    assert verdicts(tmp_path, [rows], duplicates="photos")[0] == [[], ["duplicate"], ["duplicate"]]
    assert verdicts(tmp_path, [rows], duplicates="pairs")[0] == [[], [], ["duplicate"]]
    assert verdicts(tmp_path, [rows], duplicates="keep")[0] == [[], [], []]


def test_near_copies_are_found_across_parts(tmp_path):
    rows = [row(i) for i in range(300)]
    rows[250] = near_row(250, 3, cosine=0.4)
    rows[251] = near_row(251, 4, cosine=0.7)
    rows[252] = near_row(252, 5, bits=120)  # the embedding alone is not enough
    rows[253] = near_row(253, 6, noise=2.0)  # nor are the looks
    names, found, _ = verdicts(tmp_path, [rows[:100], rows[100:200], rows[200:]])
    assert {i: n for i, n in enumerate(names) if n} == {250: ["near"], 4: ["near"]}
    assert found[250]["reasons"][0]["of"] == "a.tar: 3.jpg"
    assert found[4]["reasons"][0]["of"] == "a.tar: 251.jpg"
    assert verdicts(tmp_path, [rows], near_duplicates=False)[0] == [[]] * 300
    assert verdicts(tmp_path, [rows], skip=("near",))[0] == [[]] * 300


def test_each_near_copy_that_goes_has_one_that_stays(tmp_path):
    """1 is near 0 and 2 is near 1, but not near 0: 1 goes, 2 stays."""
    rows = [row(0, cosine=0.9), near_row(1, 0, bits=60, cosine=0.8), row(2)]
    middle = np.unpackbits(np.frombuffer(rows[1]["look"], np.uint8))
    first = np.unpackbits(np.frombuffer(rows[0]["look"], np.uint8))
    far = middle.copy()
    far[np.flatnonzero(middle == first)[:60]] ^= 1
    rows[2] |= {"look": np.packbits(far).tobytes(), "embedding": rows[1]["embedding"], "cosine": 0.5}
    assert verdicts(tmp_path, [rows])[0] == [[], ["near"], []]


def test_a_copy_of_a_photo_that_gives_way_to_a_near_one_gives_way_to_that(tmp_path):
    rows = [row(0, cosine=0.9), near_row(1, 0, cosine=0.6)]
    other = {"photo": b"x" * 16, "image": "2.jpg", "embedding": None, "caption_key": b"y" * 16}
    rows.append(rows[1] | other | {"cosine": 0.5})
    names, found, _ = verdicts(tmp_path, [rows])
    assert names == [[], ["near"], ["near"]]
    assert [r["reasons"][0]["row"] for r in found[1:]] == [0, 0]


def test_photos_without_an_embedding_are_near_nothing(tmp_path):
    rows = [row(0, embedding=None), near_row(1, 0) | {"embedding": None}, row(2), near_row(3, 2, cosine=0.1)]
    assert verdicts(tmp_path, [rows])[0] == [[], [], [], ["near"]]
    assert verdicts(tmp_path, [rows[:2]])[0] == [[], []]


def test_little_memory_and_crowded_cells_give_the_same_verdicts(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(600):
        first = int(rng.integers(i)) if i and rng.random() < 0.3 else None
        if first is None:
            rows.append(row(i, cosine=float(rng.random())))
        elif rng.random() < 0.5:
            rows.append(row(i, same_as=first, cosine=float(rng.random())))
        else:
            rows.append(near_row(i, first, cosine=float(rng.random())))
    parts = [rows[:200], rows[200:350], rows[350:]]
    once = verdicts(tmp_path, parts)[1]
    assert sum(bool(r["reasons"]) for r in once) > 100
    monkeypatch.setattr(spill, "HELD", 4096)
    monkeypatch.setattr(near, "ROWS", 64)
    monkeypatch.setattr(near, "MOST", 500)
    assert verdicts(tmp_path, parts)[1] == once
    monkeypatch.setattr(near, "SMALL", 4)
    assert verdicts(tmp_path, parts)[1] == once
    monkeypatch.setattr(near, "MOST", 2)
    monkeypatch.setattr(near, "SMALL", 1)
    assert any("crowded" in note for note in verdicts(tmp_path, parts)[2].notes)


def test_the_table_of_thresholds_counts_what_each_would_keep(tmp_path):
    rows = [row(i, match=i / 10 + 0.05, cosine=i / 10) for i in range(10)]
    rows[9]["words"] = 1
    counts = verdicts(tmp_path, [rows], min_match=0.2)[2]
    assert counts.matches[0.5] == [5, 4]
    assert counts.shares[0.3][0] == pytest.approx(0.7, abs=1e-5)
    assert counts.shares[0.3][1:] == [pytest.approx(0.75), 2]
    assert (counts.scored, counts.clean, counts.kept) == (10, 9, 7)


def test_spilled_records_come_back_by_ranges(tmp_path, monkeypatch):
    monkeypatch.setattr(spill, "HELD", 64)
    dtype = np.dtype([("row", "i8"), ("n", "i8")])
    rows = np.random.default_rng(0).permutation(1000)
    records = np.zeros(1000, dtype)
    records["row"] = records["n"] = rows
    spilled = spill.Spill(tmp_path / "s", dtype, 1000)
    assert spilled.files > 100
    for start in range(0, 1000, 100):
        block = records[start : start + 100]
        spilled.by_range(block["row"], 1000, block)
    ranged = spill.Ranged(spilled, "row", 1000)
    found = [ranged.between(a, b)["row"].tolist() for a, b in ((0, 7), (7, 7), (7, 500), (500, 1000))]
    assert [row for rows in found for row in rows] == list(range(1000))
