"""One copy's inner steps, and the way back through them (docs/bilevel.md).

there   g_j = grad_phi L(phi_{j-1}, eta; S_j),   phi_j = step(phi_{j-1}, T(g_j, eta); alpha_j)         j = 1 .. k
back    a, u = pull_back(step, a);   u <- J_T' u;   a <- a + H u,   dq/d eta += d2L/(d eta d phi) u    j = k .. 1
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from .checks import INITIAL, check_choice, check_finite, check_losses, check_parameters, check_rates, check_state
from .curvature import (
    HALF,
    PRODUCTS,
    Add,
    Consume,
    Curvature,
    Loss,
    Point,
    attach_gradient,
    central,
    in_full_precision,
    lowest_precision,
    random_state,
    recompute_gradient,
    replayed,
    stream_gradient,
)
from .steps import Moments, Step, Tensors, Used, blocks, figure, pull_back_by_formula, waits_for_numbers

Order = Literal["second", "first"]
Trajectory = Literal["keep", "recompute", "replay"]
Workspace = dict[str, list[Tensor]]
Options = Mapping[str, Tensor]
Rates = Mapping[str, Tensor | Options]
GradientMap = Callable[[Tensors, str, Tensor], Tensor]

LEAF = 8  # steps that `replay` keeps at once
DEAF = "a first AdamW step is the sign of its gradient: next to nothing depends on held parameters; share moments"


@dataclass
class Problem:
    """What is the same for all copies, and where their derivatives are summed.

    The fields are arguments of `meta_gradient`; most_steps: of a copy. weight: of a copy. support_losses, query_losses:
    one of each copy. total: meta-gradients; plain: first-order ones, if wanted. by_options: derivatives by the learned
    numbers of the inner optimizer, `options`.
    """

    loss: Loss
    parameters: Mapping[str, Tensor]
    names_held: Collection[str]
    step: Step
    state: Moments | None
    rates: Rates | None
    mapping: GradientMap | None
    query_loss: Loss | None
    order: Order
    curvature: Curvature
    trajectory: Trajectory
    most_steps: int
    weight: float = 1.0
    plain: Tensors | None = None
    workspace: Workspace = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("order", self.order, get_args(Order))
        check_choice("curvature", self.curvature, get_args(Curvature))
        check_choice("trajectory", self.trajectory, get_args(Trajectory))
        check_losses(self.loss, self.query_loss, self.mapping)
        check_parameters(self.parameters, self.names_held, self.step)
        self.all = {name: parameter.detach() for name, parameter in self.parameters.items()}
        self.held = {n: p for n, p in self.all.items() if n in self.names_held or self.step.of(n) is None}
        self.inner = {name: p for name, p in self.all.items() if name not in self.held}
        check_state(self.state, self.inner, self.step)
        self.options = check_rates(self.rates, self.inner, self.step, self.state, self.most_steps)
        self.by_formula = bool(self.options) or not self.step.closed_form
        if self.by_formula and self.trajectory == "recompute":
            raise ValueError('learned or own optimizers cannot undo a step; use trajectory="keep" or "replay"')
        self.second = self.order == "second"
        self.goes_back = self.second or bool(self.options)
        self.attaches = self.second and self.curvature == "exact"
        self.subtracts = self.second and self.curvature == "difference"
        self.support_losses: list[Tensor] = []
        self.query_losses: list[Tensor] = []
        self.total: Tensors = {}
        self.by_options = {
            name: {option: torch.zeros_like(tensor) for option, tensor in options.items()}
            for name, options in self.options.items()
        }
        self.notes: dict[str, None] = {}  # a set in order
        self.steep: list[Tensor] = []
        self.coordinates = 0
        self._precise = in_full_precision(self.loss)
        self._precision: torch.dtype | None = None

    # ---- the inner optimizer

    def step_of(self, name: str) -> Step:
        """The optimizer of an inner parameter."""
        step = self.step.of(name)
        assert step is not None
        return step

    def options_of(self, name: str, number: int, of: Mapping[str, Options]) -> Tensors:
        """Views of the learned numbers, or of the derivatives by them, that count for inner step `number`."""
        every = {option: tensor for option, tensor in of.get(name, {}).items() if option not in INITIAL}
        return {
            option: tensor if tensor.dim() == 0 else tensor[0 if len(tensor) == 1 else number]
            for option, tensor in every.items()
        }

    def fresh_moments(self) -> Moments:
        """Moments before the first step: zeros, or learned ones."""
        moments = self.step.init(self.inner)
        for name, options in self.options.items():
            for kind, moment in zip(INITIAL, moments.of(name), strict=True):
                if kind in options and moment is not None:
                    moment.copy_(options[kind])
        return moments

    def mapped(self, name: str, gradient: Tensor) -> Tensor:
        """The gradient as the step uses it."""
        with torch.no_grad():
            return gradient if self.mapping is None else self.mapping(self.held, name, gradient)

    def update(self, number: int, name: str, before: Tensor, gradient: Tensor, moments: Moments, out: Tensor) -> None:
        """Inner step `number` = 0, 1, ... of one parameter."""
        step, options = self.step_of(name), self.options_of(name, number, self.options)
        if options:
            Step.update(step.with_options(options), name, before, self.mapped(name, gradient), moments, out)
        else:
            step.update(name, before, self.mapped(name, gradient), moments, out)

    def pull_back(self, name: str, adjoint: Tensor, passed: Passed, earlier: Moments | None, out: Tensor) -> None:
        """The adjoint of `update`: `adjoint` goes to before the step, `out` gets u; adds up derivatives by options."""
        step, point, number = self.step_of(name), passed.point, passed.number
        used = Used(point.parameters[name], self.mapped(name, point.gradient[name]), passed.moments)
        if self.by_formula:
            options = self.options_of(name, number, self.options)
            steep, derivatives = pull_back_by_formula(step, options, name, adjoint, used, earlier, out)
            for option, total in self.options_of(name, number, self.by_options).items():
                total.add_(derivatives[option], alpha=self.weight)
        else:
            steep = step.pull_back(name, adjoint, used, earlier, out)
        self.coordinates += adjoint.numel()
        if steep is not None:
            self.steep.append(steep)
        if self.mapping is not None and self.second:
            leaves = {n: p.detach().requires_grad_() for n, p in self.held.items()}
            gradient = point.gradient[name].detach().requires_grad_()
            with torch.enable_grad():
                mapped = self.mapping(leaves, name, gradient)
                inputs = [gradient, *leaves.values()]
                by_gradient, *by_held = torch.autograd.grad(mapped, inputs, out, allow_unused=True)
            out.zero_() if by_gradient is None else out.copy_(by_gradient)
            for held, part in zip(leaves, by_held, strict=True):
                if part is not None:
                    accumulate(self.total, held, part, self.weight)

    def add_initial(self, earlier: Moments | None) -> None:
        """Adds up derivatives by learned initial moments. earlier: by the moments before the first step."""
        for name, totals in self.by_options.items():
            for kind, adjoint in zip(INITIAL, (None, None) if earlier is None else earlier.of(name), strict=True):
                if kind in totals and adjoint is not None:
                    totals[kind].add_(adjoint.sum_to_size(totals[kind].shape), alpha=self.weight)

    def steep_share(self) -> float | Tensor:
        if not self.steep:
            return 0.0
        return figure(torch.stack(self.steep).sum() / max(self.coordinates, 1))

    # ---- the support loss

    def _needed(self) -> Tensors:
        """What a support gradient is taken by, for the product: a difference subtracts held parameters' parts too."""
        return self.all if self.subtracts else self.inner

    def gradient(self, point: Point, consume: Consume, keep: bool) -> Tensor:
        """The support loss at `point`. Its gradient goes to `consume`: all that the product needs if `keep`."""

        def watch(value: Tensor) -> None:
            self._precision = getattr(self.loss, "autocast", None) or lowest_precision(value)

        by, watched = (self._needed(), self._precision is None) if keep else (self.inner, False)
        return stream_gradient(self.loss, point.parameters, point.batch, consume, by, watch if watched else None)

    def attach(self, point: Point) -> Tensor:
        """The same for `exact`: the gradient stays at `point`, with its graph."""
        return attach_gradient(self._precise, point, list(self.inner))

    def recompute(self, point: Point) -> None:
        """Fills in `point.gradient` again."""
        if self.attaches:
            recompute_gradient(self._precise, point, list(self.inner), attach=True)
        else:
            recompute_gradient(self.loss, point, list(self._needed()), attach=False)

    def product(self, point: Point, direction: Tensors, add: Add) -> None:
        """The Hessian of the support loss at `point` times `direction`, to `add`.

        Differences of gradients of half precision are noise: they are taken of float32, or not at all.
        """
        product, point.precision = PRODUCTS[self.curvature], self._precision
        if self.curvature != "exact" and point.precision in HALF:
            if self._precise is self.loss or any(p.dtype in HALF for p in self.inner.values()):
                self.notes[f"no curvature: {point.precision} is too coarse for differences of gradients"] = None
                return
            self.notes[f"curvature by central differences in float32: the loss computes in {point.precision}"] = None
            product, point.precision = central, torch.float32
        product(self._precise, point, direction, add)

    # ---- memory

    def memory_like(self, name: str, tensor: Tensor) -> Tensor:
        """Memory for one parameter, contiguous, with any content."""
        spare = self.workspace.setdefault(name, [])
        return spare.pop() if spare else torch.empty_like(tensor, memory_format=torch.contiguous_format)

    def give_back(self, name: str, memory: Tensor) -> None:
        """Lets the next `memory_like` have that memory."""
        self.workspace[name].append(memory)


