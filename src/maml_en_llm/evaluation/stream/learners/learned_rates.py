"""A step of SGD with a learned rate for each tensor (Meta-SGD, Li et al., 2017; MAML++)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ....bilevel import SGD, Groups, Step
from ....files import read_json
from ....models.trainable import TrainableModel
from .learner import Learner, file_in


@dataclass(frozen=True, kw_only=True)
class LearnedRates(Learner):
    """phi_p <- phi_p - lr * rate_p * gradient of the next-token loss, for each tensor p that has a rate."""

    lr: float = 1.0
    """Factor of all rates."""
    learned: Path
    """Folder of a model that the method meta-sgd or maml-plus-plus trained, or its inner_rates.json; of several steps'
    rates the first is used."""

    def files(self) -> list[Path]:
        return [file_in(self.learned, "inner_rates.json", "meta-sgd")]

    def step(self, model: TrainableModel) -> Step:
        (path,) = self.files()
        record = read_json(path)
        rates = {name: rate[0] if isinstance(rate, list) and rate else rate for name, rate in record.items()}
        if not rates or not all(isinstance(rate, float | int) for rate in rates.values()):
            raise ValueError(f"{path}: must be a JSON object with a rate for each tensor that learns")
        if unknown := sorted(rates.keys() - model.parameters.keys()):
            raise ValueError(f"{path}: has a rate of {unknown[0]}, which is no tensor of the model that learns")
        return Groups({name: SGD(self.lr * rate) for name, rate in rates.items()} | {"*": None})
