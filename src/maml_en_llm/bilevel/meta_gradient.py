"""The meta-gradient of n explored copies with k inner steps each: adapt there, recurse back.

A copy starts from phi_0 = theta; with eta the parameters that are held,

    g_j   = grad_phi L(phi_{j-1}, eta; S_j)
    phi_j = step(phi_{j-1}, T(g_j, eta); alpha_j)                                      j = 1 .. k
    q     = sum over j of w_j * mean over i of L_q(phi_j, eta; Q_i)                    w = (0, .., 0, 1) if not given

An inner optimizer acts element by element, so the derivative of an inner step is diagonal matrices plus one Hessian.
Going back through it costs one Hessian-vector product, whatever the optimizer, and no autograd graph ever spans an
update (docs/bilevel.md).  Gradients are used up as they are computed, so that apart from the parameters and the
optimizer's moments only the support gradient, one set of adapted parameters and the result are in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .checks import check_batches
from .curvature import Curvature, Loss, value_and_gradient
from .exploration import Copy, GradientMap, Problem, Rates, accumulate
from .exploration import Order as Order
from .exploration import Trajectory as Trajectory
from .exploration import Workspace as Workspace
from .steps import AdamW, Moments, Step, Tensors, relative_error


@dataclass(frozen=True)
class MetaGradient:
    """What one meta-update needs and reports.

    gradients: d(mean query loss)/d(parameters), names and shapes of the parameters, held ones included.
    query_loss: mean over copies and their query batches, at the adapted parameters; nan where there was none.
        support_loss: mean over copies and their inner steps, each before its step. Both detached scalars.
    state: moments after all inner steps, when they were shared; else None.
    second_order_share: |G_second - G_first| / |G_first|, when asked for; else None.
    rates: d(mean query loss)/d(rates), in the shapes of the rates.
    steep: share of the coordinates of all inner steps whose derivative AdamW left out (steps.STEEP); on a GPU a scalar
        tensor.
    notes: what was not computed as asked for, and what asks for attention, a sentence each; mostly none.
    """

    gradients: Tensors
    query_loss: Tensor
    support_loss: Tensor
    state: Moments | None
    second_order_share: float | None = None
    rates: dict[str, Any] | None = None
    steep: float | Tensor = 0.0
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
    mapping: GradientMap | None = None,
    query_loss: Loss | None = None,
    query_weights: Sequence[float] = (),
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
    order: `second` is exact; `first` takes the adapted parameters as if they did not depend on the initial ones. With
        learned rates, gradients that inner steps use are then constants.
    curvature: how Hessian-vector products are computed: `exact`, or `difference` or `central` differences of gradients,
        which work with any attention kernel and cost one gradient or two.
    held: names in `parameters` that the losses read and inner steps leave alone.
    rates: learned learning rates of the inner steps by name, instead of the step's own: a number, or one for each step
        [steps], or, behind that first dimension (1: the same for all steps), what broadcasts to the parameter. A dict
        in place of a tensor has several learned numbers of the step by their names (AdamW: lr, beta1, beta2, eps,
        weight_decay), and the moments `first` and `second` that a copy starts from.
    mapping: `mapping(held parameters, name, gradient) -> gradient`, what inner steps use instead of the gradient.
    query_loss: of query batches, when it is another than that of support batches. query_weights: weights of the query
        loss after each inner step, in place of 1 for the last (MAML++).
    trajectory: with k > 1, `keep` every inner step's parameters, gradient and moments; or go back by undoing steps and
        `recompute` each gradient: memory that does not grow with k for one more gradient a step (not for plain SGD);
        or `replay` steps from some that are kept: about log2(k) sets of parameters and moments, for any optimizer.
    donate_state: update `state` in place instead of a copy of it. measure_share: also compute second_order_share.
    workspace: a dict, empty at first, in which memory for one or two sets of parameters is kept from call to call.

    Raises ValueError when support and query do not have the same n >= 1 copies with a batch or more each, when a loss
    is not finite (on a GPU nothing is read, so that this is for the caller to see), and when an argument is not what it
    should be.

    >>> theta = {"w": torch.tensor([1.0])}
    >>> quadratic = lambda p, batch: (p["w"] ** 2).sum()
    >>> from maml_en_llm import SGD
    >>> meta_gradient(quadratic, theta, [[None]], [[None]], step=SGD(lr=0.1)).gradients  # (1 - 0.2) * 2 * 0.8
    {'w': tensor([1.2800])}
    """
    check_batches(support, query, query_weights)
    problem = Problem(
        loss, parameters, held, step, state, rates, mapping, query_loss, order, curvature, trajectory,
        most_steps=max(map(len, support)),
        weight=1 / len(support),
        plain={} if measure_share else None,
        workspace={} if workspace is None else workspace,
    )  # fmt: skip
    shared = state if state is None or donate_state else state.clone()
    for support_batches, query_batches in zip(support, query, strict=True):
        Copy(problem, support_batches, shared, query_batches, query_weights).add_meta_gradient()
    return _result(problem, shared)


