"""SGD and AdamW as functions of (parameter, gradient, moments), each with its adjoint (docs/bilevel.md).

Both act element by element, so an update and its adjoint are a handful of element-wise operations.  They work on one
tensor at a time, so that a gradient can be used up the moment it is computed, and in blocks that fit a CPU's cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


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


@runtime_checkable
class Step(Protocol):
    """One optimizer: how it updates a parameter, and how derivatives flow back through that update."""

    @property
    def lr(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...

    def init(self, parameters: Mapping[str, Tensor]) -> Moments:
        """Moments before the first step: zeros."""

    def update(
        self,
        name: str,
        parameter: Tensor,
        gradient: Tensor,
        moments: Moments,
        out: Tensor,
        slope: Tensor | None = None,
    ) -> None:
        """Writes the updated parameter to `out` (which may be `parameter`) and updates its moments in place.

        `moments.step` must already count this step. slope: gets the derivative of the updated parameter by the
        gradient, which is all there is to pull back when the step is the only one.
        """

    def undo_parameter_(self, name: str, parameter: Tensor, moments: Moments) -> None:
        """Takes `parameter` back to before the step, up to rounding; moments as they were after it."""

    def undo_moments_(self, name: str, gradient: Tensor, moments: Moments) -> None:
        """Takes the moments of one parameter back to before the step with `gradient`, up to rounding."""

    def pull_back(
        self, name: str, adjoint: Tensor, gradient: Tensor, moments: Moments, earlier: Moments, out: Tensor
    ) -> None:
        """Writes u, the derivative of the query loss by the gradient that the step used, to `out`.

        adjoint: derivative by the parameter after the step. moments: as they were after the step. earlier: adjoints of
        the moments, which become those of the moments before the step.
        """


def update_all_(step: Step, parameters: Tensors, gradients: Mapping[str, Tensor], moments: Moments) -> None:
    """One optimizer step on all `parameters`, in place."""
    moments.step += 1
    for name, parameter in parameters.items():
        step.update(name, parameter, gradients[name], moments, out=parameter)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent: velocity = momentum * velocity + g; p = (1 - lr * weight_decay) * p - lr * velocity.

    lr: learning rate. momentum: 0 for plain SGD. weight_decay: decoupled.
    """

    lr: float = 1e-5
    momentum: float = 0.0
    weight_decay: float = 0.0

    def init(self, parameters: Mapping[str, Tensor]) -> Moments:
        """Zero velocities; none at all without momentum."""
        return Moments({name: torch.zeros_like(p) for name, p in parameters.items()} if self.momentum else {}, None)

    def update(
        self,
        name: str,
        parameter: Tensor,
        gradient: Tensor,
        moments: Moments,
        out: Tensor,
        slope: Tensor | None = None,
    ) -> None:
        if slope is not None:
            slope.fill_(-self.lr)
        if not self.momentum:
            for p, g, new in blocks(parameter, gradient, out):
                torch.mul(p, 1 - self.lr * self.weight_decay, out=new).add_(g, alpha=-self.lr)
            return
        for p, g, m, new in blocks(parameter, gradient, moments.first[name], out):
            m.mul_(self.momentum).add_(g)
            torch.mul(p, 1 - self.lr * self.weight_decay, out=new).add_(m, alpha=-self.lr)

    def undo_parameter_(self, name: str, parameter: Tensor, moments: Moments) -> None:
        if not self.momentum:
            raise ValueError('plain SGD keeps no velocity to go back along; use trajectory="keep"')
        parameter.add_(moments.first[name], alpha=self.lr).div_(1 - self.lr * self.weight_decay)

    def undo_moments_(self, name: str, gradient: Tensor, moments: Moments) -> None:
        if self.momentum:
            moments.first[name].sub_(gradient).div_(self.momentum)

    def pull_back(
        self, name: str, adjoint: Tensor, gradient: Tensor, moments: Moments, earlier: Moments, out: Tensor
    ) -> None:
        torch.mul(adjoint, -self.lr, out=out)
        if self.momentum:
            out.add_(earlier.first[name])
            torch.mul(out, self.momentum, out=earlier.first[name])


