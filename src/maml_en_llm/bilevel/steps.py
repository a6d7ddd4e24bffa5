"""SGD and AdamW as functions of (parameters, gradients, moments), each with its adjoint (method.md section 5).

Both act element by element, so an update and its adjoint are a handful of element-wise operations.  Everything is in
place and goes over the tensors in blocks that fit a CPU's cache: each tensor is read and written once.
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


@dataclass
class Adjoint:
    """Derivatives of the query loss by the parameters and moments that a step produced.

    `first` and `second` are None at the last step of a copy, where the query loss depends on the parameters alone.
    """

    parameters: Tensors
    first: Tensors | None = None
    second: Tensors | None = None


@runtime_checkable
class Step(Protocol):
    """One optimizer: how it updates, and how derivatives flow back through an update."""

    @property
    def lr(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...

    def init(self, parameters: Mapping[str, Tensor]) -> Moments:
        """Moments before the first step: zeros."""

    def update_(self, parameters: Tensors, gradients: Mapping[str, Tensor], moments: Moments) -> None:
        """Updates `parameters` and `moments` in place."""

    def reverse_(self, parameters: Tensors, gradients: Mapping[str, Tensor] | None, moments: Moments) -> None:
        """Undoes `update_` in place up to rounding: the parameters when `gradients` is None, else the moments."""

    def adjoint_of_gradient_(
        self, adjoint: Adjoint, gradients: Mapping[str, Tensor], moments: Moments, keep_moments: bool
    ) -> Tensors:
        """u, the derivative of the query loss by the gradient that the step used (a new dict of tensors).

        moments: as they were after the step. With `keep_moments`, `adjoint.first` and `adjoint.second` become the
        derivatives by the moments before the step; `adjoint.parameters` is left alone.
        """


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent: velocity = momentum * velocity + g; p = (1 - lr * weight_decay) * p - lr * velocity.

    lr: learning rate. momentum: 0 for plain SGD. weight_decay: decoupled.
    """

    lr: float = 1e-5
    momentum: float = 0.0
    weight_decay: float = 0.0

    def init(self, parameters: Mapping[str, Tensor]) -> Moments:
        if self.momentum == 0.0:
            return Moments({}, None)
        return Moments({name: torch.zeros_like(p) for name, p in parameters.items()}, None)

    def update_(self, parameters: Tensors, gradients: Mapping[str, Tensor], moments: Moments) -> None:
        moments.step += 1
        for name, parameter in parameters.items():
            velocity = moments.first.get(name)
            if velocity is None:
                parameter.mul_(1 - self.lr * self.weight_decay).add_(gradients[name], alpha=-self.lr)
            else:
                for p, g, m in blocks(parameter, gradients[name], velocity):
                    m.mul_(self.momentum).add_(g)
                    p.mul_(1 - self.lr * self.weight_decay).add_(m, alpha=-self.lr)

    def reverse_(self, parameters: Tensors, gradients: Mapping[str, Tensor] | None, moments: Moments) -> None:
        if self.momentum == 0.0:
            raise ValueError("plain SGD keeps no velocity to go back along; keep the trajectory instead")
        for name, parameter in parameters.items():
            if gradients is None:
                parameter.add_(moments.first[name], alpha=self.lr).div_(1 - self.lr * self.weight_decay)
            else:
                moments.first[name].sub_(gradients[name]).div_(self.momentum)
        if gradients is not None:
            moments.step -= 1

    def adjoint_of_gradient_(
        self, adjoint: Adjoint, gradients: Mapping[str, Tensor], moments: Moments, keep_moments: bool
    ) -> Tensors:
        direction = {name: a * -self.lr for name, a in adjoint.parameters.items()}
        if self.momentum == 0.0:
            return direction
        for name, u in direction.items():
            if adjoint.first is not None:
                u.add_(adjoint.first[name])
        if keep_moments:
            adjoint.first = {name: u * self.momentum for name, u in direction.items()}
        return direction


