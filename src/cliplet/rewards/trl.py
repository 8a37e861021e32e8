"""Rewards for TRL's trainers (GRPOTrainer, RLOOTrainer): their signature around any reward. TRL is not imported."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from cliplet.errors import InputError
from cliplet.rewards.base import Reward
from cliplet.rewards.mixed import MixedReward

Completion = str | Sequence[Mapping[str, Any]]


class TrlReward:
    """A reward function as TRL calls it: ``f(prompts, completions, **columns) -> list[float]``.

    Completions are strings or conversations (the last assistant message counts, its text parts joined). The image of
    each is read from a column of the training data set. Of a :class:`MixedReward`, each part's mean and running spread
    go through TRL's ``log_metric`` where it is given (``reward_parts/cider`` and so on): one function logs all.

    Args:
        reward: any Reward.
        image_column: the data set's column with the image ids that the reward knows.

    Example::

        trainer = GRPOTrainer(model, reward_funcs=TrlReward(build_reward(...)), train_dataset=prompts_with_image_id)
    """

    def __init__(self, reward: Reward, image_column: str = "image_id") -> None:
        self.reward, self.image_column = reward, image_column
        self.__name__ = reward.name  # what TRL logs it under

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
    ) -> list[float]:
        """The reward of each completion.

        Raises:
            InputError: the column is missing, a completion is neither text nor a conversation, and whatever the reward
                raises.
        """
        if self.image_column not in columns:
            given = [name for name, value in columns.items() if isinstance(value, (list, tuple))]
            raise InputError(
                f"the reward needs a column {self.image_column!r} with image ids in the training data set, which has"
                f" {', '.join(sorted(given)) or 'no further columns'}; name the right one with image_column="
            )
        images: list[Hashable] = list(columns[self.image_column])
        captions = [completion_text(completion) for completion in completions]
        if not isinstance(self.reward, MixedReward):
            return [float(value) for value in self.reward(images, captions)]
        found = self.reward.parts(images, captions)
        log: Callable[[str, float], None] | None = columns.get("log_metric")
        if log is not None:
            for name, values in found.values.items():
                log(f"reward_parts/{name}", float(values.mean()))
                log(f"reward_spreads/{name}", found.spreads[name])
        return [float(value) for value in found.total]


def completion_text(completion: Completion) -> str:
    """The text of a completion: itself, or the last assistant message of a conversation.

    Raises:
        InputError: it is neither.
    """
    if isinstance(completion, str):
        return completion.strip()
    try:
        spoken = [message for message in completion if message["role"] == "assistant"]
        content = spoken[-1].get("content") if spoken else ""
        if isinstance(content, str) or content is None:
            return (content or "").strip()
        return " ".join(part["text"] for part in content if part.get("type") == "text").strip()
    except (TypeError, KeyError, AttributeError):
        raise InputError(
            f"a completion must be a string or a list of messages with role and content, not {completion!r:.80}"
        ) from None
