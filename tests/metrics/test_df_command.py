import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cliplet.cli.df import df
from cliplet.metrics.cider import DocumentFrequencies, cider
from cliplet.metrics.tokenizer.ptb import tokenize_many

CAPTIONS = {"1.jpg": ["A dog runs.", "A brown dog"], "2.jpg": ["A cat sits.", "The cat"]}


def write(folder: Path, kind: str) -> Path:
    rows = [(image, caption) for image, captions in CAPTIONS.items() for caption in captions]
    path = folder / kind
    if kind == "coco.json":
        ids = {image: number for number, image in enumerate(CAPTIONS, start=1)}
        images = [{"id": number, "file_name": image} for image, number in ids.items()]
        annotations = [{"id": k, "image_id": ids[image], "caption": c} for k, (image, c) in enumerate(rows)]
        path.write_text(json.dumps({"images": images, "annotations": annotations}))
    elif kind == "map.json":
        path.write_text(json.dumps(CAPTIONS))
    elif kind == "rows.jsonl":
        path.write_text("\n".join(json.dumps({"image": image, "caption": c}) for image, c in rows))
    else:
        path.write_text("\n".join(f"{image}#{k}\t{c}" for k, (image, c) in enumerate(rows)))
    return path


@pytest.mark.parametrize("kind", ["coco.json", "map.json", "rows.jsonl", "flickr.token.txt"])
def test_every_layout_gives_the_same_frequencies(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "train.df"
    result = CliRunner().invoke(df, [str(write(tmp_path, kind)), str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "in 2 images (4 captions)" in result.output
    assert "only 2 images" in result.output
    loaded = DocumentFrequencies.load(out)
    assert (loaded.documents, loaded.source) == (2, kind)
    references = [tokenize_many(captions) for captions in CAPTIONS.values()]
    candidates = [["a", "dog"], ["a", "cat", "sits"]]
    assert cider(candidates, references, loaded).corpus == pytest.approx(cider(candidates, references).corpus)


def test_one_caption_a_line(tmp_path: Path) -> None:
    source = tmp_path / "captions.txt"
    source.write_text("A dog runs.\n\nA cat sits.\nA cat\n")
    CliRunner().invoke(
        df, [str(source), str(tmp_path / "x.df"), "--end-token", "<end>"], catch_exceptions=False
    )
    loaded = DocumentFrequencies.load(tmp_path / "x.df")
    assert loaded.documents == 3
    assert loaded.counts[0][loaded.index.words["<end>"]] == 3


def test_a_caption_that_is_no_string_is_left_out_and_named(tmp_path: Path) -> None:
    source = tmp_path / "bad.json"
    source.write_text(json.dumps({"1.jpg": ["A dog", 3]}))
    out = str(tmp_path / "x.df")
    done = CliRunner().invoke(df, [str(source), out], catch_exceptions=False)
    assert done.exit_code == 0
    assert "in 1 images (1 captions)" in done.output
    assert "1 captions left out" in done.output
    assert "line 1 column 2: the caption is not a string but 3" in done.output
    assert CliRunner().invoke(df, [str(source), out, "--strict"]).exit_code == 1