@dataclass(frozen=True)
class AdamW:
    """AdamW (Loshchilov and Hutter, ICLR 2019) with bias correction and decoupled weight decay.

    lr: learning rate. betas: decay of the running averages of g and g^2. eps: added to the root of the second moment.
    """

    lr: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def init(self, parameters: Mapping[str, Tensor]) -> Moments:
        """Zero running averages."""
        first, second = ({name: torch.zeros_like(p) for name, p in parameters.items()} for _ in range(2))
        return Moments(first, second)

    def _scales(self, step: int) -> tuple[float, float]:
        """c and e such that alpha * mh / (sqrt(vh) + eps) = c * m / (sqrt(v) + e): bias correction folded in."""
        root = math.sqrt(1 - self.betas[1] ** step)
        return self.lr * root / (1 - self.betas[0] ** step), self.eps * root

    def update(
        self,
        name: str,
        parameter: Tensor,
        gradient: Tensor,
        moments: Moments,
        out: Tensor,
        slope: Tensor | None = None,
    ) -> None:
        assert moments.second is not None
        beta1, beta2 = self.betas
        c, e = self._scales(moments.step)
        tensors = [parameter, gradient, moments.first[name], moments.second[name], out]
        tiny, by_first = parameter.new_full((), _TINY), parameter.new_full((), -c * (1 - beta1))
        for p, g, m, v, new, *slopes in blocks(*tensors, *([] if slope is None else [slope])):
            m.lerp_(g, 1 - beta1)
            v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
            root = v.sqrt()
            denominator = root + e if slopes else root.add_(e)
            decayed = torch.mul(p, 1 - self.lr * self.weight_decay, out=new) if self.weight_decay else p
            torch.addcdiv(decayed, m, denominator, value=-c, out=new)
            for d in slopes:  # -c / (sqrt(v) + e) * (dm / dg - m / (2 sqrt(v) (sqrt(v) + e)) * dv / dg)
                both = torch.addcmul(tiny, root, denominator, out=root)  # m = 0 where v = 0
                torch.addcdiv(by_first, torch.mul(g, m, out=d), both, value=c * (1 - beta2), out=d).div_(denominator)

    def undo_parameter_(self, name: str, parameter: Tensor, moments: Moments) -> None:
        assert moments.second is not None
        c, e = self._scales(moments.step)
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

    def pull_back(
        self, name: str, adjoint: Tensor, gradient: Tensor, moments: Moments, earlier: Moments, out: Tensor
    ) -> None:
        assert moments.second is not None
        assert earlier.second is not None
        beta1, beta2 = self.betas
        c, e = self._scales(moments.step)
        tensors = [adjoint, gradient, moments.first[name], moments.second[name]]
        for a, g, m, v, am, av, u in blocks(*tensors, earlier.first[name], earlier.second[name], out):
            # undone moments carry rounding errors, but v holds at least the square of its last gradient
            root = torch.maximum(v, g * g * (1 - beta2)).sqrt_()
            denominator = root + e
            both = root.mul_(denominator).clamp_(min=_TINY)  # m = 0 where v = 0, and so is what both divides
            # d phi' / d m' = -c / (sqrt(v) + e);  d phi' / d v' = c * m / (2 sqrt(v) (sqrt(v) + e)^2)
            by_m = (a / denominator).mul_(-c)
            am.add_(by_m)
            av.addcdiv_(by_m.mul_(m), both, value=-0.5)
            torch.mul(am, 1 - beta1, out=u).addcmul_(g, av, value=2 * (1 - beta2))
            am.mul_(beta1)
            av.mul_(beta2)


_TINY = 1e-30  # keeps 0 / 0 from being nan where a parameter never had a gradient


def blocks(*tensors: Tensor, size: int = 1 << 17) -> Iterator[tuple[Tensor, ...]]:
    """Views of the same `size` elements of each tensor in turn (CPU), or the whole tensors (elsewhere)."""
    first = tensors[0]
    if first.device.type != "cpu" or first.numel() <= size or not all(t.is_contiguous() for t in tensors):
        yield tensors
        return
    yield from zip(*(t.view(-1).split(size) for t in tensors), strict=True)


def global_norm(tensors: Mapping[str, Tensor]) -> Tensor:
    """Euclidean norm of all tensors together, a scalar of float32 or wider."""
    norms = torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors.values()])
    return torch.linalg.vector_norm(norms.to(torch.promote_types(norms.dtype, torch.float32)))


def relative_error(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Norm of the difference over the norm of what was expected."""
    difference = {name: found[name] - tensor for name, tensor in expected.items()}
    return float(global_norm(difference) / global_norm(expected).clamp(min=_TINY))


def clip_by_global_norm_(gradients: Tensors, limit: float | None) -> float:
    """Scales `gradients` in place so that their global norm is at most `limit` (None: leave them); returns the norm."""
    norm = float(global_norm(gradients))
    if limit is not None and norm > limit:
        for gradient in gradients.values():
            gradient.mul_(limit / norm)
    return norm
