"""Rewards for training captioners: numbers that say how good a sampled caption is, many captions a second.

A reward is called with image ids and captions and gives one number a caption (:class:`Reward`). `build_reward` puts a
weighted mixture together by name; `TrlReward` gives it the signature of TRL's trainers. Nothing here imports PyTorch.
"""

from cliplet.rewards.base import Reward
from cliplet.rewards.bleu import BleuReward
from cliplet.rewards.build import REWARDS, RewardSpec, build_reward, find_reward, sees_photos
from cliplet.rewards.cider import CiderReward
from cliplet.rewards.clip import LClipScoreReward, RefLClipScoreReward
from cliplet.rewards.embeddings import CaptionEmbeddings, ImageEmbeddings
from cliplet.rewards.fluency import FluencyReward
from cliplet.rewards.meteor import MeteorReward
from cliplet.rewards.metric import MetricReward
from cliplet.rewards.mixed import MixedReward, RewardParts
from cliplet.rewards.shape import LengthReward, RepetitionReward
from cliplet.rewards.trl import TrlReward

__all__ = [
    "REWARDS",
    "BleuReward",
    "CaptionEmbeddings",
    "CiderReward",
    "FluencyReward",
    "ImageEmbeddings",
    "LClipScoreReward",
    "LengthReward",
    "MeteorReward",
    "MetricReward",
    "MixedReward",
    "RefLClipScoreReward",
    "RepetitionReward",
    "Reward",
    "RewardParts",
    "RewardSpec",
    "TrlReward",
    "build_reward",
    "find_reward",
    "sees_photos",
]
