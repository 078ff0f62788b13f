"""Stepping: one process moved through one chunk of paths, and what a functional gathers on the way."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from spectralmc.processes import Increment, Scheme, TimeGrid, with_fields


class Track:
    """A process on its way.  Conditionally, X stays where it is and only its Gaussian increments are made."""

    def __init__(self, process: Any, scheme: Scheme, zeros: Tensor, dt: Tensor, conditional: bool = False) -> None:
        self.process = with_fields(process, lambda value: value.to(zeros).reshape(-1, 1), numbers_too=True)  # (B, 1) meets (B, N)
        self.scheme, self.dt, self.conditional = scheme, dt, conditional
        self.state = self.process.start(zeros) if hasattr(process, "start") else (zeros,)
        self.shape = (process.assets, *zeros.shape) if hasattr(process, "assets") else tuple(zeros.shape)
        self.move: Increment | None = None

    def step(self, normals: Tensor) -> None:
        """Take one step; conditionally ``normals`` lack the last, which is that of the asset."""
        if self.conditional:
            assert self.scheme.increment is not None
            self.move = self.scheme.increment(self.process, self.state[1:], self.dt, normals)
            self.state = (self.state[0], *self.move.state)
            return
        self.state, self.move = self.scheme.advance(self.process, self.state, self.dt, normals)
        if not isinstance(self.state, tuple) or not isinstance(self.state[0], Tensor) or self.state[0].shape != self.shape:
            axes = "(B, N)" if len(self.shape) == 2 else "(A, B, N)"
            raise TypeError(f"the {self.scheme.name} scheme must return a tuple of {axes} tensors, here {self.shape}, X first")


class Mirror:
    """The same path with the opposite noise of the asset: X of another track, reflected in what it is without that noise."""

    def __init__(self, track: Track) -> None:
        self.track, self.process, self.scheme, self.state = track, track.process, track.scheme, track.state[:1]
        self.shape, self.centre = track.shape, track.state[0]
        self.move: Increment | None = None

    def step(self, normals: Tensor) -> None:
        """Take one step, after the track has."""
        move = self.move = self.track.move
        assert move is not None
        self.centre = self.centre + move.mean
        self.state = (torch.lerp(self.track.state[0], self.centre, 2.0),)


class Inner(Track):
    """A track without the asset's own noise that is given all normals."""

    def step(self, normals: Tensor) -> None:
        """Take one step; the last of the normals is not used."""
        super().step(normals[:-1])


class Gatherer(Protocol):
    """Follows a track; at the end it has the fields of a `spectralmc.paths.Sample` that are (B, N)."""

    def update(self, growth: Tensor, fixing: bool) -> None:
        """Take one step, at whose end ln(F_t/S₀) is ``growth``, (B, 1), and which ends at a fixing or before one."""
        ...

    def finish(self) -> dict[str, Tensor]:
        """Return ``log_outcome`` and, where there are such, ``variance`` and ``weight``."""
        ...


class Outcome:
    """The outcome of a functional on a track: it sees the fixings, or every step if it watches the bridges between them."""

    def __init__(self, functional: Any, track: Track | Mirror, zeros: Tensor, grid: TimeGrid) -> None:
        self.functional, self.track, self.zeros, self.steps = functional, track, zeros, grid.steps
        self.bridged = getattr(functional, "bridged", False)
        self.accumulator = functional.start(zeros)

    def update(self, growth: Tensor, fixing: bool) -> None:
        """Take one step."""
        if fixing or self.bridged:
            bridge = (self._quadratic_variation(),) if self.bridged else ()
            self.accumulator = self.functional.update(self.accumulator, self.track.state[0] + growth, *bridge)

    def _quadratic_variation(self) -> Tensor:
        if self.track.move is None or self.track.move.quadratic_variation is None:
            process, name = type(self.track.process).__name__, type(self.functional).__name__
            raise TypeError(
                f"{name} needs the quadratic variation between fixings, which the {self.track.scheme.name} scheme of {process} does not "
                "give: take a scheme whose increment does, or watch the fixings alone"
            )
        return self.track.move.quadratic_variation

    def finish(self) -> dict[str, Tensor]:
        """Return the outcome and its weight."""
        finished = self.functional.finish(self.accumulator, self.steps)
        found = dict(zip(("log_outcome", "weight"), finished if isinstance(finished, tuple) else (finished,), strict=False))
        for value in found.values():
            if value.shape != self.zeros.shape:
                shapes = f"here {tuple(self.zeros.shape)}; got {tuple(value.shape)}"
                several = f": {type(self.track.process).__name__} has {self.track.shape[0]} assets" if len(self.track.shape) == 3 else ""
                raise ValueError(f"finish of {type(self.functional).__name__} must return (B, N), {shapes}{several}")
        return found


class ConditionalOutcome:
    r"""Mean and variance of :math:`\sum_i a_iY_{t_i}` given the noise of the track.

    X moves by increments that are independent Gaussians given that noise, and the k-th reaches all later fixings with
    :math:`A_k=\sum_{i\ge k}a_i`: the mean is :math:`\sum_i a_ibt_i+\sum_k A_km_k`, the variance :math:`\sum_k A_k^2s_k^2`.
    """

    def __init__(self, functional: Any, track: Track, zeros: Tensor, grid: TimeGrid) -> None:
        self.track, self.mean, self.variance = track, zeros, zeros
        weights = torch.zeros(grid.steps, grid.substeps, dtype=torch.float64)
        weights[:, -1] = functional.linear_weights(grid.steps)
        weights = weights.flatten()
        self.waiting = list(zip(weights.tolist(), reach(weights).tolist(), strict=True))

    def update(self, growth: Tensor, fixing: bool) -> None:
        """Take one step."""
        weight, reaches = self.waiting.pop(0)
        move = self.track.move
        assert move is not None
        if weight:
            self.mean = self.mean + weight * growth
        self.mean = torch.add(self.mean, move.mean, alpha=reaches)
        self.variance = torch.add(self.variance, move.variance, alpha=reaches**2)

    def finish(self) -> dict[str, Tensor]:
        """Return mean and variance."""
        return {"log_outcome": self.mean, "variance": self.variance}


class ConditionalMatch:
    """Mean and variance of the lognormal law with the first two moments of the outcome given the noise of the track."""

    def __init__(self, functional: Any, track: Track, zeros: Tensor, grid: TimeGrid) -> None:
        self.match, self.track, self.steps = functional.lognormal_match, track, grid.steps
        self.mean = self.variance = zeros
        self.accumulator = self.match.start(zeros)

    def update(self, growth: Tensor, fixing: bool) -> None:
        """Take one step."""
        move = self.track.move
        assert move is not None
        self.mean, self.variance = self.mean + move.mean, self.variance + move.variance
        if fixing:
            self.accumulator = self.match.update(self.accumulator, self.mean + growth, self.variance)

    def finish(self) -> dict[str, Tensor]:
        """Return mean and variance."""
        return dict(zip(("log_outcome", "variance"), self.match.finish(self.accumulator, self.steps), strict=True))


def reach(weights: Tensor) -> Tensor:
    """Return A_k = Σ_{i≥k} a_i, (M,): the weight of the k-th increment of X in Σ a_i Y_{t_i}."""
    return weights.flip(-1).cumsum(-1).flip(-1)
