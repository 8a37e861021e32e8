"""``cliplet df``: count document frequencies for CIDEr over a captions file and save them."""

import sys
from pathlib import Path

import click

from cliplet.cli import options


@click.command()
@click.argument("captions", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--end-token", help="Word to put after every caption, as in rewards that count it.")
@options.tokenizer
@click.option("--strict", is_flag=True, help="Exit with status 1 when a caption could not be counted.")
def df(captions: Path, output: Path, end_token: str | None, tokenizer: str, strict: bool) -> None:
    """Count in how many images of CAPTIONS each n-gram occurs and save that to OUTPUT, for CIDEr.

    CAPTIONS holds reference captions by image in any layout that `cliplet score` reads (JSON, JSON Lines, CSV, COCO,
    Karpathy, token file, ...), or is a .txt file with one caption a line, each taken for an image.
    Use the captions of the training split to score or reward captions of other images.
    """
    from cliplet.data.captions import read_references
    from cliplet.metrics.cider import DocumentFrequencies, small_corpus_caveat
    from cliplet.metrics.tokenizer.ptb import tokenize_many

    notes: list[str] = []
    by_image = [group for group in read_references(captions, notes, plain_lines=True).values() if group]
    words = iter(tokenize_many([caption for group in by_image for caption in group], tokenizer=tokenizer))
    end = [] if end_token is None else [end_token]
    references = [[[*next(words), *end] for _ in group] for group in by_image]
    frequencies = DocumentFrequencies.from_references(references, source=captions.name)
    frequencies.save(output)
    sizes = ", ".join(f"{size:,}" for size in frequencies.index.sizes())
    click.echo(
        f"{output}: document frequencies of {sizes} n-grams (n = 1 to 4) in {frequencies.documents:,} images"
        f" ({sum(map(len, references)):,} captions)"
    )
    for note in (*notes, small_corpus_caveat(frequencies.documents)):
        if note:
            click.echo(f"Note: {note}")
    if strict and notes:
        sys.exit(1)
