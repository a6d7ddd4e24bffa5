"""Optimizers as functions of (parameter, gradient, moments), each with its adjoint (docs/bilevel.md).

An optimizer acts element by element, so an update and its adjoint are a handful of element-wise operations.  They work
on one tensor at a time, so that a gradient can be used up the moment it is computed, and in blocks that fit a CPU's
cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Norms = Callable[..., list[float]]  # of whole tensors, from those of the parts that this process has

STEEP = 1e-6
"""sqrt(v_hat) below which AdamW has no useful derivative by a coordinate's first gradient: there it is a cliff, up to
lr / eps steep and as narrow as eps, that a gradient of any size jumps (docs/bilevel.md). With an eps of this size or
more there is no cliff, and no derivative is left out."""


@dataclass
class Moments:
    """Running state of an optimizer: `first` (m, or SGD's velocity), `second` (v; None for SGD), and the step count t.

    Tensors have the shapes and dtypes of the parameters they belong to.
    """

    first: Tensors
    second: Tensors | None
    step: int = 0

    def clone(self) -> Moments:
        second = None if self.second is None else {name: v.clone() for name, v in self.second.items()}
        return Moments({name: m.clone() for name, m in self.first.items()}, second, self.step)

    def of(self, name: str) -> tuple[Tensor | None, Tensor | None]:
        """The moments of one parameter, as far as its optimizer has them."""
        return self.first.get(name), (self.second or {}).get(name)


class Used(NamedTuple):
    """What a step was taken with: moments as they were after it if the step is `closed_form`, before it otherwise."""

    parameter: Tensor
    gradient: Tensor
    moments: Moments


class Step:
    """An optimizer that treats each coordinate alone.

    A new one is a frozen dataclass with `init` and `formula`: the rest follows from them by autograd.  SGD and AdamW
    are `closed_form`: they write update and derivative out, which takes less time and memory.
    """

    closed_form: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        """Sees to it that a subclass does not combine its own update with the derivative of another."""
        own = vars(cls)
        if "formula" in own:
            for name in {"closed_form", "update", "pull_back", "undo_parameter_", "undo_moments_"} - own.keys():
                setattr(cls, name, getattr(Step, name))
        elif "update" in own and "pull_back" not in own:
            raise TypeError(f"{cls.__name__} has its own update without a derivative; write its formula instead")

    def of(self, name: str) -> Step | None:
        """The optimizer of one parameter; None for one that no step changes."""
        return self

    def with_options(self, options: Mapping[str, Any]) -> Step:
        """The same optimizer with tensors, which broadcast against a parameter, in place of some of its numbers."""
        if unknown := sorted(options.keys() - vars(self).keys()):
            raise ValueError(f"{type(self).__name__} has no {unknown[0]} that could be learned")
        learned = copy(self)
        vars(learned).update(options)  # types and frozenness are for those who write a step down
        return learned

    def init(self, parameters: Mapping[str, Tensor]) -> Moments:
        """Moments before the first step: none, unless a subclass has some."""
        return Moments({}, None)

    def formula(
        self, parameter: Tensor, gradient: Tensor, first: Tensor | None, second: Tensor | None, t: int
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Parameter and moments after step number t = 1, 2, ..., as autograd can differentiate them."""
        raise NotImplementedError(f"{type(self).__name__} has no formula")

    def update(self, name: str, parameter: Tensor, gradient: Tensor, moments: Moments, out: Tensor) -> None:
        """Writes the updated parameter to `out` (which may be `parameter`) and updates its moments in place.

        `moments.step` must already count this step.
        """
        with torch.no_grad():
            new = self.formula(parameter, gradient, *moments.of(name), moments.step)
            for target, value in zip((out, *moments.of(name)), new, strict=True):
                if target is not None and value is not None:
                    target.copy_(value)

    def pull_back(self, name: str, adjoint: Tensor, used: Used, earlier: Moments | None, out: Tensor) -> Tensor | None:
        """The adjoint of `update`: takes derivatives of the query loss back from after the step to before it, in place.

        adjoint: by the parameter. earlier: by the moments; None if they are zero and not wanted. out: gets u, that by
        the gradient. Returns the number of coordinates whose derivative was left out as STEEP, if there are some.
        """
        return pull_back_by_formula(self, {}, name, adjoint, used, earlier, out)[0]

    def undo_parameter_(self, name: str, parameter: Tensor, moments: Moments) -> None:
        """Takes `parameter` back to before the step, up to rounding; moments as they were after it."""
        raise ValueError(f'{type(self).__name__} steps cannot be undone; use trajectory="keep" or "replay"')

    def undo_moments_(self, name: str, gradient: Tensor, moments: Moments) -> None:
        """Takes the moments of one parameter back to before the step with `gradient`, up to rounding."""

    def steep(self, gradient: Tensor, second: Tensor | None, t: int) -> Tensor | None:
        """Coordinates (bool) whose derivative is left out; None if there are none. second: after the step."""
        return None


def pull_back_by_formula(
    step: Step,
    options: Mapping[str, Tensor],
    name: str,
    adjoint: Tensor,
    used: Used,
    earlier: Moments | None,
    out: Tensor,
) -> tuple[Tensor | None, Tensors]:
    """`Step.pull_back` for any step with a formula, and the derivatives by `options`, tensors in place of its numbers.

    The moments in `used` are those before the step, its number not yet counted.
    """

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.detach().clone().requires_grad_()

    t = used.moments.step + 1
    first, second = moments = [None if m is None else leaf(m) for m in used.moments.of(name)]
    learned = {option: leaf(tensor) for option, tensor in options.items()}
    inputs = [leaf(used.parameter), leaf(used.gradient)]
    with torch.enable_grad():
        new = (step.with_options(learned) if learned else step).formula(inputs[0], inputs[1], first, second, t)
    adjoints = [adjoint, *((None, None) if earlier is None else earlier.of(name))]
    pairs = [(n, a) for n, a in zip(new, adjoints, strict=True) if n is not None and a is not None and n.requires_grad]
    inputs += [m for m in moments if m is not None] + list(learned.values())
    outputs, weights = [n for n, _ in pairs], [a for _, a in pairs]
    derivatives = list(torch.autograd.grad(outputs, inputs, weights, allow_unused=True, materialize_grads=True))
    adjoint.copy_(derivatives.pop(0))
    out.copy_(derivatives.pop(0))
    for m, a in zip(moments, adjoints[1:], strict=True):
        if m is not None:
            derivative = derivatives.pop(0)
            if a is not None:
                a.copy_(derivative)
    steep = step.steep(used.gradient, None if new[2] is None else new[2].detach(), t)
    return None if steep is None else steep.sum(), dict(zip(learned, derivatives, strict=True))


def update_all_(step: Step, parameters: Tensors, gradients: Mapping[str, Tensor], moments: Moments) -> None:
    """One optimizer step on all `parameters`, in place."""
    moments.step += 1
    for name, parameter in parameters.items():
        own = step.of(name)
        if own is not None:
            own.update(name, parameter, gradients[name], moments, out=parameter)


@dataclass(frozen=True)
class SGD(Step):
    """Stochastic gradient descent: velocity = momentum * velocity + g; p = (1 - lr * weight_decay) * p - lr * velocity.

    lr: learning rate. momentum: 0 for plain SGD. weight_decay: decoupled.
    """

    lr: float = 1e-5
    momentum: float = 0.0
    weight_decay: float = 0.0
    closed_form = True

    def init(self, parameters: Mapping[str, Tensor]) -> Moments:
        """Zero velocities; none at all without momentum."""
        return Moments({name: torch.zeros_like(p) for name, p in parameters.items()} if self.momentum else {}, None)

    def formula(
        self, parameter: Tensor, gradient: Tensor, first: Tensor | None, second: Tensor | None, t: int
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        velocity = gradient if first is None else self.momentum * first + gradient
        new = (1 - self.lr * self.weight_decay) * parameter - self.lr * velocity
        return new, None if first is None else velocity, None

    def update(self, name: str, parameter: Tensor, gradient: Tensor, moments: Moments, out: Tensor) -> None:
        if not self.momentum:
            for p, g, new in blocks(parameter, gradient, out):
                torch.mul(p, 1 - self.lr * self.weight_decay, out=new).add_(g, alpha=-self.lr)
            return
        for p, g, m, new in blocks(parameter, gradient, moments.first[name], out):
            m.mul_(self.momentum).add_(g)
            torch.mul(p, 1 - self.lr * self.weight_decay, out=new).add_(m, alpha=-self.lr)

    def pull_back(self, name: str, adjoint: Tensor, used: Used, earlier: Moments | None, out: Tensor) -> Tensor | None:
        torch.mul(adjoint, -self.lr, out=out)
        if self.momentum and earlier is not None:
            out.add_(earlier.first[name])
            torch.mul(out, self.momentum, out=earlier.first[name])
        if self.weight_decay:
            adjoint.mul_(1 - self.lr * self.weight_decay)
        return None

    def undo_parameter_(self, name: str, parameter: Tensor, moments: Moments) -> None:
        if not self.momentum:
            raise ValueError('plain SGD keeps no velocity to go back along; use trajectory="keep" or "replay"')
        parameter.add_(moments.first[name], alpha=self.lr).div_(1 - self.lr * self.weight_decay)

    def undo_moments_(self, name: str, gradient: Tensor, moments: Moments) -> None:
        moments.first[name].sub_(gradient).div_(self.momentum)


@dataclass(frozen=True)
class AdamW(Step):
    """AdamW (Loshchilov and Hutter, ICLR 2019) with bias correction and decoupled weight decay.

    lr: learning rate. betas: decay of the running averages of g and g^2. eps: added to the root of the second moment.
    """

    lr: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    closed_form = True

    def with_options(self, options: Mapping[str, Any]) -> Step:
        """Beta 1 and 2 are options of their own, `beta1` and `beta2`."""
        rest = dict(options)
        betas = tuple(rest.pop(name, beta) for name, beta in zip(("beta1", "beta2"), self.betas, strict=True))
        return super().with_options(rest | {"betas": betas})

    def init(self, parameters: Mapping[str, Tensor]) -> Moments:
        """Zero running averages."""
        first, second = ({name: torch.zeros_like(p) for name, p in parameters.items()} for _ in range(2))
        return Moments(first, second)

    def formula(
        self, parameter: Tensor, gradient: Tensor, first: Tensor | None, second: Tensor | None, t: int
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        assert first is not None
        assert second is not None
        (beta1, beta2), g = self.betas, gradient
        m, v = beta1 * first + (1 - beta1) * g, beta2 * second + (1 - beta2) * g * g
        used = v > 0
        root = torch.where(used, torch.where(used, v / (1 - beta2**t), 1).sqrt(), 0)  # whose derivative at 0 is not inf
        by_eps = m / (1 - beta1**t) / (root + self.eps)
        steep = self.steep(g, v, t)
        change = self.lr * torch.where(steep, by_eps.detach(), by_eps)
        return (1 - self.lr * self.weight_decay) * parameter - change, m, v

    def steep(self, gradient: Tensor, second: Tensor | None, t: int) -> Tensor:
        """Where the moments are those of this gradient alone, it is next to nothing, and eps is less."""
        assert second is not None
        own = (1 - self.betas[1]) * gradient.detach().square()
        alone = (second.detach() <= STEEP**2 * (1 - self.betas[1] ** t)) & (second.detach() <= _SAME * own)
        return alone & (torch.as_tensor(self.eps, device=own.device) < STEEP)

    def _scales(self, step: int) -> tuple[float, float, float]:
        """c and e such that lr * mh / (sqrt(vh) + eps) = c * m / (sqrt(v) + e), bias correction folded in; and the
        v of STEEP."""
        root = math.sqrt(1 - self.betas[1] ** step)
        return self.lr * root / (1 - self.betas[0] ** step), self.eps * root, (STEEP * root) ** 2

    def update(self, name: str, parameter: Tensor, gradient: Tensor, moments: Moments, out: Tensor) -> None:
        assert moments.second is not None
        beta1, beta2 = self.betas
        c, e, _ = self._scales(moments.step)
        for p, g, m, v, new in blocks(parameter, gradient, moments.first[name], moments.second[name], out):
            m.lerp_(g, 1 - beta1)
            v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
            denominator = v.sqrt().add_(e)
            decayed = torch.mul(p, 1 - self.lr * self.weight_decay, out=new) if self.weight_decay else p
            torch.addcdiv(decayed, m, denominator, value=-c, out=new)

    def pull_back(self, name: str, adjoint: Tensor, used: Used, earlier: Moments | None, out: Tensor) -> Tensor | None:
        gradient, moments = used.gradient, used.moments
        assert moments.second is not None
        beta1, beta2 = self.betas
        c, e, small = self._scales(moments.step)
        tensors = [adjoint, gradient, moments.first[name], moments.second[name], out]
        if earlier is not None:
            assert earlier.second is not None
            tensors += [earlier.first[name], earlier.second[name]]
        eps, of_m = gradient.new_full((), e), gradient.new_full((), -c * (1 - beta1))
        kept, numbers = [], 0
        for a, g, m, v, u, *average in blocks(*tensors):
            history = torch.addcmul(v, g, g, value=-_SAME * (1 - beta2))
            smooth = None  # 1 where there is a derivative, 0 where it is left out; arithmetic is faster than bools
            if self.eps < STEEP and (v.device.type != "cpu" or bool(history.min() <= 0)):
                smooth = torch.maximum(history, v - small, out=history).clamp_(min=0).sign_()
                kept.append(smooth.sum())
                numbers += smooth.numel()
            # undone moments carry rounding errors, but v holds at least the square of its last gradient
            v = torch.maximum(v, g * g * (1 - beta2)) if average else v
            inverse = (v + _TINY).rsqrt_()  # sqrt is slow at 0;  m = 0 where v = 0, and so is what this multiplies
            denominator = torch.addcmul(eps, v, inverse)
            # d phi' / d m' = -c / (sqrt(v) + e);  d phi' / d v' = c * m / (2 sqrt(v) (sqrt(v) + e)^2)
            if average:
                am, av = average
                by_m = (a / denominator).mul_(-c)
                if smooth is not None:
                    by_m.mul_(smooth)
                am.add_(by_m)
                av.addcdiv_(by_m.mul_(m).mul_(inverse), denominator, value=-0.5)
                torch.mul(am, 1 - beta1, out=u).addcmul_(g, av, value=2 * (1 - beta2))
                am.mul_(beta1)
                av.mul_(beta2)
            else:  # the same with am = av = 0
                by_v = torch.mul(g, m, out=u).mul_(inverse)
                torch.addcdiv(of_m, by_v, denominator, value=c * (1 - beta2), out=u).mul_(a).div_(denominator)
                if smooth is not None:
                    u.mul_(smooth)
        if self.weight_decay:
            adjoint.mul_(1 - self.lr * self.weight_decay)
        return numbers - torch.stack(kept).sum() if kept else None

    def undo_parameter_(self, name: str, parameter: Tensor, moments: Moments) -> None:
        assert moments.second is not None
        c, e, _ = self._scales(moments.step)
        for p, m, v in blocks(parameter, moments.first[name], moments.second[name]):
            p.addcdiv_(m, v.sqrt().add_(e), value=c).div_(1 - self.lr * self.weight_decay)

    def undo_moments_(self, name: str, gradient: Tensor, moments: Moments) -> None:
        assert moments.second is not None
        beta1, beta2 = self.betas
        for m, v, g in blocks(moments.first[name], moments.second[name], gradient):
            m.sub_(g, alpha=1 - beta1).div_(beta1)
            v.addcmul_(g, g, value=beta2 - 1).div_(beta2)
            # What rounding leaves of a first gradient must not pass for moments: derivatives divide by them.
            first = v <= 64 * torch.finfo(v.dtype).eps * g * g * (1 - beta2)
            v.masked_fill_(first, 0)
            m.masked_fill_(first, 0)


@dataclass(frozen=True)
class Groups(Step):
    """Parameter groups: the optimizer of each parameter is that of the first pattern that fits its name (fnmatch).

    None is an optimizer that leaves its parameters as they are.

    >>> Groups({"*.bias": None, "head.*": AdamW(lr=1e-3), "*": AdamW(lr=1e-5, weight_decay=0.1)}).of("head.weight").lr
    0.001
    """

    groups: Mapping[str, Step | None]

    @property
    def closed_form(self) -> bool:  # type: ignore[override]
        return all(step is None or step.closed_form for step in self.groups.values())

    def of(self, name: str) -> Step | None:
        """Raises ValueError for a name that no pattern fits."""
        for pattern, step in self.groups.items():
            if fnmatchcase(name, pattern):
                return None if step is None else step.of(name)
        raise ValueError(f"no group of {', '.join(self.groups)} has parameter {name}; add one that is named *")

    def init(self, parameters: Mapping[str, Tensor]) -> Moments:
        """The moments that each parameter's own optimizer has."""
        first: Tensors = {}
        second: Tensors = {}
        for name, parameter in parameters.items():
            if (own := self.of(name)) is not None:
                moments = own.init({name: parameter})
                first |= moments.first
                second |= moments.second or {}
        return Moments(first, second or None)


_TINY = 1e-30  # keeps 0 / 0 from being nan where a parameter never had a gradient
_SAME = 1.0001  # factor within which two second moments are the same up to rounding


def blocks(*tensors: Tensor, size: int = 1 << 17) -> Iterator[tuple[Tensor, ...]]:
    """Views of the same `size` elements of each tensor in turn (CPU), or the whole tensors (elsewhere).

    None of tensors without elements.
    """
    first = tensors[0]
    if not first.numel():
        return
    if first.device.type != "cpu" or first.numel() <= size or not all(t.is_contiguous() for t in tensors):
        yield tensors
        return
    yield from zip(*(t.view(-1).split(size) for t in tensors), strict=True)


def global_norm(tensors: Mapping[str, Tensor], norms: Norms | None = None) -> Tensor:
    """Euclidean norm of all tensors together, a scalar of float32 or wider."""
    each = torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors.values()])
    total = torch.linalg.vector_norm(each.to(torch.promote_types(each.dtype, torch.float32)))
    return total if norms is None else total.new_tensor(norms(float(total))[0])


def relative_error(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], norms: Norms | None = None) -> float:
    """Norm of the difference over the norm of what was expected."""
    difference = {name: found[name] - tensor for name, tensor in expected.items()}
    return float(global_norm(difference, norms) / global_norm(expected, norms).clamp(min=_TINY))


def waits_for_numbers(device: torch.device) -> bool:
    """Whether a program that reads a number from a tensor there waits for all that was asked of the device."""
    return device.type != "cpu"


def figure(value: Tensor) -> float | Tensor:
    """The number in `value`, or `value` itself where reading it would be to wait."""
    return value if waits_for_numbers(value.device) else float(value)


def clip_by_global_norm_(gradients: Tensors, limit: float | None, norms: Norms | None = None) -> float | Tensor:
    """Scales `gradients` in place so that their global norm is at most `limit` (None: leave them).

    Returns the norm before; on a GPU as a tensor, which nothing waits for.
    """
    total = global_norm(gradients, norms)
    if waits_for_numbers(total.device):
        if limit is not None:
            scale = (limit / total).clamp(max=1)
            for gradient in gradients.values():
                gradient.mul_(scale)
        return total
    norm = float(total)
    if limit is not None and norm > limit:
        for gradient in gradients.values():
            gradient.mul_(limit / norm)
    return norm
