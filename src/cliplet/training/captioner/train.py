"""Training of a captioner from a recipe: vocabulary, grids, stages with exact resume, model folder."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cliplet.captioner.decoding import Limits
from cliplet.encoders.base import Encoder
from cliplet.encoders.registry import load
from cliplet.errors import InputError
from cliplet.files import whole
from cliplet.models.captioner import CaptionDecoder, load_decoder, save_decoder
from cliplet.models.config import to_dict
from cliplet.models.dual import fill
from cliplet.models.tensors import write_tensors
from cliplet.rewards import MixedReward, build_reward, sees_photos
from cliplet.training.captioner.config import CaptionRecipe, CaptionStage
from cliplet.training.captioner.consensus import consensus_weights
from cliplet.training.captioner.data import CaptionSplit, Reader, cache_folder, stage_data
from cliplet.training.captioner.evaluate import DevCheck, photo_embeddings
from cliplet.training.captioner.export import export_captioner
from cliplet.training.captioner.features import kept_grids, kept_pixels
from cliplet.training.captioner.shape import CollapseWatch
from cliplet.training.captioner.student import CaptionModel, CaptionStudent
from cliplet.training.captioner.towers import GridTower
from cliplet.training.captioner.vocabulary import END, START, open_vocabulary, train_vocabulary
from cliplet.training.computed import computed
from cliplet.training.fit import fit, make_accelerator
from cliplet.training.loop import Intervals, Part
from cliplet.training.pairs import epoch_batches, fingerprint, read_pairs
from cliplet.training.run_folder import claim_folder

END_WORD = "</s>"
"""Word that CIDEr and BLEU rewards see at the end of captions, so that stopping properly earns n-grams."""
TOWER_WEIGHTS = "tower.safetensors"


def train_captioner(recipe: CaptionRecipe, restart: bool = False) -> Path:
    """Run a recipe to its end, from where it stopped if it was interrupted; returns the model folder.

    Args:
        recipe: the recipe.
        restart: remove an earlier run in ``recipe.out`` first.

    Raises:
        InputError: data, a setting, or a folder with another run.
    """
    run = CaptionRun(recipe, restart)
    run.train()
    return run.finish()


class CaptionRun:
    """A captioner's training under way; :func:`train_captioner` is its short form.

    In ``out``: ``recipe.json``, ``tokenizer.json``, ``log.jsonl``, ``checkpoint/``, for each stage ``N-NAME/best``
    and ``N-NAME/last`` (the decoder's weights, and the tower's if it learns), and ``model``, the folder that runs
    without PyTorch.
    """

    def __init__(self, recipe: CaptionRecipe, restart: bool = False) -> None:
        self.recipe, self.out = recipe, Path(recipe.out)
        free = ("out", "cpu", "cache", "decode", "export")
        claim_folder(self.out, recipe, free, restart)
        self.cache = cache_folder(recipe.cache, self.out)
        self.accelerator = make_accelerator(recipe.cpu, recipe.precision)
        self.train_split = CaptionSplit.of(read_pairs(recipe.train))
        self.dev_split = CaptionSplit.of(read_pairs(recipe.dev)).first(recipe.dev_photos)
        self.tokenizer = self._vocabulary()
        start, end = (self.tokenizer.token_to_id(token) for token in (START, END))
        self.limits = Limits(start, end, recipe.model.max_tokens)
        self.tokens = [
            [e.ids for e in self.tokenizer.encode_batch(captions)] for captions in self.train_split.captions
        ]
        for stage in recipe.stages:
            epoch_batches(len(self.tokens), stage.batch_size, 0, 0)  # raises where there are too few photos
        torch.manual_seed(recipe.seed)
        self.tower = GridTower(recipe.model.grid)
        if any(stage.finetune for stage in recipe.stages) and not self.tower.can_learn:
            raise InputError(
                f"grid.towers {recipe.model.grid.towers}: one has no PyTorch weights to finetune"
            )
        cells, channels = self.tower.shape()
        size = recipe.model.vocab_size or self.tokenizer.get_vocab_size()
        self.config = dataclasses.replace(recipe.model, vocab_size=size)
        torch.manual_seed(recipe.seed)  # the decoder's start must not depend on the tower
        self.decoder = CaptionDecoder(self.config, cells, channels)
        if recipe.start:
            self.decoder.load_state_dict(load_decoder(recipe.start).state_dict())
        self._encoder: Encoder | None = None

    # ------------------------------------------------------------------ training
    def train(self) -> None:
        """All stages that are not done yet."""
        parts = [partial(self.part, index) for index in range(len(self.recipe.stages))]
        every = Intervals(save_every=self.recipe.save_every, log_every=self.recipe.log_every)
        fit(self.accelerator, self.out, parts, every, self.recipe.tensorboard)

    def part(self, index: int) -> Part:
        """A stage, which starts from the best weights of the one before."""
        stage = self.recipe.stages[index]
        if index:
            self._load(self._folder(index - 1) / "best")
        model = CaptionModel(self.decoder, self.tower if stage.finetune else None).to(self.accelerator.device)
        before = None
        if stage.kind == "self_critical" and stage.kl:
            before = CaptionDecoder(self.config, self.decoder.cells, self.decoder.channels)
            before.load_state_dict(self.decoder.state_dict())
            before.to(self.accelerator.device)
        names = self.train_split.names
        task = CaptionStudent(model, self.limits, names, self.say, self._reward(stage), before)
        weights = None
        if stage.kind == "cross_entropy" and stage.consensus:
            weights = consensus_weights(self.train_split.captions, stage.consensus)
        order = self.recipe.seed + index  # a second stage of a kind sees another order and other samples
        read = self._reader(self.train_split, stage.finetune, True)
        data = stage_data(stage, self.tokens, read, self.limits, order, weights)
        read = self._reader(self.dev_split, stage.finetune, False)
        check = DevCheck(self.dev_split, read, self.limits, self.say, self._measured(stage))
        # whatever was drawn before, such as by computing grids that another run finds computed
        torch.manual_seed(1000 * self.recipe.seed + index)
        return Part(
            task, stage, data, partial(self._save, model, self._folder(index)), partial(check, model),
            measure_start=bool(index or self.recipe.start),
            watch=CollapseWatch().observe if stage.kind == "self_critical" else None,
        )  # fmt: skip

    def _save(self, model: CaptionModel, folder: Path, best: bool, values: dict[str, float]) -> None:
        for name in ("last", "best") if best else ("last",):
            save_decoder(model.decoder, folder / name)
            if model.tower is not None:
                with whole(folder / name / TOWER_WEIGHTS) as part:
                    write_tensors(model.tower.state_dict(), part)

    def _load(self, folder: Path) -> None:
        self.decoder.load_state_dict(load_decoder(folder).state_dict())
        if (folder / TOWER_WEIGHTS).is_file():
            fill(self.tower, folder / TOWER_WEIGHTS)

    def finish(self) -> Path:
        """Write the model folder from the last stage's best weights."""
        last = self._folder(len(self.recipe.stages) - 1)
        self._load(last / "best")
        out = self.out / "model"
        training = {"recipe": to_dict(self.recipe), "photos": len(self.train_split.names)}
        export_captioner(
            self.tower, self.decoder, self.tokenizer, out, self.recipe.name, self.recipe.export,
            self.recipe.decode, description=self.recipe.description, license=self.recipe.license, training=training,
        )  # fmt: skip
        return out

    # ------------------------------------------------------------------ parts
    def say(self, captions: Any) -> list[str]:
        """Tokens -> captions."""
        found = self.tokenizer.decode_batch([list(c) for c in captions], skip_special_tokens=True)
        return [" ".join(text.split()) for text in found]

    def _folder(self, index: int) -> Path:
        return self.out / f"{index}-{self.recipe.stages[index].name}"

    def _vocabulary(self) -> Any:
        path = self.out / "tokenizer.json"
        if not path.exists():
            if self.recipe.tokenizer == "train":
                flat = [caption for group in self.train_split.captions for caption in group]
                tokenizer = train_vocabulary(flat, self.recipe.tokenizer_size)
            else:
                tokenizer = open_vocabulary(self.recipe.tokenizer)
            with whole(path) as part:
                tokenizer.save(str(part))
        return open_vocabulary(str(path))

    def _reader(self, split: CaptionSplit, pixels: bool, training: bool) -> Reader:
        grid = self.recipe.model.grid
        if pixels:
            return Reader([kept_pixels(split.photos, grid, self.cache)], training and self.recipe.views > 1)
        views = self.recipe.views if training else 1
        own = split.captions if training else None
        return Reader(kept_grids(self.tower, split.photos, self.cache, views, own))

    def _embeddings(self, split: CaptionSplit) -> NDArray[np.float32]:
        """The photos by the reward's model, computed once."""
        self._encoder = self._encoder or load(self.recipe.reward_model or None)
        encoder = self._encoder
        name = f"photos-{fingerprint(split.photos)}-{encoder.card.fingerprint}.npy"
        return computed(
            self.cache / name, len(split.photos), lambda a, b: photo_embeddings(encoder, split.photos[a:b]), 16,
            what="photos, by the reward's model",
        )  # fmt: skip

    def _build(self, weights: dict[str, float], split: CaptionSplit, normalise: bool) -> MixedReward:
        return build_reward(
            weights,
            dict(zip(split.names, split.captions, strict=True)),
            encoder=self._encoder,
            image_embeddings=self._embeddings(split) if sees_photos(weights) else None,
            normalise=normalise,
            end_token=END_WORD,
        )

    def _reward(self, stage: CaptionStage) -> MixedReward | None:
        if stage.kind != "self_critical":
            return None
        weights = {part.name: part.weight for part in stage.rewards}
        if sees_photos(weights):
            self._embeddings(self.train_split)  # loads the encoder too
        return self._build(weights, self.train_split, stage.normalise)

    def _measured(self, stage: CaptionStage) -> MixedReward | None:
        """The rewards that see the photo, measured on dev where a stage uses any reward."""
        if not sees_photos(part.name for s in self.recipe.stages for part in s.rewards):
            return None
        self._embeddings(self.dev_split)
        return self._build({"lclipscore": 1.0}, self.dev_split, False)
