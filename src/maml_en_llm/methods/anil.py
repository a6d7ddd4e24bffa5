"""ANIL (Raghu et al., ICLR 2020): MAML-en-LLM whose inner steps move the head alone; the body is the same in all copies
and learns from the outer step (docs/methods/anil.md).

    theta = (body, head);  k times: head_i <- head_i - inner_lr grad_head L(body, head_i; support of one task)
    theta <- outer_step(theta, mean_i d L(body, head_i; query of that task) / d theta)
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Literal

from ..bilevel import Groups
from ..config import Optimizer
from ..models.trainable import TrainableModel
from ..prompts.batches import Sampler
from ..prompts.style import PromptStyle
from .maml_en_llm import MAMLenLLM, MAMLLearner
from .method import Learner


@dataclass(frozen=True, kw_only=True)
class ANIL(MAMLenLLM):
    """MAML-en-LLM whose inner steps move the head alone."""

    shared_moments: ClassVar[bool] = False  # type: ignore[misc]  # the outer step moves more than the inner steps do
    shares_moments: ClassVar[bool] = False
    shards: ClassVar[bool] = False

    head: tuple[str, ...] = ()
    """Names of the parameters that inner steps move, as patterns (*.ln_f.*); by default the last block and all that
    follows it."""
    inner_optimizer: Optimizer = "sgd"
    inner_lr: float = 0.01
    sampling: Literal["mixture", "same_task"] = "same_task"

    def title(self, style: PromptStyle) -> str:
        return "ANIL"

    def learner(self, model: TrainableModel, sampler: Sampler) -> Learner:
        return ANILLearner(self, model, sampler)


class ANILLearner(MAMLLearner):
    method: ANIL
    fused = False  # the inner step goes by names

    def __init__(self, method: ANIL, model: TrainableModel, sampler: Sampler) -> None:
        super().__init__(method, model, sampler)
        head = head_names(list(self.parameters), method.head)
        self.inner = Groups(dict.fromkeys(head, self.inner) | {"*": None})


def head_names(names: list[str], patterns: Collection[str] = ()) -> list[str]:
    """Those of `names` that fit one of `patterns`; without any, those from the last numbered block on.

    Raises ValueError when a pattern fits no name, and when there are no numbered blocks to go by.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"head has {pattern}, which fits no parameter that learns, as {names[-1]} is one")
    if patterns:
        return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    block = [int(found[1]) if (found := re.search(r"\.(\d+)\.", name)) else -1 for name in names]
    if max(block) < 0:
        raise ValueError(f"no parameter that learns is in a numbered block, as {names[-1]} is not; give head")
    return names[block.index(max(block)) :]
