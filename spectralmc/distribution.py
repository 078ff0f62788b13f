r"""From a characteristic function to everything one asks of a distribution, whether φ is exact, empirical or learned.

The outcome X = ln(outcome/F) is standardised, Z = (X − m)/s, and its density is a Fourier series on [−L, L] with w_k = πk/L,

.. math:: f(z) = \frac1{2L}\Bigl(1 + 2\,\mathrm{Re}\sum_{k=1}^{K}\varphi_Z(w_k)\,e^{-iw_kz}\Bigr),

so that cdf, expected shortfall, cumulants and prices are integrals of exponentials, closed and linear in φ (the complex form of the
Fourier-cosine method: Fang and Oosterlee 2008, section 2).  An atom (a knocked-out path, a maximum still at its start) stands beside
the series, which acts on the continuous part alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spectralmc.spectrum import FrequencyGrid, empirical_characteristic_function
from spectralmc.validation import Number, real

CharacteristicFunction = Callable[[Tensor], Tensor]
_MOST_FREQUENCIES = 1 << 13
_ONE, _ZERO = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)


@dataclass(frozen=True)
class Distribution:
    """The law of X = ln(outcome/F) for one or many parameter sets.

    Shapes: ``batch`` stands for () or (B,).

    Attributes
    ----------
    values
        φ_Z(w_k), k = 1…K, of the continuous part, complex128, (*batch, K).
    grid
        the frequencies.
    location, scale
        m and s of Z = (X − m)/s, batch.
    mass
        probability of the continuous part, batch.
    atom
        the point of X that carries the rest, batch: −∞ where that outcome is worth nothing (knocked out); irrelevant where ``mass`` is 1.
    """

    values: Tensor
    grid: FrequencyGrid
    location: Tensor
    scale: Tensor
    mass: Tensor = _ONE
    atom: Tensor = _ZERO

    def __post_init__(self) -> None:
        location, scale = real("location", self.location).double(), real("scale", self.scale, "positive").double()
        mass, atom = real("mass", self.mass, "non-negative").double(), torch.as_tensor(self.atom, dtype=torch.float64)
        real("atom", torch.where(atom == -torch.inf, 0.0, atom))
        if bool((mass > 1).any()):
            raise ValueError(f"mass must lie in [0, 1]; got {float(mass.max())}")
        if self.values.shape[-1:] != (self.grid.size,):
            raise ValueError(f"values must end in K = {self.grid.size} frequencies; got shape {tuple(self.values.shape)}")
        if not self.values.is_complex():
            raise TypeError(f"values must be complex, φ at the frequencies of the grid; got {self.values.dtype}")
        if not bool(torch.isfinite(torch.view_as_real(self.values.detach().resolve_conj())).all()):
            raise ValueError("values of a characteristic function must be finite; got NaN or infinity")
        batch = self.values.shape[:-1]
        for name, value in (("location", location), ("scale", scale), ("mass", mass), ("atom", atom)):
            object.__setattr__(self, name, value.expand(batch))
        object.__setattr__(self, "values", self.values.to(torch.complex128))

    @classmethod
    def of(cls, law: Any, maturity: Number | None = None, grid: FrequencyGrid | None = None, floor: float = 1e-16) -> Distribution:
        """Make a distribution from a process with a closed form, a `Sample`, or any callable φ(u).

        Location and scale come from φ near zero, or are those of the sample, whose weights give ``mass`` and ``atom``.  Without a
        ``grid``, L is 16 standard deviations and K reaches the first frequency at which every |φ| is below ``floor`` (for a sample:
        below twice its standard error).

        Raises
        ------
        TypeError
            the law has no characteristic function.
        ValueError
            φ is not that of a law with a positive finite variance.
        """
        phi, sampled = _characteristic_function(law, maturity), hasattr(law, "log_return")
        location, scale = _sample_moments(law) if sampled else _location_scale(phi)
        floor = max(floor, _noise(law, scale)) if sampled else floor
        grid = grid or FrequencyGrid(16.0, _size(phi, scale, 16.0, floor))
        w = grid.frequency
        values = phi(w / scale[..., None]) * torch.exp(-1j * w * (location / scale)[..., None])
        return cls(values, grid, location, scale, *(_sample_atom(law) if sampled else ()))

    def characteristic_function(self, frequency: Number) -> Tensor:
        """Return E[e^{iuX}] at any real ``frequency`` (J,), batch + (J,): the transform of the series, exact on its own grid.

        An atom at −∞ has no phase and is left out.
        """
        u = real("frequency", frequency)
        w, half = self._w, self.grid.half_width
        v = (u * self.scale[..., None])[..., None, :]  # batch, 1, J
        series = torch.sinc((v * half / math.pi)[..., 0, :]) + 0j
        for sign, values in ((1, self.values), (-1, self.values.conj())):
            series = series + (values[..., None] * torch.sinc((v - sign * w[:, None]) * half / math.pi)).sum(-2)
        shifted = series * torch.exp(1j * u * self.location[..., None])
        rest = torch.where(self._worthless, 0.0, 1 - self.mass)[..., None]
        return self.mass[..., None] * shifted + rest * torch.exp(1j * u * self._finite_atom[..., None])

    def density(self, log_return: Number) -> Tensor:
        """Return the density of the continuous part, per unit of X; it integrates to ``mass``.

        Shapes: ``log_return`` (J,) or batch + (J,) to batch + (J,); a single number to batch.
        """
        if torch.as_tensor(log_return).ndim == 0:
            return self.density(real("log_return", log_return)[None])[..., 0]
        z = self._standardised(log_return)
        phases = torch.exp(-1j * z[..., None] * self._w)
        series = (1 + 2 * (phases * self.values[..., None, :]).real.sum(-1)) / (2 * self.grid.half_width)
        inside = z.abs() <= self.grid.half_width
        return torch.where(inside, series, 0.0) * (self.mass / self.scale)[..., None]

    def cdf(self, log_return: Number) -> Tensor:
        """Return P(X ≤ x); shapes as `density`."""
        if torch.as_tensor(log_return).ndim == 0:
            return self.cdf(real("log_return", log_return)[None])[..., 0]
        x = self.aligned("log_return", log_return)
        jump = (1 - self.mass[..., None]) * (x >= self.atom[..., None])
        return self.mass[..., None] * self.partial_expectation(self._standardised(x), 0.0) + jump

    def quantile(self, probability: Number) -> Tensor:
        """Return the smallest x with P(X ≤ x) ≥ p for ``probability`` (J,) or (): batch + (J,) or batch.

        Accuracy: bisection to 1e-12 standard deviations inside [−L, L] and the atom; where the truncated series leaves the cdf below p,
        the end; −∞ for p up to the weight of an atom there.  Only an exact φ makes the cdf monotone: one with an error δ of its cdf
        (learned, empirical) tells quantiles of p ≫ δ.
        Differentiable where the law has a density.
        """
        p = real("probability", probability, "in (0, 1)").double()
        levels = p.reshape(-1)
        with torch.no_grad():
            x = self._bisected(levels)
        if torch.is_grad_enabled():  # the derivative of the root, not of the bisection
            slope = self.density(x).detach()
            step = (self.cdf(x) - levels) / torch.where(slope > 0, slope, torch.inf)
            x = x - (step - step.detach())
        x = torch.where(self._worthless[..., None] & (levels <= 1 - self.mass[..., None]), -torch.inf, x)
        return x.reshape((*self.scale.shape, *p.shape))

    def _bisected(self, levels: Tensor) -> Tensor:
        half = self.grid.half_width * self.scale
        atom = torch.where(self.mass < 1, self._finite_atom, self.location)  # it may lie beyond the series
        low, high = torch.minimum(self.location - half, atom), torch.maximum(self.location + half, atom)
        rounds = math.ceil(math.log2(float(((high - low) / self.scale).max()) / 1e-12))
        low, high = (end[..., None].expand(*self.scale.shape, len(levels)) for end in (low, high))
        for _ in range(rounds):
            middle = (low + high) / 2
            enough = self.cdf(middle) >= levels
            low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
        return high

    def expected_shortfall(self, probability: Number) -> Tensor:
        r"""Return the mean of X over its lower tail of weight p: :math:`\frac1p\int_0^p q(\alpha)\,d\alpha` (Acerbi and Tasche 2002).

        Shapes as `quantile`; in units of X.

        Accuracy: an error δ of the cdf in the tail becomes up to L·s·δ/p; never above the quantile.  −∞ with an atom there.
        """
        p = real("probability", probability, "in (0, 1)").double()
        levels = p.reshape(-1)
        quantile = self.quantile(levels)
        q = torch.where(torch.isfinite(quantile), quantile, self.location[..., None])
        z = self._standardised(q)
        first = self.location[..., None] * self.partial_expectation(z, 0.0) + self.scale[..., None] * self._first_moment(z)
        atom = (1 - self.mass[..., None]) * (q >= self.atom[..., None]) * self._finite_atom[..., None]
        tail = self.mass[..., None] * first + atom + q * (levels - self.cdf(q))
        shortfall = torch.minimum(tail / levels, quantile)
        return torch.where(self._worthless[..., None], -torch.inf, shortfall).reshape((*self.scale.shape, *p.shape))

    @property
    def cumulants(self) -> Tensor:
        """The first four cumulants of X (mean, variance, third, fourth), batch + (4,), the atom included unless it is at −∞.

        Accuracy: rounding for an exact φ.  An error δ of φ at the highest frequencies weighs L³δ/K² in the third and more in the fourth:
        of an empirical law take them from the sample itself.
        """
        z = self._moments()
        mass, raw = torch.where(self._worthless, 1.0, self.mass), [torch.ones_like(self.mass)]
        for n in range(1, 5):  # moments of X about the location, atom included
            part = self.scale**n * z[n]
            raw.append(mass * part + (1 - mass) * (self._finite_atom - self.location) ** n)
        m1, m2, m3, m4 = raw[1:]
        variance, third = m2 - m1**2, m3 - 3 * m1 * m2 + 2 * m1**3
        fourth = m4 - 4 * m1 * m3 - 3 * m2**2 + 12 * m1**2 * m2 - 6 * m1**4
        return torch.stack([m1 + self.location, variance, third, fourth], -1)

    @property
    def _w(self) -> Tensor:
        return self.grid.frequency

    @property
    def _worthless(self) -> Tensor:
        """Where there is an atom at −∞, batch."""
        return (self.atom == -torch.inf) & (self.mass < 1)

    @property
    def _finite_atom(self) -> Tensor:
        return torch.where(torch.isfinite(self.atom), self.atom, self.location)

    def _standardised(self, x: Number) -> Tensor:
        return (self.aligned("log_return", x) - self.location[..., None]) / self.scale[..., None]

    def aligned(self, name: str, value: Number) -> Tensor:
        """Return ``value`` in double precision if it is (J,) or batch + (J,); refuse other shapes (``ValueError``)."""
        x = real(name, value).double()
        if x.ndim == 0 or x.shape[:-1] not in (torch.Size(), torch.Size([1]), self.scale.shape):
            batch = f" or {(*self.scale.shape, 'J')}" if self.scale.ndim else ""
            raise ValueError(f"{name} must have shape ('J',){batch}; got {tuple(x.shape)}")
        return x

    def partial_expectation(self, z: Tensor, growth: Tensor | float) -> Tensor:
        r"""Return :math:`\int_{-L}^{z} e^{gy}f(y)\,dy` of the continuous part.

        Shapes: standardised ``z`` batch + (J,), clipped to [−L, L]; ``growth`` g () or batch; the result batch + (J,).
        """
        half = self.grid.half_width
        y = z.clamp(-half, half)
        g = torch.as_tensor(growth, dtype=torch.float64)
        g = g[..., None] if g.ndim else g
        zeroth = torch.where(g.abs() > 1e-12, torch.expm1(g * (y + half)) / torch.where(g.abs() > 1e-12, g, 1.0), y + half)
        constant = zeroth * torch.exp(-g * half)
        rate = g[..., None] - 1j * self._w  # ∫ e^{(g−iw)y} = [e^{(g−iw)y}]/(g−iw)
        upper = torch.exp(g[..., None] * y[..., None] - 1j * y[..., None] * self._w)
        lower = torch.exp(-g[..., None] * half + 1j * half * self._w)
        series = ((upper - lower) / rate * self.values[..., None, :]).real.sum(-1)
        return (constant + 2 * series) / (2 * half)

    def _first_moment(self, z: Tensor) -> Tensor:
        r"""Return :math:`\int_{-L}^{z} y f(y)\,dy` of the series: batch + (J,)."""
        half, w = self.grid.half_width, self._w
        y = z.clamp(-half, half)

        def primitive(at: Tensor) -> Tensor:  # ∫ y e^{−iwy} = e^{−iwy}(iy/w + 1/w²)
            return torch.exp(-1j * at[..., None] * w) * (1j * at[..., None] / w + 1 / w**2)

        series = ((primitive(y) - primitive(torch.tensor([-half], dtype=torch.float64))) * self.values[..., None, :]).real.sum(-1)
        return ((y**2 - half**2) / 2 + 2 * series) / (2 * half)

    def _moments(self) -> list[Tensor]:
        """Moments 0…4 of Z over [−L, L], each batch: ∫ zⁿ e^{−iwz} has closed forms as e^{∓iwL} = (−1)^k."""
        half, w = self.grid.half_width, self._w
        sign = torch.where(torch.arange(1, self.grid.size + 1) % 2 == 1, -1.0, 1.0).double()
        odd = {1: 2j * half * sign / w, 3: 2j * half * sign * (half**2 / w - 6 / w**3)}
        even = {2: 4 * half * sign / w**2, 4: 8 * half * sign * (half**2 / w**2 - 6 / w**4)}
        result = [torch.ones_like(self.mass)]
        for n in range(1, 5):
            constant = 0.0 if n % 2 else 2 * half ** (n + 1) / (n + 1)
            integral = (odd | even)[n] * self.values
            result.append((constant + 2 * integral.real.sum(-1)) / (2 * half))
        return result


def _characteristic_function(law: Any, maturity: Number | None) -> CharacteristicFunction:
    if hasattr(law, "log_return"):
        return lambda u: empirical_characteristic_function(law, u).value
    if hasattr(law, "characteristic_function"):
        t = real("maturity", math.nan if maturity is None else maturity, "positive", "years", "a process needs a maturity")
        return lambda u: law.characteristic_function(u, t)
    if callable(law):
        characteristic_function: CharacteristicFunction = law
        return characteristic_function
    raise TypeError(f"a law is a process with a characteristic_function, a Sample, or a callable φ(u); got {type(law).__name__}")


def _noise(sample: Any, scale: Tensor) -> float:
    """Twice the largest standard error of φ̂ where a law of this scale has its mass."""
    return 2 * float(empirical_characteristic_function(sample, FrequencyGrid(16.0, 32).frequency / scale[:, None]).standard_error.max())


def _sample_moments(sample: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the continuous part: of a mixture of Gaussians where a path contributes one."""
    x = sample.log_return.double()
    share = torch.ones_like(x) if sample.weight is None else sample.weight.double()
    share = share / share.mean(-1, keepdim=True)
    mean = (share * x).mean(-1)
    own = 0.0 if sample.variance is None else sample.variance.double()
    variance = (share * ((x - mean[:, None]) ** 2 + own)).mean(-1)
    return mean, real("standard deviation of the sample", torch.sqrt(variance), "positive")


