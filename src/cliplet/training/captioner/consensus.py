"""How well each training caption agrees with its photo's other captions, as its weight in cross-entropy."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cliplet.metrics.cider import DocumentFrequencies
from cliplet.rewards.cider import CiderReward
from cliplet.rewards.references import References

LEAST = 0.02
"""Added to each CIDEr-D (0 to 10), so that a caption unlike all others still counts a little."""


def consensus_weights(captions: Sequence[Sequence[str]], power: float) -> list[NDArray[np.float32]]:
    """The weight of each caption: its CIDEr-D against the photo's other captions, to a power, over the photo's mean.

    Maximum likelihood spends most of its loss on captions that only one person would write; weights by consensus move
    it to what several wrote, which is what CIDEr rewards. Source: Phan, Henter, Miyao, Satoh, "Consensus-based sequence
    training for video captioning", arXiv 1712.09532 (weighted by CIDEr-D as it is; here over the photo's mean, so that
    each photo counts the same).

    Args:
        captions: plain captions of each photo; document frequencies are counted over them.
        power: 0 gives weights of 1; 1 is in proportion to CIDEr-D.

    Returns:
        For each photo float32 ``[captions]`` of mean 1; captions without another one weigh 1.
    """
    words = [[caption.split() for caption in group] for group in captions]
    frequencies = DocumentFrequencies.from_references(words)
    scores = [np.zeros(len(group)) for group in words]
    for position in range(max(map(len, words))):
        photos = [i for i, group in enumerate(words) if position < len(group) > 1]
        if not photos:
            continue
        others: References = {i: words[i][:position] + words[i][position + 1 :] for i in photos}
        found = CiderReward(others, frequencies).of_words(photos, [words[i][position] for i in photos])
        for i, value in zip(photos, found, strict=True):
            scores[i][position] = value
    raised = [(group + LEAST) ** power for group in scores]
    return [(group / group.mean()).astype(np.float32) for group in raised]
