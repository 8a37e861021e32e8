"""Files and folders that appear whole or not at all."""

import pytest

from cliplet.files import whole


def test_a_file_or_folder_takes_its_name_when_it_is_whole(tmp_path):
    with whole(tmp_path / "a.txt") as part:
        part.write_text("new")
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_text() == "new"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").write_text("")
    with whole(tmp_path / "folder") as part:
        part.mkdir()
        (part / "new").write_text("")
    assert [f.name for f in (tmp_path / "folder").iterdir()] == ["new"]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.txt", "folder"]


def test_an_interrupted_one_leaves_what_was_there(tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def half():
        with whole(tmp_path / "a.txt") as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert (tmp_path / "a.txt").read_text() == "old"
    with whole(tmp_path / "a.txt") as part:
        assert not part.exists()  # what the other has left is gone
        part.write_text("new")
    assert (tmp_path / "a.txt").read_text() == "new"
