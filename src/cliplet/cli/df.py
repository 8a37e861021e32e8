"""``cliplet df``: count document frequencies for CIDEr over a captions file and save them."""

from pathlib import Path

import click


@click.command()
@click.argument("captions", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--end-token", help="Word to put after every caption, as rewards do that count it.")
def df(captions: Path, output: Path, end_token: str | None) -> None:
    """Count in how many images of CAPTIONS each n-gram occurs and save that to OUTPUT, for CIDEr.

    CAPTIONS holds reference captions by image in any layout that `cliplet score` reads (JSON, JSONL, CSV, COCO,
    Karpathy, Flickr8k token file, ...), or is a .txt file with one caption a line, each taken for an image.
    Use the captions of the training split to score or reward captions of other images.
    """
    from cliplet.metrics.cider import DocumentFrequencies, small_corpus_caveat
    from cliplet.metrics.tokenizer.ptb import tokenize_many

    by_image = _captions_by_image(captions)
    words = iter(tokenize_many([caption for group in by_image for caption in group]))
    end = [] if end_token is None else [end_token]
    references = [[[*next(words), *end] for _ in group] for group in by_image]
    frequencies = DocumentFrequencies.from_references(references, source=captions.name)
    frequencies.save(output)
    sizes = ", ".join(f"{size:,}" for size in frequencies.index.sizes())
    click.echo(
        f"{output}: document frequencies of {sizes} n-grams (n = 1 to 4) in {frequencies.documents:,} images"
        f" ({sum(map(len, references)):,} captions)"
    )
    if caveat := small_corpus_caveat(frequencies.documents):
        click.echo(f"Note: {caveat}")


def _captions_by_image(path: Path) -> list[list[str]]:
    """The captions of each image, in the order of the file."""
    from cliplet.data.captions import read_references
    from cliplet.errors import InputError

    if path.suffix.lower() == ".txt":
        lines = [line.strip() for line in _lines(path) if line.strip()]
        if lines and not any("\t" in line for line in lines):
            return [[line] for line in lines]
    by_image = read_references(path)
    for image, captions in by_image.items():
        bad = next((caption for caption in captions if not isinstance(caption, str)), None)
        if bad is not None:
            raise InputError(f"{path}: image {image!r} has a caption that is not a string: {bad!r:.80}")
    return list(by_image.values())


def _lines(path: Path) -> list[str]:
    from cliplet.errors import InputError

    try:
        return path.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a UTF-8 text file ({error.reason} at byte {error.start})") from None
