"""The meta-gradient of n explored copies with k inner steps each: adapt forward, recurse backward.

A copy starts from phi_0 = theta; with eta the parameters that are held,

    g_j   = grad_phi L(phi_{j-1}, eta; S_j)
    phi_j = step(phi_{j-1}, g_j; rates)                                              j = 1 .. k
    q     = mean over i of L_q(phi_k, eta; Q_i)

An inner optimizer acts element by element, so the derivative of an inner step is diagonal matrices plus one Hessian.
Going back through it costs one Hessian-vector product, whatever the optimizer, and no autograd graph ever spans an
update (docs/bilevel.md).  Gradients are used up as they are computed, so that apart from the parameters and the
optimizer's moments only the support gradient, one set of adapted parameters and the result are in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from .checks import check_batches, check_choice, check_losses, check_parameters, check_rates, check_state
from .curvature import (
    PRODUCTS,
    Curvature,
    Loss,
    Point,
    attach_gradient,
    in_full_precision,
    lowest_precision,
    random_state,
    recompute_gradient,
    stream_gradient,
)
from .steps import AdamW, Moments, Step, Tensors, blocks, pull_back_by_formula, relative_error

Order = Literal["second", "first"]
Trajectory = Literal["keep", "recompute"]
Workspace = dict[str, list[Tensor]]
Rates = Mapping[str, Tensor]


@dataclass(frozen=True)
class MetaGradient:
    """What one meta-update needs and reports.

    gradients: d(mean query loss)/d(parameters), names and shapes of the parameters, held ones included.
    query_loss: mean over copies and their query batches, at the adapted parameters. support_loss: mean over copies and
        their inner steps, each before its step. Both detached scalars.
    state: moments after all inner steps, when they were shared; else None.
    second_order_share: |G_second - G_first| / |G_first|, when asked for; else None.
    rates: d(mean query loss)/d(rates), in the shapes of the rates.
    steep: share of the coordinates of all inner steps whose derivative AdamW left out (steps.STEEP).
    notes: what was not computed as asked for, a sentence each; mostly none.
    """

    gradients: Tensors
    query_loss: Tensor
    support_loss: Tensor
    state: Moments | None
    second_order_share: float | None = None
    rates: Tensors | None = None
    steep: float = 0.0
    notes: tuple[str, ...] = ()


def meta_gradient(
    loss: Loss,
    parameters: Mapping[str, Tensor],
    support: Sequence[Sequence[Any]],
    query: Sequence[Sequence[Any]],
    step: Step = AdamW(lr=1e-5),  # noqa: B008 (frozen)
    state: Moments | None = None,
    order: Order = "second",
    curvature: Curvature = "exact",
    *,
    held: Collection[str] = (),
    rates: Rates | None = None,
    query_loss: Loss | None = None,
    trajectory: Trajectory = "keep",
    donate_state: bool = False,
    measure_share: bool = False,
    workspace: Workspace | None = None,
) -> MetaGradient:
    """Gradient of the query loss after adaptation by the parameters before it (MAML-en-LLM, sections 3.2 and 3.3).

    loss: `loss(parameters, batch) -> scalar`. parameters: float tensors by name; never changed.
    support, query: n copies; a copy takes one inner step per support batch, and its query loss is the mean of those of
        its query batches. Copies may differ in the numbers of both.
    step: the inner optimizer. state: moments shared with the outer optimizer, which flow through all inner steps
        (constants for the first step of a copy); None lets every copy start from zero moments.
    order: `second` is exact; `first` takes the adapted parameters as if they did not depend on the initial ones.
    curvature: how Hessian-vector products are computed: `exact`, or `difference` or `central` differences of gradients,
        which work with any attention kernel and cost one gradient or two.
    held: names in `parameters` that the losses read and inner steps leave alone. rates: learned learning rates of the
        inner steps by name, instead of the step's own: a number, or one for each step [steps], or, behind that first
        dimension (1: the same for all steps), what broadcasts to the parameter.
    query_loss: of query batches, when it is another than that of support batches.
    trajectory: with k > 1, `keep` every inner step's parameters, gradient and moments, or go back by undoing steps and
        `recompute` each gradient: memory that does not grow with k for one more gradient a step (not for plain SGD).
    donate_state: update `state` in place instead of a copy of it. measure_share: also compute second_order_share.
    workspace: a dict, empty at first, in which memory for one or two sets of parameters is kept from call to call.

    Raises ValueError when support and query do not have the same n >= 1 copies with a batch or more each, when a loss
    is not finite, and when an argument is not what it should be.

    >>> theta = {"w": torch.tensor([1.0])}
    >>> quadratic = lambda p, batch: (p["w"] ** 2).sum()
    >>> from maml_en_llm import SGD
    >>> meta_gradient(quadratic, theta, [[None]], [[None]], step=SGD(lr=0.1)).gradients  # (1 - 0.2) * 2 * 0.8
    {'w': tensor([1.2800])}
    """
    for choice, value, allowed in (
        ("order", order, Order),
        ("curvature", curvature, Curvature),
        ("trajectory", trajectory, Trajectory),
    ):
        check_choice(choice, value, get_args(allowed))
    check_batches(support, query)
    check_parameters(parameters, held, step)
    check_losses(loss, query_loss)
    check_state(state, parameters, held, step)
    if rates is not None:
        check_rates(rates, parameters, held, max(map(len, support)), order, trajectory)
    problem = _Problem(loss, query_loss or loss, parameters, held, step, rates or {}, order, curvature, trajectory)
    problem.weight = 1 / len(support)
    problem.plain = {} if measure_share else None
    problem.workspace = {} if workspace is None else workspace
    shared = state if state is None or donate_state else state.clone()
    support_losses, query_losses = [], []
    for support_batches, query_batches in zip(support, query, strict=True):
        copy = _Copy(problem, support_batches, shared)
        support_losses.append(torch.stack(copy.support_losses).mean())
        query_losses.append(copy.add_meta_gradient(query_batches))
    return MetaGradient(
        gradients={name: problem.total[name] for name in parameters},
        query_loss=torch.stack(query_losses).mean(),
        support_loss=torch.stack(support_losses).mean(),
        state=shared,
        second_order_share=None if problem.plain is None else relative_error(problem.total, problem.plain),
        rates=None if rates is None else problem.rate_gradients,
        steep=problem.steep_share(),
        notes=tuple(problem.notes),
    )


class _Problem:
    """What is the same for all copies, and where their derivatives are summed.

    total: meta-gradients. plain: first-order ones, if wanted. weight: of a copy. inner: the parameters that steps move.
    by_formula: whether derivatives of steps come from their formula, and not from the closed form.
    """

    def __init__(
        self,
        loss: Loss,
        query_loss: Loss,
        parameters: Mapping[str, Tensor],
        held: Collection[str],
        step: Step,
        rates: Rates,
        order: Order,
        curvature: Curvature,
        trajectory: Trajectory,
    ) -> None:
        self.loss, self.query_loss, self.step, self.curvature, self.rates = loss, query_loss, step, curvature, rates
        self.parameters = {name: parameter.detach() for name, parameter in parameters.items()}
        self.held = {name: p for name, p in self.parameters.items() if name in held or step.of(name) is None}
        self.inner = {name: p for name, p in self.parameters.items() if name not in self.held}
        self.second, self.undo = order == "second", trajectory == "recompute"
        self.by_formula = bool(rates) or not step.closed_form
        self.weight = 1.0
        self.total: Tensors = {}
        self.plain: Tensors | None = None
        self.rate_gradients = {name: torch.zeros_like(rate) for name, rate in rates.items()}
        self.workspace: Workspace = {}
        self.notes: dict[str, None] = {}  # an ordered set
        self.steep: list[Tensor] = []
        self.coordinates = 0
        self._product = PRODUCTS[curvature]
        self._precise = in_full_precision(loss)
        self._precision: torch.dtype | None = None

    # ---- the inner optimizer

    def step_of(self, name: str) -> Step:
        """The optimizer of an inner parameter."""
        step = self.step.of(name)
        assert step is not None
        return step

    def update(self, number: int, name: str, before: Tensor, gradient: Tensor, moments: Moments, out: Tensor) -> None:
        """Inner step `number` = 0, 1, ... of one parameter."""
        step = self.step_of(name)
        if name in self.rates:
            rate = {"lr": _of_step(self.rates[name], number)}
            Step.update(step.with_options(rate), name, before, gradient, moments, out)
        else:
            step.update(name, before, gradient, moments, out)

    def pull_back(self, name: str, adjoint: Tensor, passed: _Passed, earlier: Moments | None, out: Tensor) -> None:
        """The adjoint of `update`; sums up the derivative by the rate."""
        step, point = self.step_of(name), passed.point
        before, gradient, steep = point.parameters[name], point.gradient[name], None
        if self.by_formula:
            rates = {"lr": _of_step(self.rates[name], passed.number)} if name in self.rates else {}
            steep, derivatives = pull_back_by_formula(
                step, rates, name, adjoint, before, gradient, passed.moments, earlier, out
            )
            for derivative in derivatives.values():
                _of_step(self.rate_gradients[name], passed.number).add_(derivative, alpha=self.weight)
        else:
            steep = step.pull_back(name, adjoint, before, gradient, passed.moments, earlier, out)
        self.coordinates += adjoint.numel()
        if steep is not None:
            self.steep.append(steep)

    def steep_share(self) -> float:
        return float(sum(int(count) for count in self.steep) / max(self.coordinates, 1))

    # ---- the support loss

    def gradient(self, point: Point, consume: Any, keep: bool) -> Tensor:
        """The support loss at `point`; its gradient goes to `consume`: by the inner parameters, and with `keep` by all
        that the product needs."""
        by = self.parameters if keep and self.curvature == "difference" else self.inner

        def watch(value: Tensor) -> None:
            self._precision = lowest_precision(value)

        return stream_gradient(
            self.loss, point.parameters, point.batch, consume, by, watch if keep and self._precision is None else None
        )

    def attach(self, point: Point) -> Tensor:
        """The same for `exact`: the gradient stays at `point`, with its graph."""
        return attach_gradient(self._precise, point, list(self.inner))

    def recompute(self, point: Point) -> None:
        """Fills in `point.gradient` again."""
        if self.curvature == "exact":
            recompute_gradient(self._precise, point, list(self.inner), attach=True)
        else:
            by = self.parameters if self.curvature == "difference" else self.inner
            recompute_gradient(self.loss, point, list(by), attach=False)

    def product(self, point: Point, direction: Tensors, add: Any) -> None:
        """The Hessian of the support loss at `point` times `direction`, to `add`."""
        point.precision = self._precision
        self._product(self._precise, point, direction, add)

    # ---- memory

    def memory_like(self, name: str, tensor: Tensor) -> Tensor:
        """Memory for one parameter, contiguous, with any content."""
        spare = self.workspace.setdefault(name, [])
        return spare.pop() if spare else torch.empty_like(tensor, memory_format=torch.contiguous_format)

    def give_back(self, name: str, memory: Tensor) -> None:
        """Lets the next `memory_like` have that memory."""
        self.workspace[name].append(memory)


@dataclass
class _Passed:
    """An inner step that was taken: its number from 0, where it started from, and moments.

    moments: as the way back needs them: after the step if its derivative is in closed form, before it otherwise.
    """

    number: int
    point: Point
    moments: Moments


class _Copy:
    """One copy: its inner steps, taken forward as it is made, and the way back through them.

    after: the parameters that `passed`, the step to go back through next, ended with. adjoint: the derivative of q by
    them. direction: u, the derivative of q by the gradient that the step used. earlier: those of q by the moments.
    """

    def __init__(self, problem: _Problem, support: Sequence[Any], shared: Moments | None) -> None:
        self.problem, self.support = problem, support
        self.moments = problem.step.init(problem.inner) if shared is None else shared
        self.shares_moments = shared is not None
        self.fresh = self.moments.step == 0
        self.support_losses: list[Tensor] = []
        self.after: Tensors = {}
        self.adjoint: Tensors = {}
        self.direction: Tensors = {}
        several = len(support) > 1
        self.earlier = problem.step.init(problem.inner) if problem.second and several else None
        self.undo = problem.undo and several and problem.second
        self.steps = self._undone() if self.undo or not problem.second else self._kept()
        self.passed = next(self.steps, None)

    # ---- forward

    def _take(self, number: int, before: Mapping[str, Tensor], overwrite: bool, keep: bool) -> tuple[Point, Tensors]:
        """Inner step `number` from `before`: where it was, with its gradient (if `keep`), and the parameters after it
        (in the memory of those before it if `overwrite`)."""
        problem, after = self.problem, dict(self.problem.held)
        point = Point(before, self.support[number], random_state=random_state() if problem.second else ())
        self.moments.step += 1

        def learn(name: str, gradient: Tensor) -> None:
            if keep:
                point.gradient[name] = gradient
            if name in problem.inner:
                after[name] = before[name] if overwrite else problem.memory_like(name, before[name])
                problem.update(number, name, before[name], gradient, self.moments, out=after[name])

        if keep and problem.curvature == "exact" and not self.undo:
            value = problem.attach(point)
            for name in problem.inner:
                learn(name, point.gradient[name])
        else:
            value = problem.gradient(point, learn, keep)
        self.support_losses.append(_finite(value, "support"))
        return point, after

    def _kept(self) -> Iterator[_Passed]:
        """All steps with all that they had, last first."""
        passed: list[_Passed] = []
        parameters: Mapping[str, Tensor] = self.problem.parameters
        for number in range(len(self.support)):
            before = self.moments.clone() if self.problem.by_formula else None
            point, parameters = self._take(number, parameters, overwrite=False, keep=True)
            last = number == len(self.support) - 1
            passed.append(_Passed(number, point, before or (self.moments if last else self.moments.clone())))
        self.after = dict(parameters)
        while passed:
            yield passed.pop()

    def _undone(self) -> Iterator[_Passed]:
        """All steps, last first, each in the memory of the one after it, which is undone; none in first order."""
        parameters: Mapping[str, Tensor] = self.problem.parameters
        points = []
        for number in range(len(self.support)):
            last = self.undo and number == len(self.support) - 1
            point, parameters = self._take(number, parameters, overwrite=number > 0, keep=last)
            points.append(point)
        self.after = dict(parameters)
        if not self.undo:
            return
        moments = self.moments.clone() if self.shares_moments else self.moments
        for number in reversed(range(len(points))):
            yield _Passed(number, points.pop(), moments)
            moments.step -= 1

    # ---- backward

    def add_meta_gradient(self, query: Sequence[Any]) -> Tensor:
        """Adds this copy's derivatives to the sums of `problem`; returns the query loss.

        As soon as one tensor of the query gradient is complete, the last inner step is pulled back for it.
        """
        problem, weight, values = self.problem, 1 / len(query), []

        def add(name: str, gradient: Tensor) -> None:
            if problem.plain is not None:
                _accumulate(problem.plain, name, gradient.clone(), problem.weight * weight)
            self._add(self.passed is None, name, gradient, scale=weight)

        def add_last(name: str, gradient: Tensor) -> None:
            add(name, gradient)
            if name in problem.inner:
                if self.undo:
                    self._undo_parameter(name)
                else:
                    problem.give_back(name, self.after.pop(name))  # nothing reads it any more
                if self.passed is not None:
                    self._pull_back(name)

        for batch in query[:-1]:
            values.append(_finite(stream_gradient(problem.query_loss, self.after, batch, add), "query"))
        values.append(_finite(stream_gradient(problem.query_loss, self.after, query[-1], add_last), "query"))
        self._go_back()
        return torch.stack(values).mean()

    def _go_back(self) -> None:
        """The rest of the way back through the last step, then through every step before it."""
        problem = self.problem
        while self.passed is not None:
            if not self.direction:
                if self.undo:
                    for name in problem.inner:
                        self._undo_parameter(name)
                    problem.recompute(self.passed.point)
                for name in problem.inner:
                    self._pull_back(name)
            direction, self.direction = self.direction, {}
            problem.product(self.passed.point, direction, partial(self._add, self.passed.number == 0))
            for name, u in direction.items():
                problem.give_back(name, u)
            self.passed = next(self.steps, None)

    def _pull_back(self, name: str) -> None:
        """Takes the adjoint of one parameter through the step, but for H u, which has to wait for the others' u."""
        problem, passed = self.problem, self.passed
        assert passed is not None
        adjoint = self.adjoint.pop(name)
        u = self.direction[name] = problem.memory_like(name, adjoint)
        if self.undo and self.fresh and not passed.number:
            self._remake_first_moments(name, passed, out=u)
        problem.pull_back(name, adjoint, passed, self.earlier, out=u)
        if self.undo and passed.number:
            problem.step_of(name).undo_moments_(name, passed.point.gradient[name], passed.moments)
        self._add(passed.number == 0, name, adjoint)

    def _remake_first_moments(self, name: str, passed: _Passed, out: Tensor) -> None:
        """Those after a first step from zero moments, which undoing later ones leaves to rounding; `out` is scratch."""
        for moment in passed.moments.of(name):
            if moment is not None:
                moment.zero_()
        point = passed.point
        self.problem.update(0, name, point.parameters[name], point.gradient[name], passed.moments, out)

    def _undo_parameter(self, name: str) -> None:
        """Takes the parameter in `after` back; the first step started from one that still is there."""
        assert self.passed is not None
        if self.passed.number:
            self.problem.step_of(name).undo_parameter_(name, self.after[name], self.passed.moments)
        else:
            del self.after[name]

    def _add(self, start: bool, name: str, part: Tensor, minus: Tensor | None = None, scale: float = 1.0) -> None:
        """Adds scale * (part - minus) to the adjoint; at the start of the copy, that is the meta-gradient."""
        if start or name in self.problem.held:
            _accumulate(self.problem.total, name, part, scale * self.problem.weight, minus)
        else:
            _accumulate(self.adjoint, name, part, scale, minus)


def _of_step(rate: Tensor, number: int) -> Tensor:
    """The view of a rate that counts for inner step `number`."""
    return rate if rate.dim() == 0 else rate[0 if len(rate) == 1 else number]


def _accumulate(total: Tensors, name: str, part: Tensor, weight: float, minus: Tensor | None = None) -> None:
    """total[name] += weight * (part - minus), taking over the memory of the first part and overwriting any part."""
    if name not in total:
        if minus is not None:
            part.sub_(minus)
        total[name] = part.contiguous() if weight == 1 else part.mul_(weight).contiguous()
        return
    for t, p, *less in blocks(total[name], part, *([] if minus is None else [minus])):
        t.add_(p.sub_(less[0]) if less else p, alpha=weight)


def _finite(value: Tensor, kind: str) -> Tensor:
    if not bool(torch.isfinite(value)):
        raise ValueError(
            f"the {kind} loss is {float(value)}; lower the learning rates or look for prompts without an answer"
        )
    return value
