"""Tokenisers that a recipe asks for."""

import pytest

from cliplet.errors import InputError
from cliplet.export.inputs import compared_captions
from cliplet.training.distill.tokenizer import make_tokenizer, train_word_pieces
from tests.shared_data import shared_data

TOY = ["a dog runs", "A dog sleeps.", "two dogs run", "a runner jumps", "jumping dogs", "the dog's jumper"]


def test_words_are_kept_whole_and_rare_ones_split():
    tokenizer = train_word_pieces(TOY, 120)
    assert tokenizer.encode("A dog runs").tokens[:2] == ["[CLS]", "a"]
    assert "dog" in tokenizer.encode("the dog").tokens
    assert tokenizer.encode("jumped").tokens[1:-1] != ["[UNK]"]
    assert tokenizer.encode("☃").tokens == ["[CLS]", "[UNK]", "[SEP]"]
    assert tokenizer.token_to_id("[PAD]") == 0


def test_the_same_captions_give_the_same_file():
    assert train_word_pieces(TOY, 120).to_str() == train_word_pieces(iter(TOY), 120).to_str()
    assert train_word_pieces(TOY, 40).get_vocab_size() <= 40


def test_real_captions_are_covered():
    captions = compared_captions(shared_data("flickr8k/Flickr8k.token.txt"), 6000)
    tokenizer = train_word_pieces(captions[:5000], 3000)
    encodings = tokenizer.encode_batch(captions[5000:])
    tokens = [t for e in encodings for t in e.tokens]
    assert tokens.count("[UNK]") < 0.001 * len(tokens)
    words = sum(len(c.split()) for c in captions[5000:])
    assert len(tokens) - 2 * len(encodings) < 1.15 * words


def test_a_file_or_a_clear_error(tmp_path):
    path = tmp_path / "tokenizer.json"
    train_word_pieces(TOY, 120).save(str(path))
    assert make_tokenizer(str(path), (), 0).get_vocab_size() == train_word_pieces(TOY, 120).get_vocab_size()
    with pytest.raises(InputError, match="neither 'clip', 'train' nor a file"):
        make_tokenizer(str(tmp_path / "none.json"), (), 0)
    path.write_text("{}")
    with pytest.raises(InputError, match=r"not a tokenizer\.json"):
        make_tokenizer(str(path), (), 0)


def test_clip_vocabulary(torchvision):
    pytest.importorskip("open_clip")
    tokenizer = make_tokenizer("clip", (), 0)
    assert tokenizer.get_vocab_size() == 49408
    assert tokenizer.encode("a photo of a cat").ids == [49406, 320, 1125, 539, 320, 2368, 49407]
