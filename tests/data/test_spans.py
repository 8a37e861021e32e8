"""Noun phrases of captions."""

import re

import pytest

from cliplet.data.spans import noun_phrases
from tests.shared_data import shared_data

CASES = {
    "A brown dog jumps over the wooden fence .": ["A brown dog", "the wooden fence"],
    "Two children in red shirts are playing with a large ball .": ["Two children", "red shirts", "a large ball"],
    "A black and white dog is running through the snow": ["A black and white dog", "the snow"],
    "a person 's hand": ["a person 's hand"],
    "Man walking through large puddle of water": ["Man", "large puddle", "water"],
    "Three girls play in the sand .": ["Three girls", "the sand"],
    "A young boy kicks a red and white soccer ball on a grassy field": [
        "A young boy", "a red and white soccer ball", "a grassy field"
    ],
    "A snowboarder in a red jacket slides down a snowy mountain .": [
        "A snowboarder", "a red jacket", "a snowy mountain"
    ],
    "A man holding a flag stands near a building": ["A man", "a flag", "a building"],
    "His friend wears sunglasses , jeans and a hat": ["His friend", "sunglasses", "jeans", "a hat"],
    "She is running": [],
    "": [],
    "!!! ...": [],
}  # fmt: skip


@pytest.mark.parametrize("caption", list(CASES))
def test_phrases_by_hand(caption):
    assert [s.text for s in noun_phrases(caption)] == CASES[caption]


def test_spans_point_into_the_caption_and_do_not_overlap():
    text = shared_data("flickr8k/Flickr8k.token.txt").read_text(encoding="utf-8").splitlines()
    captions = [line.split("\t")[1] for line in text[::40]]
    empty = 0
    for caption in captions:
        spans = noun_phrases(caption)
        empty += not spans
        end = 0
        for span in spans:
            assert caption[span.start : span.end] == span.text
            assert span.start >= end
            end = span.end
            assert not re.match(r"(is|are|in|on|with|and|the)$", span.text, re.IGNORECASE)
    assert empty / len(captions) < 0.01
    mean = sum(len(noun_phrases(c)) for c in captions) / len(captions)
    assert 2 < mean < 4