def _sample_atom(sample: Any) -> tuple[Tensor, Tensor] | tuple[()]:
    if sample.weight is None:
        return ()
    mass, forward = sample.weight.double().mean(-1), torch.log(sample.forward.double())
    return mass, (torch.full_like(mass, -torch.inf) if sample.atom is None else sample.atom - forward)


def _location_scale(phi: CharacteristicFunction) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation from φ at a frequency so small that ln φ ≈ icu − ½s²u², found by halving."""
    step = torch.tensor([2.0**60], dtype=torch.float64)
    for _ in range(120):
        value = phi(step)
        if bool((value.abs() > 0.98).all()):
            break
        step = step / 2
    else:
        raise ValueError("the characteristic function must tend to 1 at frequency 0; it does not")
    scale = torch.sqrt(-2 * torch.log(value.abs())) / step
    own = torch.where(scale > 0, 0.1 / scale, step)  # a step of each set's own size
    steps = own * 2.0 ** -torch.arange(40.0, -1.0, -4.0, dtype=torch.float64)  # the phase is followed from where it cannot have wrapped
    phases = phi(steps)
    value = phases[..., -1:]
    variance = -2 * torch.log(value.abs()) / own**2
    if not bool((torch.isfinite(variance) & (variance > 0)).all()):
        raise ValueError("the law must have a positive, finite variance; its characteristic function says otherwise")
    location = torch.zeros_like(variance)
    for h, phase in zip(steps.split(1, -1), phases.split(1, -1), strict=True):
        location = location + torch.angle(phase * torch.exp(-1j * h * location)) / h
    return location[..., 0], torch.sqrt(variance)[..., 0]


def _size(phi: CharacteristicFunction, scale: Tensor, half_width: float, floor: float) -> int:
    """Smallest multiple of 16 frequencies beyond which every |φ| stays below ``floor``, up to a limit."""
    size = 32
    while size < _MOST_FREQUENCIES:
        w = FrequencyGrid(half_width, size).frequency[-16:]
        if bool((phi(w / scale[..., None]).abs() < floor).all()):
            return size
        size += 16 if size < 256 else size // 4 // 16 * 16
    return _MOST_FREQUENCIES
