"""A linear head on the frozen model's features (Tian et al., ECCV 2020): logistic regression on the labelled examples
of a task; training tasks choose the layer and the regularization (docs/methods/linear-head.md).

    (layer, C) = argmin of the mean over episodes of training tasks of
                 -log p(label | input; logistic regression with C on vectors of layer, learned from the support)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import logsumexp
from torch import Tensor

from ..files import read_json
from ..models.trainable import TrainableModel
from ..prediction.features import Features, features_of
from ..prediction.from_features import FromFeatures
from ..prediction.heads.logistic import Logistic
from ..prediction.predictor import LabelledTask, LoadedModel, Predictor
from ..prompts.batches import MixtureSampler, Sampler
from ..prompts.demonstrations import AsGiven
from ..prompts.style import PromptStyle
from ..tasks.collection import Example, Examples
from ..tasks.seeds import random_generator
from .method import Learner, Method

CHOICE = "linear_head.json"


@dataclass(frozen=True, kw_only=True)
class LinearHead(Method):
    """Logistic regression on features of the model, which does not learn."""

    queries: int = 16
    """Examples of an episode on which a choice is judged."""
    penalties: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0, 1000.0)
    """Values of C to choose from: the inverse weight of the squared norm."""

    def title(self, style: PromptStyle) -> str:
        return "Linear head"

    def sampler(self, **data: Any) -> Sampler:
        return EpisodeSampler(**data, queries=self.queries)

    def learner(self, model: TrainableModel, sampler: Sampler) -> Learner:
        assert isinstance(sampler, EpisodeSampler)
        return LinearHeadLearner(self, model, sampler)

    def predictor(self, model: LoadedModel, style: PromptStyle, **options: Any) -> Predictor:
        if style.format.direction == "channel" or options.pop("calibrate", False):
            raise ValueError(
                "a linear head reads no prompts, so that direction and calibrate say nothing; leave them out"
            )
        chosen = read_json(Path(model.folder) / CHOICE)
        return FromFeatures(Logistic(chosen["C"]), style.demonstrations, features_of(model, chosen["layer"]), **options)

    def unread(self) -> dict[str, str]:
        keys = (
            "choose",
            "layer",
            "batch_size",
            "direction",
            "predicted",
            "label_words",
            "trainable",
            "lora_rank",
            "last_blocks",
            "precision",
            "tokens_per_forward",
            "recompute_activations",
        )
        return super().unread() | dict.fromkeys(keys, "method=linear-head")

    def check(self) -> None:
        super().check()
        self.at_least(1, "demonstrations", "queries")
        if not self.penalties or not all(0 < C < float("inf") for C in self.penalties):
            raise ValueError(f"penalties is {self.penalties}; give one or more numbers above 0")


class RecentFeatures(Features):
    """Features that keep those of the last two calls: of an episode's support and queries, for every C."""

    recent: dict[tuple[str, ...], np.ndarray]

    def vectors(self, texts: Sequence[str] | Examples) -> Float[np.ndarray, "texts width"]:
        key, recent = tuple(map(str, texts)), vars(self).setdefault("recent", {})
        if key not in recent:
            recent[key] = super().vectors(texts)
            for old in list(recent)[:-2]:
                del recent[old]
        return recent[key]


@dataclass
class Episode:
    support: list[Example]
    queries: list[Example]


@dataclass
class EpisodeSampler(MixtureSampler):
    """Episodes: each has support and queries, all different, from one training task with options."""

    queries: int = 16

    def episode(self, number: int) -> Episode:
        names = [name for name, some in self.tasks.items() if len(some) > self.demonstrations and some[0].options]
        if not names:
            raise ValueError(
                f"no training task has options and more than {self.demonstrations} examples; lower demonstrations"
            )
        generator = random_generator("episode", self.seed, number)
        task = self.tasks[str(generator.choice(names))]
        count = min(len(task), self.demonstrations + self.queries)
        drawn = [task[int(index)] for index in generator.choice(len(task), size=count, replace=False)]
        return Episode(drawn[: self.demonstrations], drawn[self.demonstrations :])


class LinearHeadLearner:
    """losses: summed over `episodes` by layer and C [layers, penalties]."""

    def __init__(self, method: LinearHead, model: TrainableModel, sampler: EpisodeSampler) -> None:
        self.method, self.model, self.sampler = method, model, sampler
        model.parameters = {}  # nothing of it learns
        layers: list[str | int] = ["words", *range(1, model.network.config.get_text_config().num_hidden_layers + 1)]
        self.features = {layer: RecentFeatures(model.network, model.tokenizer, layer) for layer in layers}
        self.losses = torch.zeros(len(layers), len(method.penalties), dtype=torch.float64)
        self.episodes = torch.tensor(0)

    def batches(self, update: int) -> Sequence[Episode]:
        return [self.sampler.episode(update)]

    def update(self, batches: Sequence[Episode], lr_scale: float, measure: bool) -> dict[str, float]:
        (episode,) = batches
        for row, features in enumerate(self.features.values()):
            for column, C in enumerate(self.method.penalties):
                head = FromFeatures(Logistic(C), self.method.demonstrations, features, AsGiven())
                self.losses[row, column] += log_loss(head, episode)
        self.episodes += 1
        return {"loss": float(self.losses.min() / self.episodes)}

    def state_dict(self) -> dict[str, Tensor]:
        return {"losses": self.losses, "episodes": self.episodes}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])

    def save(self, folder: Path, files: Mapping[str, str]) -> None:
        """The choice goes to `linear_head.json`, with the mean loss of all that there was to choose from."""
        row, column = divmod(int(self.losses.argmin()), len(self.method.penalties))
        layers, losses = list(self.features), (self.losses / self.episodes.clamp(min=1)).tolist()
        chosen: dict[str, Any] = {"layer": layers[row], "C": self.method.penalties[column], "layers": layers}
        chosen |= {"penalties": self.method.penalties, "losses": losses}
        self.model.save(folder, {**files, CHOICE: json.dumps(chosen, indent=1)})


def log_loss(predictor: Predictor, episode: Episode) -> float:
    """Mean over the queries of -log of the probability of the right one among their options."""
    scores = predictor.scores(LabelledTask("episode", episode.support), episode.queries, seed=0)
    right = [q.options.index(q.output) for q in episode.queries]
    return float(np.mean([row[i] + logsumexp([-s for s in row]) for row, i in zip(scores, right, strict=True)]))
