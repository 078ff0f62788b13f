r"""The optimizer of a run: Muon on the hidden matrices, Adam on everything else, a moving average of the weights, one schedule.

Muon (Jordan et al. 2024) replaces the momentum of a matrix by the nearest semi-unitary one, :math:`UV^*` of its singular value
decomposition, found by five Newton–Schulz iterations; complex matrices are treated as such.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

_WARM_UP = 100
_BETAS, _EPSILON = (0.9, 0.99), 1e-8
_MOMENTUM = 0.95
_MUON = 4.0  # rate of Muon over that of Adam
_AVERAGE = 0.998
_LARGEST_GRADIENT = 1.0
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def schedule(step: int, steps: int) -> float:
    """Return the share of the peak rate at ``step`` (1, 2, …) of ``steps``: linear warm-up, then a cosine to zero."""
    return min(step / _WARM_UP, 1.0) * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))


def orthogonalized(matrix: Tensor) -> Tensor:
    r"""Return a matrix (m, n), real or complex, near :math:`UV^*`: its singular values all brought close to 1.

    The polynomial :math:`x\mapsto 3.4445x-4.775x^3+2.0315x^5`, five times, takes singular values above 1e-2 of the norm into [0.68, 1.14].
    """
    a, b, c = _NEWTON_SCHULZ
    x: Tensor = matrix / matrix.abs().amax().clamp(min=1e-30)  # first, so that squares do not vanish
    x = x / torch.linalg.vector_norm(x).clamp(min=1)
    for _ in range(5):
        gram = x @ x.mH
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x


class Optimizer:
    """Muon on the matrices named in ``hidden`` and Adam on the rest of ``network``; ``average`` follows the weights.

    Its state is plain tensors by name, so that it can be stored and restored to the bit.
    """

    def __init__(self, network: nn.Module, hidden: tuple[str, ...], learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.weights = dict(network.named_parameters())
        self.hidden = hidden
        self.first = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        self.second = {name: torch.zeros_like(_real(w)) for name, w in self.weights.items() if name not in hidden}
        self.average = {name: w.detach().clone() for name, w in self.weights.items()}

    def rates(self, step: int, steps: int) -> list[float]:
        """Return what a step depends on besides gradients: rate, both corrections of Adam, share of the average; ``step`` counts from 1."""
        corrections = [1 / (1 - beta**step) for beta in _BETAS]
        return [self.learning_rate * schedule(step, steps), *corrections, 1 - min(_AVERAGE, step / (step + 9))]

    @torch.no_grad()
    def move(self, gradients: Iterable[Tensor], rates: Tensor) -> None:
        """Move the weights by the gradients, in the order of ``weights``; nothing here waits for the device."""
        found = dict(zip(self.weights, gradients, strict=True))
        rate, first, second, follow = rates.unbind()
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(_real(g)) for g in found.values()]))
        shrink = (_LARGEST_GRADIENT / norm).clamp(max=1.0)
        for name, weight in self.weights.items():
            gradient = found[name] * shrink
            if name in self.hidden:
                momentum = self.first[name].lerp_(gradient, 1 - _MOMENTUM)
                weight.sub_(orthogonalized(gradient.lerp(momentum, _MOMENTUM)) * (_MUON * rate))
            else:
                self._adam(name, _real(weight), _real(gradient), rate * first, second)
            _real(self.average[name]).lerp_(_real(weight), follow)

    def _adam(self, name: str, weight: Tensor, gradient: Tensor, rate: Tensor, correction: Tensor) -> None:
        first, second = _real(self.first[name]).lerp_(gradient, 1 - _BETAS[0]), self.second[name]
        second.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
        size = (second * correction).sqrt_().add_(_EPSILON)
        weight.sub_(first / size * rate)

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor of the state under its name."""
        for part in ("weights", "first", "second", "average"):
            yield from ((f"{part}.{name}", tensor) for name, tensor in getattr(self, part).items())


def _real(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor
