"""Learned token weights (CaMeLS, Hu et al., EMNLP 2023): the inner steps minimize a weighted next-token loss of whole
prompts, and the weights are learned such that answers become likely (docs/methods/token-weights.md).

    k times: phi <- phi - inner_lr grad_phi sum_t softplus(w[token_t]) NLL_t(phi) / T    on texts of one task
    (theta, w) <- outer_step((theta, w), mean_i d L(phi_i; answers of that task) / d (theta, w))
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from ..bilevel import SGD, Groups, clip_by_global_norm_, meta_gradient, update_all_
from ..bilevel.curvature import Curvature
from ..bilevel.steps import figure
from ..models.loss import Group, PromptLoss
from ..models.trainable import TrainableModel
from ..prompts.batches import Batch, Sampler
from ..prompts.style import PromptStyle
from .method import Figures, GradientLearner, Learner, SameTaskMethod

WEIGHTS = "token weights"  # no parameter of a model has a name with a space


@dataclass(frozen=True, kw_only=True)
class TokenWeights(SameTaskMethod):
    """MAML whose inner loss weighs each token of a text by a learned number of its vocabulary entry."""

    inner_lr: float = 0.01
    """Learning rate of the inner steps, which are plain SGD: a first step of AdamW is deaf to weights."""
    weights_lr: float = 0.01
    """Learning rate of the token weights; with lr 0 they alone learn."""
    curvature: Curvature = "difference"
    """Hessian-vector products by one more gradient (difference), two (central, for bfloat16), or exact."""

    def title(self, style: PromptStyle) -> str:
        return "Token weights"

    def sampler(self, **data: Any) -> Sampler:
        text = super().sampler(**data | {"predicted": "text"})
        return TextThenAnswers(text, super().sampler(**data), self.inner_steps)

    def learner(self, model: TrainableModel, sampler: Sampler) -> Learner:
        return TokenWeightsLearner(self, model, sampler)

    def check(self) -> None:
        super().check()
        self.not_negative("inner_lr", "weights_lr")


@dataclass
class TextThenAnswers:
    """Of each 2k batches the first k predict all of their text, and the others the answers."""

    text: Sampler
    answers: Sampler
    inner_steps: int

    def batch(self, number: int) -> Batch:
        support = number % (2 * self.inner_steps) < self.inner_steps
        return (self.text if support else self.answers).batch(number)


class ModelLoss(PromptLoss):
    """PromptLoss of parameters that may hold token weights, which it does not read."""

    @contextmanager
    def substituted(self, parameters: Mapping[str, Tensor]) -> Iterator[None]:
        with super().substituted({name: p for name, p in parameters.items() if name != WEIGHTS}):
            yield


class WeightedLoss(ModelLoss):
    """The cross entropy of each predicted token, times softplus of the weight of its vocabulary entry."""

    def __call__(self, parameters: Mapping[str, Tensor], batch: Batch | Group) -> Float[Tensor, ""]:
        if isinstance(batch, Batch):
            return torch.stack([self(parameters, group) for group in self.parts(batch)]).sum()
        weights = batch.weights * softplus(parameters[WEIGHTS])[batch.answers]
        return super().__call__(parameters, replace(batch, weights=weights))


class TokenWeightsLearner(GradientLearner):
    method: TokenWeights

    def __init__(self, method: TokenWeights, model: TrainableModel, sampler: Sampler) -> None:
        super().__init__(method, model, sampler)
        options = model.loss.autocast, model.loss.tokens_per_forward
        self.loss = ModelLoss(model.network, *options)
        self.inner_loss = WeightedLoss(model.network, *options)
        embeddings = model.network.get_input_embeddings().weight
        uniform = math.log(math.e - 1)  # softplus of it is 1: the ordinary next-token loss
        self.parameters = self.parameters | {WEIGHTS: embeddings.new_full(embeddings.shape[:1], uniform).detach()}
        self.moments = self.optimizer.init(self.parameters)

    def update(self, batches: Sequence[Batch], lr_scale: float, measure: bool) -> Figures:
        method = self.method
        result = meta_gradient(
            self.inner_loss,
            self.parameters,
            *method.support_and_query(batches),
            SGD(method.inner_lr),
            held=[WEIGHTS],
            query_loss=self.loss,
            curvature=method.curvature,
        )
        by_weights = {WEIGHTS: result.gradients.pop(WEIGHTS)}
        norm = clip_by_global_norm_(result.gradients, method.gradient_clip)
        clip_by_global_norm_(by_weights, method.gradient_clip)
        outer = replace(self.optimizer, lr=method.lr * lr_scale)
        own = replace(self.optimizer, lr=method.weights_lr * lr_scale, weight_decay=0.0)
        update_all_(Groups({WEIGHTS: own, "*": outer}), self.parameters, result.gradients | by_weights, self.moments)
        figures: Figures = {"loss": figure(result.query_loss), "support_loss": figure(result.support_loss)}
        return figures | {"gradient_norm": norm, "lr": outer.lr}

    def save(self, folder: Path, files: Mapping[str, str]) -> None:
        """The weights of the vocabulary's entries in their order go to `token_weights.json`."""
        weights = [round(weight, 6) for weight in softplus(self.parameters[WEIGHTS]).tolist()]
        super().save(folder, {**files, "token_weights.json": json.dumps(weights)})
