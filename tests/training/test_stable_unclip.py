"""Stable unCLIP as the decoder of un2CLIP: a tiny random one in diffusers' layout, conditioned as by its pipeline."""

from pathlib import Path

import pytest
import torch

from cliplet.errors import InputError, MissingExtraError, ModelError
from tests.training.test_un2clip import data as data
from tests.training.test_un2clip import lines, recipe, weights

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def pipeline():
    pytest.importorskip("diffusers", reason="the extra cliplet[diffusion] is not installed")
    try:
        from diffusers import AutoencoderKL, DDPMScheduler, StableUnCLIPImg2ImgPipeline, UNet2DConditionModel
        from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
            StableUnCLIPImageNormalizer,
        )
        from transformers import (
            CLIPImageProcessor,
            CLIPTextConfig,
            CLIPTextModel,
            CLIPTokenizer,
            CLIPVisionConfig,
            CLIPVisionModelWithProjection,
        )
    except RuntimeError as error:  # such as a torchvision of another PyTorch
        pytest.skip(f"diffusers cannot be imported: {error}")

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    vocabulary = ["<|startoftext|>", "<|endoftext|>", "a", "b", "a</w>", "b</w>"]
    normalizer = StableUnCLIPImageNormalizer(16)
    with torch.no_grad():
        normalizer.mean.normal_()
        normalizer.std.uniform_(0.5, 2)
    made = StableUnCLIPImg2ImgPipeline(
        feature_extractor=CLIPImageProcessor(),
        image_encoder=CLIPVisionModelWithProjection(
            CLIPVisionConfig(**shape, image_size=16, patch_size=8, projection_dim=16)
        ),
        image_normalizer=normalizer,
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=CLIPTokenizer({t: i for i, t in enumerate(vocabulary)}, [], model_max_length=8),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(**shape, vocab_size=6, max_position_embeddings=8, bos_token_id=0, eos_token_id=1)
        ),
        unet=UNet2DConditionModel(
            sample_size=8, layers_per_block=1, block_out_channels=(16, 16), norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16, attention_head_dim=2, class_embed_type="projection",
            projection_class_embeddings_input_dim=32,
        ),
        scheduler=DDPMScheduler(prediction_type="v_prediction", beta_schedule="scaled_linear"),
        vae=AutoencoderKL(
            block_out_channels=(8, 8), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4,
        ),
    )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def folder(pipeline, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unclip") / "tiny"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def decoder(folder):
    from cliplet.models.stable_unclip import StableUnclip

    return StableUnclip(folder, torch.device("cpu"))


def test_the_condition_is_the_pipelines(pipeline, decoder):
    torch.manual_seed(1)
    embeddings, noise = 5 * torch.randn(3, 16), torch.randn(3, 16)
    theirs = pipeline.noise_image_embeddings(embeddings, 0, noise=noise)
    assert torch.allclose(decoder.labels(embeddings, noise), theirs, atol=1e-6)
    assert torch.allclose(decoder.labels(embeddings), theirs, atol=0.1)
    prompt, _ = pipeline.encode_prompt("", torch.device("cpu"), 1, do_classifier_free_guidance=False)
    assert torch.allclose(decoder.empty, prompt, atol=1e-6)
    assert decoder.size == 16


def test_the_loss_is_the_velocitys_and_reaches_the_embedding_alone(decoder):
    torch.manual_seed(2)
    clean, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    embeddings, time = torch.randn(3, 16, requires_grad=True), torch.tensor([0.0, 0.5, 0.9999])
    loss = decoder.loss(clean, embeddings, time, noise)
    loss.backward()
    assert embeddings.grad.abs().sum(dim=1).min() > 0
    assert not any(
        p.requires_grad for m in (decoder.unet, decoder.vae, decoder.normalizer) for p in m.parameters()
    )
    kept = decoder.scheduler.alphas_cumprod[[0, 500, 999]].sqrt()[:, None, None, None]
    lost = (1 - decoder.scheduler.alphas_cumprod[[0, 500, 999]]).sqrt()[:, None, None, None]
    found = decoder.unet(
        kept * clean + lost * noise, torch.tensor([0, 500, 999]), encoder_hidden_states=decoder.empty.expand(3, -1, -1),
        class_labels=decoder.labels(embeddings),
    ).sample  # fmt: skip
    assert loss.item() == pytest.approx(
        (found - (kept * noise - lost * clean)).square().mean().item(), rel=1e-4
    )
    with pytest.raises(InputError, match="takes image embeddings of 16 dimensions, the model gives 8"):
        decoder.loss(clean, torch.randn(3, 8), time, noise)


def test_it_takes_the_place_of_the_small_decoder(folder, data, tmp_path):
    changes = [
        f"objectives.un2clip.decoder=diffusers:{folder}",
        "objectives.un2clip.size=0",
        "student_stage.epochs=1",
    ]
    from cliplet.training.dclip.run import dclip

    dclip(recipe(data, tmp_path / "run", *changes))
    log = lines(tmp_path / "run" / "un2clip-seed0" / "log.jsonl", "train")
    assert log[-1]["un2clip.moved"] > 0
    assert not list((tmp_path / "features").glob("un2clip-decoder-*"))  # nothing is trained
    assert all(name.startswith("image.") for name in weights(tmp_path / "run"))


def test_what_is_no_stable_unclip_is_refused(folder, tmp_path, monkeypatch):
    from cliplet.models.stable_unclip import StableUnclip

    with pytest.raises(ModelError, match="has no unet, vae, .*in diffusers' layout"):
        StableUnclip(tmp_path, torch.device("cpu"))
    import shutil

    import diffusers

    other = tmp_path / "other"
    shutil.copytree(folder, other)
    unet = diffusers.UNet2DConditionModel.from_pretrained(str(folder), subfolder="unet")
    config = {**unet.config, "class_embed_type": None, "projection_class_embeddings_input_dim": None}
    diffusers.UNet2DConditionModel.from_config(config).save_pretrained(other / "unet")
    with pytest.raises(ModelError, match="does not take image embeddings of 16 dimensions"):
        StableUnclip(other, torch.device("cpu"))
    (other / "vae" / "config.json").unlink()
    with pytest.raises(ModelError, match="vae cannot be read"):
        StableUnclip(other, torch.device("cpu"))
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(MissingExtraError, match=r"cliplet\[diffusion\]"):
        StableUnclip(folder, torch.device("cpu"))
