"""The mathematics of meta-training, for any differentiable loss; knows nothing of language."""

from .curvature import value_and_gradient
from .meta_gradient import Exploration, MetaGradient, explore, meta_gradient
from .steps import SGD, AdamW, Groups, Moments, Step, clip_by_global_norm_, relative_error, update_all_

__all__ = [
    "SGD",
    "AdamW",
    "Exploration",
    "Groups",
    "MetaGradient",
    "Moments",
    "Step",
    "clip_by_global_norm_",
    "explore",
    "meta_gradient",
    "relative_error",
    "update_all_",
    "value_and_gradient",
]
