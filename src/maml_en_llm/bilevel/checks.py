"""What the engine's arguments and losses have to be; each check raises ValueError with one sentence."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .steps import Moments, Step

INITIAL = ("first", "second")  # what is learned of an optimizer beside its numbers: moments before the first step


def check_choice(name: str, value: Any, allowed: Collection[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")


def check_finite(loss: float, what: str, when: str = "") -> float:
    """The loss itself."""
    if not math.isfinite(loss):
        raise ValueError(f"{what} is {loss}{when}; lower the learning rates or look for prompts without an answer")
    return loss


def check_batches(support: Any, query: Any, query_weights: Any = ()) -> None:
    """Support and query are lists of copies, and a copy is a list of batches; a weight for every inner step, if any."""
    for copies in (support, query):
        if not isinstance(copies, Sequence) or not all(isinstance(batches, Sequence) for batches in copies):
            raise ValueError("support and query must be lists of copies, each a list of batches: [[batch], [batch]]")
    if not support or len(support) != len(query) or not all([*map(len, support), *map(len, query)]):
        raise ValueError("support and query must hold the same number of copies (>= 1), each with one or more batches")
    if len(query_weights) and any(len(batches) != len(query_weights) for batches in support):
        raise ValueError(
            f"query_weights has {len(query_weights)} numbers; every copy must have as many support batches"
        )


def check_losses(*losses: Any) -> None:
    if not all(loss is None or callable(loss) for loss in losses) or losses[0] is None:
        raise ValueError(
            "loss, query_loss and mapping must be functions; loss(parameters, batch) gives a scalar tensor"
        )


def check_parameters(parameters: Any, held: Any, step: Any) -> None:
    """Float tensors by name, each under one name only; inner steps have something to move."""
    if not isinstance(step, Step):
        raise ValueError(f"step is {step!r}; it must be an optimizer of maml_en_llm.bilevel, as AdamW(lr=1e-5) is")
    if not isinstance(parameters, Mapping) or not parameters:
        raise ValueError("parameters must be a dict of float tensors by name, with one of them at least")
    places: dict[Any, str] = {}
    for name, parameter in parameters.items():
        if not isinstance(parameter, Tensor) or not parameter.is_floating_point():
            raise ValueError(f"parameter {name} is no tensor of floats; leave it out or convert it")
        if parameter.numel():
            place = parameter.untyped_storage()._cdata, parameter.storage_offset()
            if (other := places.setdefault(place, name)) != name:
                raise ValueError(f"parameters {other} and {name} are one tensor; keep one of the two names")
    if isinstance(held, str):
        raise ValueError(f"held is the string {held!r}; it must be a list of names")
    if unknown := [name for name in held if name not in parameters]:
        raise ValueError(f"held has {unknown[0]!r}, which is no name in parameters")
    if all(name in held or step.of(name) is None for name in parameters):
        raise ValueError("all parameters are held; inner steps need one at least that they can move")


def check_state(state: Any, inner: Mapping[str, Tensor], step: Step) -> None:
    """Moments as the step would make them, in the shapes of the inner parameters."""
    if state is None:
        return
    if not isinstance(state, Moments):
        raise ValueError("state must be Moments, as step.init(parameters) gives them, or None")
    kinds: dict[int, Moments] = {}  # which moments an optimizer has, asked once of each
    for name, parameter in inner.items():
        own = step.of(name)
        assert own is not None
        if id(own) not in kinds:
            kinds[id(own)] = own.init({"": parameter.new_zeros(())})
        for found, expected in zip(state.of(name), kinds[id(own)].of(""), strict=True):
            if expected is not None and (found is None or found.shape != parameter.shape):
                shape = "none" if found is None else f"one of shape {list(found.shape)}"
                raise ValueError(
                    f"{type(own).__name__} needs a moment of shape {list(parameter.shape)} for {name} but state has "
                    f"{shape}; make it by step.init(parameters)"
                )


def check_rates(
    rates: Any, inner: Mapping[str, Tensor], step: Step, state: Moments | None, steps: int
) -> dict[str, dict[str, Tensor]]:
    """The learned numbers by parameter and name: a rate alone is a dict of `lr`."""
    if rates is None:
        return {}
    if not isinstance(rates, Mapping):
        raise ValueError("rates must be a dict of float tensors by the names of parameters")
    options: dict[str, dict[str, Tensor]] = {}
    for name, rate in rates.items():
        own = step.of(name) if name in inner else None
        if own is None:
            raise ValueError(f"rates has {name!r}, which is no parameter that inner steps move")
        options[name] = dict(rate) if isinstance(rate, Mapping) else {"lr": rate}
        for option, tensor in options[name].items():
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                raise ValueError(f"the {option} of {name} is no tensor of floats")
            _check_shape(option, name, tensor, inner[name].shape, steps)
            if option == "momentum" and not getattr(own, "momentum", 1):
                raise ValueError("momentum can be learned only where the step has some; begin above 0")
            if option not in INITIAL:
                own.with_options({option: tensor})
            elif state is not None:
                raise ValueError("moments to start from are learned without state, whose moments all copies share")
            elif own.init({name: inner[name]}).of(name)[INITIAL.index(option)] is None:
                raise ValueError(f"{type(own).__name__} has no {option} moment that could be learned")
    return options


def _check_shape(option: str, name: str, tensor: Tensor, shape: torch.Size, steps: int) -> None:
    """A number, or one for each step or for all, behind it what broadcasts; moments broadcast."""
    try:
        initial = option in INITIAL
        behind = tensor.shape if initial or tensor.dim() == 0 else tensor.shape[1:]
        enough = initial or tensor.dim() == 0 or len(tensor) == 1 or len(tensor) >= steps
        fits = enough and torch.broadcast_shapes(behind, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"the {option} of {name} has shape {list(tensor.shape)}; it must be a number, or have {steps} steps (or 1 "
            f"for all of them) in its first dimension and then what broadcasts to {list(shape)}"
        )
