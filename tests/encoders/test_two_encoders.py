"""A model of timm and a folder of sentence-transformers, which never met, as a dual encoder."""

import json

import numpy as np
import pytest

import cliplet
from cliplet.encoders.aligned import align, load_sides
from cliplet.errors import InputError, ModelError
from cliplet.models.compat import prepare_torchvision
from tests.encoders.test_aligned import photos_and_captions

torch = pytest.importorskip("torch")
prepare_torchvision()
pytest.importorskip("timm")
pytest.importorskip("transformers")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "dog", "cat", "man", "woman", "red", "blue", "green", "black",
         "white", "runs", "sits", "beach"]  # fmt: skip


def sentence_folder(folder, pooling="mean", dense=False, prefix=""):
    """A tiny BERT in the layout of sentence-transformers."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    folder.mkdir(parents=True)
    config = BertConfig(vocab_size=len(WORDS), hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=20)  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        "[CLS] $0 [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    kinds += [("2_Dense", "Dense")] if dense else []
    kinds += [("3_Normalize", "Normalize")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 10, "do_lower_case": true}')
    prompts = {"prompts": {"query": prefix}, "default_prompt_name": "query" if prefix else None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    (folder / "1_Pooling").mkdir()
    content = {"word_embedding_dimension": 24, "pooling_mode": pooling}
    if pooling == "mean":  # as older folders say it
        content = {"word_embedding_dimension": 24, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(content))
    if dense:
        (folder / "2_Dense").mkdir()
        settings = {"in_features": 24, "out_features": 6, "bias": True}
        settings["activation_function"] = "torch.nn.modules.activation.Tanh"
        (folder / "2_Dense" / "config.json").write_text(json.dumps(settings))
        save_file(
            {"linear.weight": torch.randn(6, 24), "linear.bias": torch.zeros(6)},
            folder / "2_Dense" / "model.safetensors",
        )
    return folder


@pytest.fixture(scope="module")
def image_encoder():
    import timm
    from timm.data import resolve_model_data_config

    from cliplet.encoders.timm import TimmEncoder

    torch.manual_seed(0)
    model = timm.create_model("test_resnet", pretrained=False, num_classes=0)
    config = {**resolve_model_data_config(model), "input_size": (3, 64, 64)}
    return TimmEncoder(model, "timm:test_resnet", config)


@pytest.mark.parametrize(
    "pooling", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
)
def test_a_sentence_encoder_is_what_its_library_gives(tmp_path, pooling):
    library = pytest.importorskip("sentence_transformers")
    folder = sentence_folder(tmp_path / "st", pooling, dense=pooling in ("mean", "max"))
    texts = ["dog", "red cat runs", "a woman sits beach " * 8]
    ours = cliplet.load(f"st:{folder}").encode_texts(texts)
    theirs = library.SentenceTransformer(str(folder), device="cpu").encode(texts)
    np.testing.assert_allclose(ours, theirs / np.linalg.norm(theirs, axis=1, keepdims=True), atol=1e-5)


def test_they_become_one_model_folder(tmp_path, image_encoder):
    from cliplet.export import export_aligned

    photos, captions = photos_and_captions(24)
    texts = cliplet.load(f"st:{sentence_folder(tmp_path / 'st', dense=True, prefix='query: ')}")
    aligned = align(image_encoder, photos, captions, text_encoder=texts)
    assert aligned.card.text.prompt_prefix == "query: "
    assert aligned.card.text.context_length == 10
    export_aligned(aligned, tmp_path / "dual")
    loaded = cliplet.load(tmp_path / "dual")
    np.testing.assert_allclose(loaded.encode_images(photos), aligned.encode_images(photos), atol=1e-5)
    np.testing.assert_allclose(loaded.encode_texts(captions), aligned.encode_texts(captions), atol=1e-5)
    assert loaded.card.image.size == 64
    result = cliplet.Scorer(loaded).score(photos[:2], captions[:2])
    assert result.failures == [None, None]
    assert result.a_clip_score is not None


def test_a_half_refuses_the_other_side(tmp_path, image_encoder):
    texts = cliplet.load(f"st:{sentence_folder(tmp_path / 'st')}")
    assert (texts.sees, texts.reads, image_encoder.sees, image_encoder.reads) == (False, True, True, False)
    with pytest.raises(InputError, match="photos alone"):
        image_encoder.encode_texts(["dog"])
    with pytest.raises(InputError, match="texts alone"):
        texts.encode_images([np.zeros((8, 8, 3), np.uint8)])
    with pytest.raises(InputError, match="embeds no photos"):
        align(texts, [1], ["dog"])


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ModelError, match="no such folder"):
        cliplet.load("st:nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no modules\.json"):
        cliplet.load(f"st:{tmp_path / 'empty'}")
    folder = sentence_folder(tmp_path / "st")
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "magic"}')
    with pytest.raises(ModelError, match="pooling 'magic'"):
        cliplet.load(f"st:{folder}")
    with pytest.raises(ModelError, match="no model 'resnet1'"):
        cliplet.load("timm:resnet1")
    with pytest.raises(ModelError, match="no such file of weights"):
        cliplet.load("timm:resnet18/nowhere.safetensors")
    with pytest.raises(ModelError, match="timm:resnet18"):
        load_sides("st:nowhere+st:nowhere") if False else cliplet.load(
            "timm:resnet18/" + str(folder / "config.json")
        )


def test_weights_of_a_file_and_names_of_both(tmp_path):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(3)
    model = timm.create_model("test_resnet", pretrained=False)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    folder = sentence_folder(tmp_path / "st")
    images, texts = load_sides(f"timm:test_resnet/{tmp_path / 'weights.safetensors'}+st:{folder}")
    stored = images.model.state_dict()
    assert all(torch.equal(stored[key], value) for key, value in model.state_dict().items() if key in stored)
    assert texts.card.embedding_dim == 24
