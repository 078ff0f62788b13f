"""From φ to density, cdf, quantile, expected shortfall and cumulants: for exact, empirical and learned φ, with and without an atom."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

import pytest
import torch
from contracts import LAWS, Law, is_martingale
from fixtures import asian, sigmas
from torch import Tensor
from torch.special import ndtr, ndtri

import spectralmc as smc
from spectralmc.spectrum import empirical_characteristic_function

EPS = torch.finfo(torch.float64).eps
PROCESS, MATURITY = smc.BlackScholes(0.3), 2.0
S = 0.3 * math.sqrt(2)
NORMAL = smc.Distribution.of(PROCESS, MATURITY)


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def normal_density(z: Tensor) -> Tensor:
    return torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)


@dataclass(frozen=True)
class Mixture:
    """X is N(m, s²) with probability ``mass`` and else the atom a, with E[e^X] = 1: like a path that may be knocked out."""

    mass: Tensor
    atom: Tensor
    scale: Tensor

    @property
    def location(self) -> Tensor:
        left = (1 - (1 - self.mass) * torch.exp(self.atom)) / self.mass
        return torch.where(self.mass > 0, torch.log(left), 0.0) - self.scale**2 / 2

    def distribution(self) -> smc.Distribution:
        grid = smc.FrequencyGrid(14.3, 64)  # a half-width that float32 does not hold
        values = torch.exp(-(grid.frequency**2) / 2).expand(len(self.mass), -1) + 0j
        return smc.Distribution(values, grid, self.location, self.scale, self.mass, self.atom)

    def cdf(self, x: Tensor) -> Tensor:
        z = (x - self.location[:, None]) / self.scale[:, None]
        return self.mass[:, None] * ndtr(z) + (1 - self.mass[:, None]) * (x >= self.atom[:, None])


# no atom; a loss below the mean; a gain above it; all in the atom
MIXTURE = Mixture(mass=f64(1.0, 0.8, 0.9), atom=f64(0.0, -0.5, 0.6), scale=f64(0.3, 0.2, 0.4))
X = torch.linspace(-1.4, 1.4, 57, dtype=torch.float64) + 0.001  # misses the atoms


@lru_cache(maxsize=1)
def laws() -> tuple[Law, ...]:
    """The exact φ, the empirical one of 4096 paths, and the learned one of an arithmetic average, with the error each may carry."""
    sample = smc.simulate(PROCESS, smc.TimeGrid(MATURITY, 1), smc.Draws(61), 4096, smc.Terminal())
    learned = asian().distribution({"volatility": 0.4}, 1.0, 0.03)
    bar = asian().relative_error

    def rounding(u: Tensor) -> Tensor:
        return torch.full_like(u, 64 * EPS)  # phases up to 100 radians

    def stated(u: Tensor) -> Tensor:
        """Puts wrong by the stated bar e within ±4 s move φ_Z(w) by at most w²∫e dz = 8 w² e, to which the series adds its floor."""
        w = u * float(learned.scale)
        return (8 * w * w * bar).clamp(max=1.0) + 64 * EPS

    return (
        Law("exact", lambda u: PROCESS.characteristic_function(u, MATURITY), S, rounding),
        Law("series of the exact", NORMAL.characteristic_function, S, lambda u: 4 * rounding(u)),
        Law("empirical", lambda u: empirical_characteristic_function(sample, u).value[0], S, rounding),
        Law("learned", learned.characteristic_function, float(learned.scale), stated),
    )


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("source", range(4), ids=("exact", "series", "empirical", "learned"))
def test_every_characteristic_function_keeps_the_laws(source: int, law: object) -> None:
    law(laws()[source])


def test_the_laws_refuse_what_is_no_characteristic_function() -> None:
    def none(u: Tensor) -> Tensor:
        return torch.zeros_like(u) + 4 * EPS

    wrong = {
        "starts_at_one": lambda u: 0.999 * torch.exp(-u * u / 2) + 0j,
        "is_bounded": lambda u: (1 + u * u) * torch.exp(-u * u / 2) + 0j,
        "is_hermitian": lambda u: torch.exp(-u * u / 2) * torch.polar(torch.ones_like(u), u * u),
        "is_positive_semidefinite": lambda u: torch.exp(-(u**4)) + 0j,
    }
    assert list(wrong) == [law.__name__ for law in LAWS]
    for law in LAWS:
        with pytest.raises(AssertionError):
            law(Law("wrong", wrong[law.__name__], 1.0, none))


def test_every_law_of_a_price_is_a_martingale() -> None:
    is_martingale(NORMAL, 1e-13)
    is_martingale(MIXTURE.distribution(), 1e-13)
    learned = asian().distribution({"volatility": 0.4}, 1.0, 0.03)
    is_martingale(learned, 4 * asian().relative_error * float(learned.scale))
    sample = smc.simulate(PROCESS, smc.TimeGrid(MATURITY, 1), smc.Draws(62), 1 << 13, smc.Terminal())
    mean, error = sample.mean(torch.exp(sample.log_return))
    assert abs(float(mean) - 1) < 4 * float(error)


def test_of_a_process_finds_location_scale_and_enough_frequencies() -> None:
    assert float(NORMAL.scale) == pytest.approx(S, rel=1e-6)
    assert float(NORMAL.location) == pytest.approx(-S * S / 2, rel=1e-6)
    assert float(NORMAL.values[-1].abs()) < 1e-16
    assert NORMAL.values.dtype == torch.complex128
    assert NORMAL.values.shape == (NORMAL.grid.size,)


@pytest.mark.parametrize("volatilities", [[0.2], [0.02, 0.3, 3.0]])
def test_of_a_batch_is_the_batch_of_each(volatilities: list[float]) -> None:
    x = torch.linspace(-1, 1, 9, dtype=torch.float64)
    many = smc.Distribution.of(smc.BlackScholes(volatilities), MATURITY)
    assert many.scale.shape == (len(volatilities),)
    for i, volatility in enumerate(volatilities):
        one = smc.Distribution.of(smc.BlackScholes(volatility), MATURITY)
        torch.testing.assert_close(many.cdf(x)[i], one.cdf(x), rtol=0, atol=1e-13)
        torch.testing.assert_close(many.cumulants[i], one.cumulants, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (-3.0, 0.01), (1e-6, 1e-6), (100.0, 1000.0)])
def test_of_any_callable(mean: float, deviation: float) -> None:
    law = smc.Distribution.of(lambda u: torch.exp(1j * mean * u - (deviation * u) ** 2 / 2))
    x = mean + deviation * torch.linspace(-4, 4, 17, dtype=torch.float64)
    torch.testing.assert_close(law.cdf(x), ndtr((x - mean) / deviation), rtol=0, atol=1e-12)


def test_of_a_sample_is_close_to_the_law_it_came_from() -> None:
    """Each cdf value is a mean of indicators smoothed by the cut of the series: within 4 binomial errors and the smoothing."""
    n = 1 << 14
    for sampling in ("independent", "sobol"):
        sample = smc.simulate(PROCESS, smc.TimeGrid(MATURITY, 1), smc.Draws(63, sampling), n, smc.Terminal())
        law = smc.Distribution.of(sample)
        x = S * torch.linspace(-2, 2, 9, dtype=torch.float64)
        p = NORMAL.cdf(x)
        assert law.scale.shape == (1,)
        assert bool(((law.cdf(x)[0] - p).abs() < sigmas(9) * torch.sqrt(p * (1 - p) / n)).all())
        mean, variance = law.cumulants[0, :2]
        assert abs(float(mean) + S * S / 2) < 4 * S / math.sqrt(n)
        assert abs(float(variance) - S * S) < 4 * S * S * math.sqrt(2 / n)


def test_the_density_is_that_of_the_normal_and_integrates_to_the_mass() -> None:
    law, x = MIXTURE.distribution(), torch.linspace(-6, 6, 4001, dtype=torch.float64)
    density = law.density(x)
    z = (x - MIXTURE.location[:, None]) / MIXTURE.scale[:, None]
    expected = (MIXTURE.mass / MIXTURE.scale)[:, None] * normal_density(z)
    torch.testing.assert_close(density, torch.where(z.abs() <= 14.3, expected, 0.0), rtol=0, atol=1e-13)
    torch.testing.assert_close(torch.trapezoid(density, x), MIXTURE.mass, rtol=0, atol=1e-13)
    assert bool((law.density([30.0, -30.0]) == 0).all())


def test_the_cdf_is_the_integral_of_the_density_and_jumps_at_the_atom() -> None:
    law = MIXTURE.distribution()
    torch.testing.assert_close(law.cdf(X), MIXTURE.cdf(X), rtol=0, atol=1e-13)
    assert bool((law.cdf(X).diff() > -1e-13).all())
    torch.testing.assert_close(law.cdf([-9.0, 9.0]), f64(0, 1).expand(3, 2), rtol=0, atol=1e-13)
    at = MIXTURE.atom[:, None]
    jump = (law.cdf(at) - law.cdf(at - 1e-13))[:, 0]
    torch.testing.assert_close(jump, 1 - MIXTURE.mass, rtol=0, atol=1e-12)


def test_the_quantile_inverts_the_cdf_and_stays_on_the_jump() -> None:
    law, x = MIXTURE.distribution(), torch.linspace(-0.9, 0.9, 19, dtype=torch.float64) + 0.003
    for row in range(3):
        p = law.cdf(x)[row]
        inner = p[(p > 1e-6) & (p < 1 - 1e-6)]
        back = law.quantile(inner)[row]
        torch.testing.assert_close(back, x[(p > 1e-6) & (p < 1 - 1e-6)], rtol=0, atol=1e-8)
        if MIXTURE.mass[row] < 1:
            top = law.cdf(MIXTURE.atom[:, None])[row, 0]
            on_jump = top - (1 - MIXTURE.mass[row]) * f64(0.999, 0.5, 0.001)
            torch.testing.assert_close(law.quantile(on_jump)[row], MIXTURE.atom[row].expand(3), rtol=0, atol=1e-11)
    p = f64(0.001, 0.5, 0.999)
    expected = MIXTURE.location[0] + MIXTURE.scale[0] * ndtri(p)
    torch.testing.assert_close(law.quantile(p)[0], expected, rtol=0, atol=1e-9)
    assert law.quantile(0.5).shape == (3,)
    assert NORMAL.quantile(0.5).shape == ()
    assert NORMAL.quantile([0.5]).shape == (1,)


@pytest.mark.parametrize("atom", [-9.0, 9.0])
def test_an_atom_far_outside_the_series_is_still_a_quantile(atom: float) -> None:
    law = Mixture(f64(0.5), f64(0.0), f64(0.2)).distribution()
    law = smc.Distribution(law.values, law.grid, law.location, law.scale, f64(0.5), f64(atom))
    p = 0.25 if atom < 0 else 0.75
    assert float(law.quantile(p)) == pytest.approx(atom, abs=1e-10)
    assert float(law.expected_shortfall(0.25)) == pytest.approx(
        atom if atom < 0 else float(law.location) + 0.2 * -0.79788456080286, abs=1e-8
    )


def test_all_in_the_atom_is_a_certain_outcome() -> None:
    grid = smc.FrequencyGrid(16.0, 8)
    law = smc.Distribution(torch.zeros(8) + 0j, grid, f64(0.0)[0], f64(1.0)[0], f64(0.0)[0], f64(0.3)[0])
    assert law.cdf([0.29, 0.3]).tolist() == [0.0, 1.0]
    assert float(law.quantile(0.5)) == pytest.approx(0.3, abs=1e-11)
    assert float(law.expected_shortfall(0.1)) == pytest.approx(0.3, abs=1e-11)
    torch.testing.assert_close(law.cumulants, f64(0.3, 0, 0, 0), rtol=0, atol=1e-15)
    assert bool((law.density([0.0, 0.3]) == 0).all())


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9])
def test_the_expected_shortfall_is_the_mean_of_the_quantiles_below(p: float) -> None:
    """A midpoint rule in a variable that smooths the tail, α = p t³: its error is checked by halving the step."""
    law = MIXTURE.distribution()

    def by_hand(points: int) -> Tensor:
        t = (torch.arange(points, dtype=torch.float64) + 0.5) / points
        return (law.quantile(p * t**3) * 3 * t**2).mean(-1)

    coarse, fine = by_hand(1000), by_hand(2000)
    tolerance = 2 * float((fine - coarse).abs().max()) + 1e-9
    assert tolerance < 1e-3
    torch.testing.assert_close(law.expected_shortfall(p), fine, rtol=0, atol=tolerance)
    closed = MIXTURE.location[0] - MIXTURE.scale[0] * normal_density(ndtri(f64(p)))[0] / p
    assert float(law.expected_shortfall(p)[0]) == pytest.approx(float(closed), abs=1e-12 / p)
    assert law.expected_shortfall([p, p]).shape == (3, 2)


def test_the_cumulants_of_a_normal_are_mean_variance_and_zeros() -> None:
    expected = f64(-S * S / 2, S * S, 0, 0)
    torch.testing.assert_close(NORMAL.cumulants, expected, rtol=0, atol=1e-12)


def test_the_cumulants_of_a_mixture_are_those_of_its_moments() -> None:
    m, s, a, w = MIXTURE.location, MIXTURE.scale, MIXTURE.atom, MIXTURE.mass
    normal = (m, m**2 + s**2, m**3 + 3 * m * s**2, m**4 + 6 * m**2 * s**2 + 3 * s**4)
    m1, m2, m3, m4 = (w * raw + (1 - w) * a ** (n + 1) for n, raw in enumerate(normal))
    fourth = m4 - 4 * m1 * m3 - 3 * m2**2 + 12 * m1**2 * m2 - 6 * m1**4
    expected = torch.stack([m1, m2 - m1**2, m3 - 3 * m1 * m2 + 2 * m1**3, fourth], -1)
    torch.testing.assert_close(MIXTURE.distribution().cumulants, expected, rtol=0, atol=1e-12)


def test_the_characteristic_function_of_the_series_is_that_of_the_law_atom_included() -> None:
    u = torch.linspace(-20, 20, 41, dtype=torch.float64)
    m, s, a, w = (x[:, None] for x in (MIXTURE.location, MIXTURE.scale, MIXTURE.atom, MIXTURE.mass))
    expected = w * torch.exp(1j * u * m - (u * s) ** 2 / 2) + (1 - w) * torch.exp(1j * u * a)
    torch.testing.assert_close(MIXTURE.distribution().characteristic_function(u), expected, rtol=0, atol=1e-13)
    grid = NORMAL.grid.frequency / NORMAL.scale
    back = NORMAL.values * torch.exp(1j * grid * NORMAL.location)
    torch.testing.assert_close(NORMAL.characteristic_function(grid), back, rtol=0, atol=1e-13)


def test_partial_expectations_are_those_of_the_normal() -> None:
    z, g = torch.linspace(-3, 3, 7, dtype=torch.float64), f64(0.0, 0.5, -0.7)
    law = Mixture(f64(1, 1, 1), f64(0, 0, 0), f64(1, 1, 1)).distribution()
    expected = torch.exp(g[:, None] ** 2 / 2) * ndtr(z - g[:, None])
    cancelled = 4 * EPS * torch.exp(g.abs() * 14.3)[:, None]  # e^{gy} at the lower end
    assert bool(((law.partial_expectation(z.expand(3, -1), g) - expected).abs() <= 1e-13 + cancelled).all())


def test_gradients_flow_from_every_quantity_to_the_values() -> None:
    values = NORMAL.values.clone().requires_grad_()
    law = smc.Distribution(values, NORMAL.grid, NORMAL.location, NORMAL.scale)
    for result in (law.density([0.1]), law.cdf([0.1]), law.cumulants, law.characteristic_function([1.0]).real):
        (gradient,) = torch.autograd.grad(result.sum(), values)
        assert bool(torch.isfinite(torch.view_as_real(gradient)).all())
        assert float(gradient.abs().sum()) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mass": f64(1.5)[0]}, "mass must lie in [0, 1]; got 1.5"),
        ({"mass": f64(-0.1)[0]}, "mass must be non-negative; got -0.1"),
        ({"scale": f64(0.0)[0]}, "scale must be positive; got 0.0"),
        ({"location": f64(math.nan)[0]}, "location must be finite; got nan"),
        ({"atom": f64(math.inf)[0]}, "atom must be finite; got inf"),
        ({"values": torch.zeros(3) + 0j}, "values must end in K = 8 frequencies; got shape (3,)"),
        ({"values": torch.full((8,), math.nan) + 0j}, "values of a characteristic function must be finite; got NaN or infinity"),
    ],
)
def test_bad_distributions_are_refused(changes: dict[str, Tensor], message: str) -> None:
    given = {"values": torch.zeros(8) + 0j, "grid": smc.FrequencyGrid(16.0, 8), "location": f64(0)[0], "scale": f64(1)[0]}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        smc.Distribution(**(given | changes))


@pytest.mark.parametrize("method", ["density", "cdf"])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([[0.1], [0.2]], "log_return must have shape ('J',); got (2, 1)"),
        ([math.nan], "log_return must be finite; got nan"),
        ([], "log_return must not be empty; got shape (0,)"),
    ],
)
def test_bad_points_are_refused(method: str, x: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        getattr(NORMAL, method)(x)


def test_points_of_another_batch_are_refused_and_of_the_same_taken() -> None:
    law = MIXTURE.distribution()
    assert law.cdf(torch.zeros(3, 2)).shape == (3, 2)
    assert law.cdf(torch.zeros(1, 2)).shape == (3, 2)
    with pytest.raises(ValueError, match=re.escape("log_return must have shape ('J',) or (3, 'J'); got (2, 2)")):
        law.cdf(torch.zeros(2, 2))


@pytest.mark.parametrize("method", ["quantile", "expected_shortfall"])
@pytest.mark.parametrize("p", [0.0, 1.0, -0.1, math.nan])
def test_bad_probabilities_are_refused(method: str, p: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"probability must be in (0, 1); got {p}")):
        getattr(NORMAL, method)(p)


@pytest.mark.parametrize(
    ("law", "maturity", "error", "message"),
    [
        (object(), None, TypeError, "a law is a process with a characteristic_function, a Sample, or a callable φ(u); got object"),
        (PROCESS, None, ValueError, "maturity must be positive (years); got nan: a process needs a maturity"),
        (PROCESS, 0.0, ValueError, "maturity must be positive (years); got 0.0: a process needs a maturity"),
        (
            lambda u: 0.5 * torch.exp(-u * u) + 0j,
            None,
            ValueError,
            "the characteristic function must tend to 1 at frequency 0; it does not",
        ),
        (
            lambda u: 1 + 0j * u,
            None,
            ValueError,
            "the law must have a positive, finite variance; its characteristic function says otherwise",
        ),
    ],
)
def test_what_has_no_law_is_refused(law: object, maturity: float | None, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        smc.Distribution.of(law, maturity)


def test_a_constant_sample_is_refused() -> None:
    constant = smc.Sample(torch.zeros(1, 8, dtype=torch.float64), f64(1.0))
    with pytest.raises(ValueError, match=r"^standard deviation of the sample must be positive; got 0\.0$"):
        smc.Distribution.of(constant)


def test_a_slowly_decaying_law_is_cut_at_a_bounded_number_of_frequencies() -> None:
    law = smc.Distribution.of(lambda u: 1 / (1 + u * u / 2) + 0j)  # Laplace of variance 1
    assert law.grid.size == 1 << 13
    assert float(law.cdf([0.0])) == pytest.approx(0.5, abs=1e-12)
    x = f64(-1.0)
    torch.testing.assert_close(law.cdf(x), torch.exp(math.sqrt(2) * x) / 2, rtol=0, atol=1e-6)


def test_the_gradient_of_a_quantile_is_that_of_the_root() -> None:
    levels = torch.tensor([0.01, 0.05, 0.5, 0.99], dtype=torch.float64)

    def quantiles(scale: torch.Tensor) -> torch.Tensor:
        w = smc.FrequencyGrid(16.0, 64)
        skew = torch.exp(-(w.frequency**2) / 2 - 0.02j * scale * w.frequency**3)  # φ depends on the parameter, not only m and s
        return smc.Distribution(skew, w, -(scale**2) / 2, scale).quantile(levels)

    at, step = torch.tensor(0.3, dtype=torch.float64, requires_grad=True), 1e-5
    slope = torch.stack([torch.autograd.grad(q, at, retain_graph=True)[0] for q in quantiles(at)])
    with torch.no_grad():
        difference = (quantiles(at + step) - quantiles(at - step)) / (2 * step)
    torch.testing.assert_close(slope, difference, rtol=0, atol=1e-6)


def test_the_expected_shortfall_never_exceeds_the_quantile_even_of_a_poor_law() -> None:
    law = asian().distribution({"volatility": 0.3}, 1.0, 0.02)
    p = torch.tensor([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.5], dtype=torch.float64)
    assert bool((law.expected_shortfall(p) <= law.quantile(p)).all())


def test_values_that_are_not_complex_are_refused() -> None:
    with pytest.raises(TypeError, match=r"values must be complex, φ at the frequencies of the grid; got torch.float64"):
        smc.Distribution(torch.zeros(8).double(), smc.FrequencyGrid(16.0, 8), f64(0.0)[0], f64(1.0)[0])


@pytest.mark.parametrize(("conditional", "control"), [(True, False), (False, True), (True, True)])
def test_a_low_noise_sample_gives_the_law_nearer_to_the_exact_one(conditional: bool, control: bool) -> None:
    process, grid = smc.Heston(0.04, 2.0, 0.04, 0.5, -0.7), smc.TimeGrid(1.0, 16)
    exact, x = smc.Distribution.of(process, 1.0), torch.linspace(-0.6, 0.3, 31, dtype=torch.float64)
    plain, low = (
        smc.Distribution.of(smc.simulate(process, grid, smc.Draws(66), 1 << 13, smc.Terminal(), **options))
        for options in ({}, {"conditional": conditional, "control": control})
    )
    gaps = [float((law.cdf(x) - exact.cdf(x)).square().mean()) for law in (plain, low)]
    assert gaps[1] < gaps[0] / (3 if conditional else 1.2)


def test_a_law_with_a_worthless_atom() -> None:
    """Knocked out with probability 0.3: everything below the level of the survivors sits at −∞."""
    mass, s = f64(0.7)[0], f64(0.25)[0]
    grid = smc.FrequencyGrid(16.0, 64)
    location = -torch.log(mass) - s**2 / 2  # E[w e^X] = 1
    law = smc.Distribution(torch.exp(-(grid.frequency**2) / 2) + 0j, grid, location, s, mass, f64(-math.inf)[0])
    x = torch.linspace(-1, 1.5, 21, dtype=torch.float64)
    torch.testing.assert_close(law.cdf(x), 0.3 + 0.7 * ndtr((x - location) / s), rtol=0, atol=1e-12)
    torch.testing.assert_close(law.density(x), 0.7 * normal_density((x - location) / s) / s, rtol=0, atol=1e-12)
    p = f64(0.1, 0.3, 0.31, 0.65, 0.99)
    torch.testing.assert_close(law.quantile(p)[2:], location + s * ndtri((p[2:] - 0.3) / 0.7), rtol=0, atol=1e-10)
    assert law.quantile(p)[:2].tolist() == [-math.inf] * 2
    assert law.expected_shortfall(p).tolist() == [-math.inf] * 5
    torch.testing.assert_close(law.cumulants[:2], torch.stack([location, s**2]), rtol=0, atol=1e-10)
    u = f64(0.0, 2.0)
    expected = 0.7 * torch.exp(1j * u * location - u**2 * s**2 / 2)
    torch.testing.assert_close(law.characteristic_function(u), expected, rtol=0, atol=1e-12)
    is_martingale(law, 1e-12)


@pytest.mark.parametrize("functional", [smc.Maximum(), smc.Minimum()], ids=lambda f: type(f).__name__)
def test_the_atom_of_a_sample_is_that_of_its_paths(functional: object) -> None:
    sample = smc.simulate(smc.BlackScholes([0.2, 0.4]), smc.TimeGrid(1.0, 8), smc.Draws(67), 1 << 12, functional, carry=0.03)
    law = smc.Distribution.of(sample)
    at_start = (sample.log_outcome == 0).double().mean(1)
    torch.testing.assert_close(1 - law.mass, at_start, rtol=0, atol=1e-12)
    torch.testing.assert_close(law.atom, -torch.log(sample.forward), rtol=0, atol=1e-15)
    jump = law.cdf((law.atom + 1e-9)[:, None]) - law.cdf((law.atom - 1e-9)[:, None])
    torch.testing.assert_close(jump[:, 0], at_start, rtol=0, atol=1e-6)