@dataclass
class Passed:
    """An inner step that was taken: its number from 0, where it started from, and moments.

    moments: as the way back needs them: after the step if its derivative is in closed form, before it otherwise.
    """

    number: int
    point: Point
    moments: Moments


class Copy:
    """One copy: its inner steps, taken there as it is made, and the way back through them.

    after: the parameters that `passed`, the step to go back through next, ended with. adjoint: a, the derivative of q
    by them. direction: u, that by the gradient which the step used. earlier: those by the moments.
    query, weights: batches of the query loss, and its weight after each inner step.
    """

    def __init__(
        self,
        problem: Problem,
        support: Sequence[Any],
        shared: Moments | None,
        query: Sequence[Any] = (),
        weights: Sequence[float] = (),
    ) -> None:
        self.problem, self.support, self.query = problem, support, query
        self.weights = weights or [0.0] * (len(support) - 1) + [1.0]
        self.moments = problem.fresh_moments() if shared is None else shared
        self.shares_moments = shared is not None
        if problem.held and problem.second and self.moments.step == 0 and self.moments.second:
            problem.notes[DEAF] = None
        self.support_losses: list[Tensor] = []
        self.query_losses: list[Tensor] = []
        self.random_states: list[Sequence[Tensor]] = []
        self.after: Tensors = {}
        self.adjoint: Tensors = {}
        self.direction: Tensors = {}
        self.passed: Passed | None = None
        several = len(support) > 1
        learns_initial = any(kind in options for options in problem.options.values() for kind in INITIAL)
        self.earlier = problem.step.init(problem.inner) if problem.goes_back and (several or learns_initial) else None
        self.undo = problem.trajectory == "recompute" and several and problem.second
        if not problem.goes_back:
            self.steps: Iterator[Passed] = self._forgotten()
        elif self.undo:
            self.steps = self._undone()
        else:
            self.leaf = LEAF if problem.trajectory == "replay" else len(support)
            start = self.moments.clone() if len(support) > self.leaf else self.moments
            self.steps = self._replayed(0, len(support), problem.all, start)
        self.passed = next(self.steps, None)

    # ---- there

    def _take(
        self, number: int, before: Tensors, moments: Moments, *, overwrite: bool, keep: bool, again: bool = False
    ) -> tuple[Point, Tensors]:
        """Inner step `number` from `before`: where it was, and the parameters after it.

        overwrite: they take the memory of those before it. keep: with the gradient, as the way back needs it. again:
        the step was taken before, and draws the same random numbers.
        """
        problem, after = self.problem, dict(self.problem.held)
        if not again:
            self.random_states.append(random_state() if problem.goes_back else ())
        point = Point(before, self.support[number], random_state=self.random_states[number])
        moments.step += 1

        def learn(name: str, gradient: Tensor) -> None:
            if keep:
                point.gradient[name] = gradient
            if name in problem.inner:
                after[name] = before[name] if overwrite else problem.memory_like(name, before[name])
                problem.update(number, name, before[name], gradient, moments, out=after[name])

        with replayed(point.random_state if again else ()):
            if keep and problem.attaches and not self.undo:
                value = problem.attach(point)
                for name in problem.inner:
                    learn(name, point.gradient[name])
            else:
                value = problem.gradient(point, learn, keep)
        if not again:
            self.support_losses.append(finite(value, "support"))
        return point, after

    def _forgotten(self) -> Iterator[Passed]:
        """First order, and no numbers that are learned: no step to go back through."""
        parameters = self.problem.all
        for number in range(len(self.support)):
            _, parameters = self._take(number, parameters, self.moments, overwrite=number > 0, keep=False)
            if number < len(self.support) - 1 and self.weights[number]:
                self._add_query(parameters, self.weights[number])
        self.after = parameters
        yield from ()

    def _replayed(self, low: int, high: int, start: Tensors, moments: Moments) -> Iterator[Passed]:
        """The steps from `low` to `high`, last first, kept if they are few; else the later half, then the earlier.

        start, moments: before step `low`. The first way there moves `self.moments` on, which may be `moments`.
        """
        first_time = len(self.support_losses) < len(self.support)
        moving = self.moments if first_time else moments.clone()
        if high - low > self.leaf:
            middle, parameters = (low + high) // 2, start
            for number in range(low, middle):
                overwrite, again = number > low, not first_time
                _, parameters = self._take(number, parameters, moving, overwrite=overwrite, keep=False, again=again)
            yield from self._replayed(middle, high, parameters, moving.clone() if first_time else moving)
            yield from self._replayed(low, middle, start, moments)
            return
        passed, parameters = [], start
        for number in range(low, high):
            before = moving.clone() if self.problem.by_formula else None
            again = not first_time
            point, parameters = self._take(number, parameters, moving, overwrite=False, keep=True, again=again)
            passed.append(Passed(number, point, before or (moving if number == high - 1 else moving.clone())))
        if first_time:
            self.after = parameters
        while passed:
            yield passed.pop()

    def _undone(self) -> Iterator[Passed]:
        """All steps, last first, each in the memory of the one after it, which is undone."""
        moments = [m for name in self.problem.inner for m in self.moments.of(name) if m is not None]
        self.from_zero = self.moments.step == 0 and not any(bool(m.any()) for m in moments)
        parameters, points = self.problem.all, []
        for number in range(len(self.support)):
            last = number == len(self.support) - 1
            point, parameters = self._take(number, parameters, self.moments, overwrite=number > 0, keep=last)
            points.append(point)
        self.after = parameters
        undone = self.moments.clone() if self.shares_moments else self.moments  # later copies go on from there
        for number in reversed(range(len(points))):
            yield Passed(number, points.pop(), undone)
            undone.step -= 1

    # ---- back

    def add_meta_gradient(self) -> None:
        """Adds this copy's derivatives to the sums of `problem`.

        As soon as one tensor of the query gradient is complete, the last inner step is pulled back for it.
        """

        def pull_back(name: str) -> None:
            if self.undo:
                self._undo_parameter(name)
            else:
                self.problem.give_back(name, self.after.pop(name))  # nothing reads it any more
            if self.passed is not None:
                self._pull_back(name)

        self._add_query(self.after, self.weights[-1], pull_back)
        self.go_back()

    def go_back(self) -> None:
        """The rest of the way back through the last step, then through every step before it."""
        problem = self.problem
        while self.passed is not None:
            number, point = self.passed.number, self.passed.point
            if not self.direction:
                if self.undo:
                    for name in problem.inner:
                        self._undo_parameter(name)
                    if not point.gradient:
                        problem.recompute(point)
                for name in problem.inner:
                    self._pull_back(name)
            direction, self.direction = self.direction, {}
            if problem.second:
                problem.product(point, direction, partial(self._add, number == 0))
            for name, u in direction.items():
                problem.give_back(name, u)
            self.passed = next(self.steps, None)
            if self.passed is not None and self.weights[self.passed.number]:
                self._add_query(point.parameters, self.weights[self.passed.number])
        problem.add_initial(self.earlier)
        problem.support_losses.append(torch.stack(self.support_losses).mean())
        if self.query_losses:
            problem.query_losses.append(torch.stack(self.query_losses).sum())

    def _add_query(
        self, at: Mapping[str, Tensor], weight: float, complete: Callable[[str], None] | None = None
    ) -> None:
        """Adds the weighted query loss and its gradient at `at`; `complete` gets each inner name when its is."""
        problem = self.problem

        def add(last: bool, name: str, gradient: Tensor) -> None:
            scale = weight / len(self.query)
            if problem.plain is not None:
                accumulate(problem.plain, name, gradient.clone(), problem.weight * scale)
            self._add(self.passed is None, name, gradient, scale=scale)
            if last and complete is not None and name in problem.inner:
                complete(name)

        loss, losses = problem.query_loss or problem.loss, []
        for number, batch in enumerate(self.query, start=1):
            consume = partial(add, number == len(self.query))
            losses.append(finite(stream_gradient(loss, at, batch, consume), "query"))
        self.query_losses.append(weight * torch.stack(losses).mean())

    def _pull_back(self, name: str) -> None:
        """Takes the adjoint of one parameter through the step, but for H u, which has to wait for the others' u."""
        problem, passed = self.problem, self.passed
        assert passed is not None
        adjoint = self.adjoint.pop(name)
        u = self.direction[name] = problem.memory_like(name, adjoint)
        if self.undo and self.from_zero and not passed.number:
            self._remake_first_moments(name, passed, out=u)
        problem.pull_back(name, adjoint, passed, self.earlier, out=u)
        if self.undo and passed.number:
            gradient = problem.mapped(name, passed.point.gradient[name])
            problem.step_of(name).undo_moments_(name, gradient, passed.moments)
        self._add(passed.number == 0, name, adjoint)

    def _remake_first_moments(self, name: str, passed: Passed, out: Tensor) -> None:
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

    def _add(
        self, start: bool, name: str, part: Tensor, minus: Tensor | None = None, scale: float | Tensor = 1.0
    ) -> None:
        """Adds scale * (part - minus) to the adjoint; at the start of the copy, that is the meta-gradient."""
        if start or name in self.problem.held:
            accumulate(self.problem.total, name, part, scale * self.problem.weight, minus)
        else:
            accumulate(self.adjoint, name, part, scale, minus)


def accumulate(total: Tensors, name: str, part: Tensor, weight: float | Tensor, minus: Tensor | None = None) -> None:
    """total[name] += weight * (part - minus), taking over the memory of the first part and overwriting any part."""
    if isinstance(weight, Tensor):
        part = (part if minus is None else part.sub_(minus)).mul_(weight)
        weight, minus = 1.0, None
    if name not in total:
        if minus is not None:
            part.sub_(minus)
        total[name] = part.contiguous() if weight == 1 else part.mul_(weight).contiguous()
        return
    for t, p, *less in blocks(total[name], part, *([] if minus is None else [minus])):
        t.add_(p.sub_(less[0]) if less else p, alpha=weight)


def finite(value: Tensor, kind: str) -> Tensor:
    """The loss; ValueError if it is not finite, but where that would be to wait for a GPU."""
    if not waits_for_numbers(value.device):
        check_finite(float(value), f"the {kind} loss")
    return value
