"""Reward functions in TRL: its signature on its own, and its GRPO trainer with a tiny random model on the CPU."""

import warnings
from pathlib import Path
from typing import Any

import pytest

from cliplet.errors import InputError
from cliplet.rewards import CiderReward, LengthReward, MixedReward, RepetitionReward, TrlReward
from cliplet.rewards.trl import completion_text

REFERENCES = {
    "dog.jpg": ["a dog runs on grass", "the dog runs"],
    7: ["two men talk", "men talk in the street"],
}


def mixture() -> MixedReward:
    return MixedReward({"cider": (CiderReward(REFERENCES), 1.0), "repetition": (RepetitionReward(), 0.5)})


def spoken(text: Any) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


def test_plain_and_conversational_completions_get_the_rewards_of_their_captions() -> None:
    reward = LengthReward(REFERENCES)
    expected = list(reward(["dog.jpg", 7, 7], ["a dog", "two men talk", ""]))
    call = TrlReward(reward, image_column="photo")
    for completions in (
        [" a dog", "two men talk", ""],
        [spoken("a dog\n"), spoken([{"type": "text", "text": "two men talk"}]), spoken(None)],
    ):
        values = call(
            prompts=["describe"] * 3,
            completions=completions,
            completion_ids=[[1]] * 3,
            photo=["dog.jpg", 7, 7],
        )
        assert values == expected
        assert all(type(value) is float for value in values)


def test_a_conversation_counts_by_its_last_answer() -> None:
    talk = [*spoken("first"), {"role": "tool", "content": "x"}, *spoken("second")]
    assert completion_text(talk) == "second"
    assert completion_text([{"role": "user", "content": "hello"}]) == ""
    for broken in (5, [5], [{"content": "x"}], None):
        with pytest.raises(InputError, match="completion must be"):
            completion_text(broken)  # type: ignore[arg-type]


def test_the_parts_of_a_mixture_are_logged_and_its_total_returned() -> None:
    logged: dict[str, float] = {}
    images, captions = ["dog.jpg", 7], ["a dog runs runs runs", "two men"]
    values = TrlReward(mixture())(
        ["p", "p"], captions, image_id=images, trainer_state=None, log_metric=logged.__setitem__
    )
    expected = mixture().parts(images, captions)
    assert values == list(expected.total)
    assert logged == {
        "reward_parts/cider": expected.values["cider"].mean(),
        "reward_parts/repetition": expected.values["repetition"].mean(),
        "reward_spreads/cider": expected.spreads["cider"],
        "reward_spreads/repetition": expected.spreads["repetition"],
    }


def test_a_missing_column_is_named_with_those_that_are_there() -> None:
    with pytest.raises(InputError, match=r"column 'image_id'.*which has file_name; .*image_column="):
        TrlReward(mixture())(["p"], ["a dog"], file_name=["dog.jpg"], trainer_state=object())
    with pytest.raises(InputError, match=r"'cat\.jpg' has no references"):
        TrlReward(mixture())(["p"], ["a cat"], image_id=["cat.jpg"])


def tiny_language_model() -> tuple[Any, Any]:
    """A random GPT-2 of one layer and a tokeniser of a few words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    names = [
        "<pad>",
        "<end>",
        "<unk>",
        *sorted({w for c in REFERENCES.values() for t in c for w in t.split()}),
    ]
    words = Tokenizer(WordLevel({word: place for place, word in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", padding_side="left"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    config = GPT2Config(
        vocab_size=len(names), n_positions=32, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1
    )
    return GPT2LMHeadModel(config), tokenizer


@pytest.mark.usefixtures("torchvision")  # TRL imports Transformers' processors, which need it
@pytest.mark.parametrize("conversational", [False, True])
def test_grpo_trains_with_the_reward(tmp_path: Path, conversational: bool) -> None:
    trl, datasets = import_trl()
    import torch

    torch.manual_seed(0)
    model, tokenizer = tiny_language_model()
    prompt: Any = [{"role": "user", "content": "a dog"}] if conversational else "a dog"
    rows = [{"prompt": prompt, "image_id": image} for image in ("dog.jpg", "men.jpg")]
    reward = MixedReward(
        {
            "cider": (CiderReward({"dog.jpg": REFERENCES["dog.jpg"], "men.jpg": REFERENCES[7]}), 1.0),
            "length": (LengthReward(target=4), 0.5),
        }
    )
    before = [weight.detach().clone() for weight in model.parameters()]
    with warnings.catch_warnings():
        ignore_warnings_of_libraries()
        trainer = trl.GRPOTrainer(
            model=model,
            reward_funcs=TrlReward(reward),
            args=trl.GRPOConfig(
                output_dir=str(tmp_path),
                per_device_train_batch_size=4,
                num_generations=4,
                max_completion_length=6,
                max_steps=2,
                learning_rate=1e-2,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                bf16=False,
                disable_tqdm=True,
            ),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        trainer.train()
    steps = [row for row in trainer.state.log_history if "reward" in row]
    assert len(steps) == 2
    assert all(
        {"reward_parts/cider", "reward_parts/length", "reward_spreads/cider"} <= set(row) for row in steps
    )
    assert "rewards/mixture/mean" in steps[0]
    assert reward.state_dict()["cider"]["seen"] == 8
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def import_trl() -> tuple[Any, Any]:
    """TRL and datasets; skips the calling test where they are not installed."""
    with warnings.catch_warnings():
        ignore_warnings_of_libraries()
        trl = pytest.importorskip("trl", reason="TRL is not installed: pip install trl")
        datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install datasets")
        trl.GRPOTrainer  # noqa: B018  imported lazily
    return trl, datasets


def ignore_warnings_of_libraries() -> None:
    """What TRL and its dependencies warn of on their own account; cliplet's own warnings stay errors."""
    for library in ("trl", "transformers", "accelerate", "datasets", "torch"):
        warnings.filterwarnings("ignore", module=rf"{library}(\.|$)")
