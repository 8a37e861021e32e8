"""The student in training: towers, the map to the teacher's width, the logit scale, and the stage's losses."""

import math

import torch
from torch import Tensor, nn

from cliplet.errors import InputError
from cliplet.models.dual import DualModel
from cliplet.training import losses
from cliplet.training.config import DistillStage, Schedule
from cliplet.training.task import Task

MAX_LOGIT_SCALE = 100.0


class Student(Task):
    """A dual model that computes its own distillation loss, so that one call is one step on any number of devices.

    Args:
        model: the towers.
        teacher_dim: width of the teacher's embeddings. Where it differs from the student's, the losses that compare
            embeddings do so through one linear map, which both towers share and which is dropped after training.

    ``frozen`` names the model's parameters that never learn.
    """

    def __init__(self, model: DualModel, teacher_dim: int) -> None:
        super().__init__()
        self.model = model
        same = model.embedding_dim == teacher_dim
        self.map: nn.Module = (
            nn.Identity() if same else nn.Linear(model.embedding_dim, teacher_dim, bias=False)
        )
        self.same_width = same
        self.logit_scale = nn.Parameter(torch.tensor(math.log(14.0)))
        self.frozen: frozenset[str] = frozenset()
        self.stage = DistillStage()

    def begin(self, stage: Schedule) -> None:
        """Prepare for a stage: which parameters learn, where the logit scale starts.

        Raises:
            InputError: the stage compares a student's with a teacher's embedding of another width.
        """
        assert isinstance(stage, DistillStage)
        alone = len(stage.towers) == 1 and (stage.losses.pairs)
        if not self.same_width and alone:
            raise InputError(
                f"stage {stage.name} trains one tower with a loss between both, so the teacher stands in for the "
                f"other; that needs the teacher's width: set model.image.embedding_dim and "
                f"model.text.embedding_dim to it"
            )
        self.stage = stage
        w = stage.losses
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name.split(".")[0] in stage.towers and name not in self.frozen)
        mapped = bool(w.l1 or w.cosine or w.feature_mse or w.interactive)
        self.map.requires_grad_(mapped)
        self.logit_scale.requires_grad_(w.scaled)
        with torch.no_grad():
            self.logit_scale.fill_(math.log(stage.logit_scale))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """All losses of the stage.

        Args:
            batch: ``pixels`` ``[B, 3, H, W]`` where the image tower learns; ``input_ids`` and ``attention_mask``
                ``[B, T]`` where the text tower does; ``teacher_image`` and ``teacher_text`` ``[B, d_t]`` as far as
                the losses need them.

        Returns:
            ``loss``, the weighted sum, and each loss by name, unweighted.
        """
        towers = self.stage.towers
        image = self.model.encode_image(batch["pixels"]) if "image" in towers else None
        text = None
        if "text" in towers:
            text = self.model.encode_text(batch["input_ids"], batch["attention_mask"])
        with torch.autocast(self.logit_scale.device.type, enabled=False):
            terms = self._terms(
                None if image is None else image.float(), None if text is None else text.float(), batch
            )
        weights = vars(self.stage.losses)
        total = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        return {"loss": total, **{name: value.detach() for name, value in terms.items()}}

    def _terms(
        self, image: Tensor | None, text: Tensor | None, batch: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Each loss that has a weight."""
        w = self.stage.losses
        terms: dict[str, Tensor] = {}
        sides = [
            (x, batch[f"teacher_{name}"]) for x, name in ((image, "image"), (text, "text")) if x is not None
        ]
        mapped = [(self.map(x), t) for x, t in sides]
        if w.l1:
            terms["l1"] = torch.stack([losses.l1(s, t) for s, t in mapped]).sum()
        if w.cosine:
            terms["cosine"] = torch.stack([losses.cosine(s, t) for s, t in mapped]).sum()
        if w.feature_mse:
            mse = losses.FeatureMSE(1, 1)  # the widths are equal here
            terms["feature_mse"] = torch.stack([mse(s, t) for s, t in mapped]).sum()
        if w.pairs:
            terms.update(self._pair_terms(image, text, batch))
        return terms

    def _pair_terms(
        self, image: Tensor | None, text: Tensor | None, batch: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The losses between both towers; the teacher stands in for one that does not learn."""
        w = self.stage.losses
        t_image, t_text = batch["teacher_image"], batch["teacher_text"]
        s_image = t_image if image is None else image
        s_text = t_text if text is None else text
        scale = self.logit_scale.exp().clamp_max(MAX_LOGIT_SCALE)
        terms = {}
        if w.sr:
            terms["sr"] = losses.similarity_regulator(s_image, s_text, t_image, t_text)
        if w.contrastive:
            terms["contrastive"] = losses.contrastive(s_image, s_text, scale)
        if w.affinity:
            terms["affinity"] = losses.affinity_mimicking(
                s_image, s_text, t_image, t_text, scale, self.stage.teacher_scale
            )
        if w.interactive:
            pair = (s_image if image is None else self.map(image), s_text if text is None else self.map(text))
            terms["interactive"] = losses.interactive_contrastive(*pair, t_image, t_text, scale)
        return terms