class Exploration:
    """Inner steps that were taken, and any derivative through them.

    adapted: the parameters after them, held ones included. support_losses: [k], each before its step. state: the
    moments after them.
    """

    def __init__(self, problem: Problem, support: Sequence[Any], state: Moments | None) -> None:
        self._problem, self._shared, copy = problem, state is not None, Copy(problem, support, state)
        self._copy = copy
        self.adapted = dict(copy.after)
        self.state = copy.moments
        if copy.undo:  # the way back works in this memory
            self.adapted |= {name: copy.after[name].clone() for name in problem.inner}
            self.state = copy.moments.clone()
        self.support_losses = torch.stack(copy.support_losses)

    def continue_(self, batches: Sequence[Any]) -> Tensors:
        """The parameters after more steps of the same optimizer, one per batch, which nothing is differentiated by.

        Numbers that were learned for each step stay as in the last one.
        """
        problem, moments, last = self._problem, self.state.clone(), len(self.support_losses) - 1
        further = self.adapted | {name: self.adapted[name].clone() for name in problem.inner}
        for batch in batches:
            _, gradients = value_and_gradient(problem.loss, further, batch)
            moments.step += 1
            for name in problem.inner:
                problem.update(last, name, further[name], gradients[name], moments, out=further[name])
        return further

    def pull_back(self, adjoint: Mapping[str, Tensor]) -> MetaGradient:
        """Derivatives, by all that was explored from, of a scalar whose derivative by `adapted` is `adjoint`.

        Names that are missing in it count as zeros. It uses up what was kept: ValueError at a second call.
        """
        copy, problem = self._copy, self._problem
        if copy.passed is None:
            raise ValueError("this exploration was pulled back before; explore again")
        for name, p in self.adapted.items():
            given = adjoint[name].detach().clone() if name in adjoint else torch.zeros_like(p)
            accumulate(problem.total if name in problem.held else copy.adjoint, name, given, 1.0)
        copy.go_back()
        return _result(problem, self.state if self._shared else None)


def explore(
    loss: Loss,
    parameters: Mapping[str, Tensor],
    support: Sequence[Any],
    step: Step = AdamW(lr=1e-5),  # noqa: B008 (frozen)
    state: Moments | None = None,
    curvature: Curvature = "exact",
    *,
    held: Collection[str] = (),
    rates: Rates | None = None,
    mapping: GradientMap | None = None,
    trajectory: Trajectory = "keep",
) -> Exploration:
    """One copy's inner steps on the batches of `support`, with arguments as those of `meta_gradient`.

    For query losses that `meta_gradient` has no place for: of several copies together, or of targets that were made
    from `adapted`. `loss` may be differentiated by the caller at `adapted`, and `pull_back` does the rest.

    >>> theta, tuned = {"w": torch.tensor([1.0])}, lambda p, batch: (p["w"] ** 2).sum()
    >>> from maml_en_llm import SGD
    >>> exploration = explore(tuned, theta, [None], SGD(lr=0.1))
    >>> exploration.adapted, exploration.pull_back({"w": torch.tensor([1.0])}).gradients
    ({'w': tensor([0.8000])}, {'w': tensor([0.8000])})
    """
    check_batches([support], [[None]])
    problem = Problem(
        loss, parameters, held, step, state, rates, mapping, None, "second", curvature, trajectory, len(support)
    )
    return Exploration(problem, support, None if state is None else state.clone())


def _result(problem: Problem, state: Moments | None) -> MetaGradient:
    """What the copies summed up in `problem`."""
    return MetaGradient(
        gradients={name: problem.total[name] for name in problem.parameters},
        query_loss=torch.stack(problem.query_losses or [torch.tensor(torch.nan)]).mean(),
        support_loss=torch.stack(problem.support_losses).mean(),
        state=state,
        second_order_share=None
        if problem.plain is None
        else relative_error(problem.total, problem.plain, getattr(problem.loss, "norms", None)),
        rates=None
        if problem.rates is None
        else {
            name: problem.by_options[name] if isinstance(rate, Mapping) else problem.by_options[name]["lr"]
            for name, rate in problem.rates.items()
        },
        steep=problem.steep_share(),
        notes=tuple(problem.notes),
    )