@dataclass(frozen=True)
class AdamW:
    """AdamW (Loshchilov and Hutter 2019) with bias correction and decoupled weight decay.

    lr: learning rate. betas: decay of the running averages of g and g^2. eps: added to the root of the second moment.
    """

    lr: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def init(self, parameters: Mapping[str, Tensor]) -> Moments:
        zeros = [{name: torch.zeros_like(p) for name, p in parameters.items()} for _ in range(2)]
        return Moments(zeros[0], zeros[1])

    def _corrections(self, step: int) -> tuple[float, float]:
        """1 - beta1^t and 1 - beta2^t."""
        return 1 - self.betas[0] ** step, 1 - self.betas[1] ** step

    def update_(self, parameters: Tensors, gradients: Mapping[str, Tensor], moments: Moments) -> None:
        assert moments.second is not None
        beta1, beta2 = self.betas
        moments.step += 1
        first_correction, second_correction = self._corrections(moments.step)
        root = math.sqrt(second_correction)
        for name, parameter in parameters.items():
            tensors = (parameter, gradients[name], moments.first[name], moments.second[name])
            for p, g, m, v in blocks(*tensors):
                m.mul_(beta1).add_(g, alpha=1 - beta1)
                v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
                denominator = v.sqrt().div_(root).add_(self.eps)
                if self.weight_decay:
                    p.mul_(1 - self.lr * self.weight_decay)
                p.addcdiv_(m, denominator, value=-self.lr / first_correction)

    def reverse_(self, parameters: Tensors, gradients: Mapping[str, Tensor] | None, moments: Moments) -> None:
        assert moments.second is not None
        beta1, beta2 = self.betas
        first_correction, second_correction = self._corrections(moments.step)
        root = math.sqrt(second_correction)
        for name, parameter in parameters.items():
            if gradients is None:
                for p, m, v in blocks(parameter, moments.first[name], moments.second[name]):
                    denominator = v.sqrt().div_(root).add_(self.eps)
                    p.addcdiv_(m, denominator, value=self.lr / first_correction)
                    p.div_(1 - self.lr * self.weight_decay)
            else:
                for m, v, g in blocks(moments.first[name], moments.second[name], gradients[name]):
                    m.sub_(g, alpha=1 - beta1).div_(beta1)
                    v.addcmul_(g, g, value=beta2 - 1).div_(beta2).clamp_(min=0)
        if gradients is not None:
            moments.step -= 1

    def adjoint_of_gradient_(
        self, adjoint: Adjoint, gradients: Mapping[str, Tensor], moments: Moments, keep_moments: bool
    ) -> Tensors:
        assert moments.second is not None
        beta1, beta2 = self.betas
        first_correction, second_correction = self._corrections(moments.step)
        root = math.sqrt(second_correction)
        direction = {name: torch.empty_like(a) for name, a in adjoint.parameters.items()}
        if keep_moments and adjoint.first is None:
            adjoint.first = {name: torch.zeros_like(a) for name, a in adjoint.parameters.items()}
            adjoint.second = {name: torch.zeros_like(a) for name, a in adjoint.parameters.items()}
        for name, u in direction.items():
            tensors = [adjoint.parameters[name], gradients[name], moments.first[name], moments.second[name], u]
            if adjoint.first is not None and adjoint.second is not None:
                tensors += [adjoint.first[name], adjoint.second[name]]
            for a, g, m, v, out, *kept in blocks(*tensors):
                root_v = v.sqrt().div_(root)
                denominator = root_v + self.eps
                # am = -alpha / ((1 - beta1^t) (sqrt(vh) + eps)) * a
                am = (a / denominator).mul_(-self.lr / first_correction)
                # av = alpha * mh / (2 sqrt(vh) (sqrt(vh) + eps)^2 (1 - beta2^t)) * a, 0 where vh = 0
                av = (am * m).div_(denominator).div_(root_v).mul_(-0.5 / second_correction).masked_fill_(v == 0, 0.0)
                if kept:
                    am, av = kept[0].add_(am), kept[1].add_(av)
                torch.mul(am, 1 - beta1, out=out)
                out.addcmul_(g, av, value=2 * (1 - beta2))
                if kept:
                    am.mul_(beta1)
                    av.mul_(beta2)
        return direction


def blocks(*tensors: Tensor, size: int = 1 << 16) -> Iterator[tuple[Tensor, ...]]:
    """Views of the same `size` elements of each tensor in turn (CPU), or the whole tensors (elsewhere)."""
    first = tensors[0]
    if first.device.type != "cpu" or first.numel() <= size or not all(t.is_contiguous() for t in tensors):
        yield tensors
        return
    flat = [t.view(-1).split(size) for t in tensors]
    yield from zip(*flat, strict=True)


def global_norm(tensors: Mapping[str, Tensor]) -> Tensor:
    """Euclidean norm of all tensors together, a float32 (or wider) scalar."""
    norms = torch._foreach_norm(list(tensors.values()))
    return torch.linalg.vector_norm(
        torch.stack([norm.to(torch.promote_types(norm.dtype, torch.float32)) for norm in norms])
    )


def clip_by_global_norm_(gradients: Tensors, limit: float | None) -> float:
    """Scales `gradients` in place so that their global norm is at most `limit` (None: leave them); returns the norm."""
    norm = float(global_norm(gradients))
    if limit is not None and norm > limit:
        for gradient in gradients.values():
            gradient.mul_(limit / norm)
    return norm
