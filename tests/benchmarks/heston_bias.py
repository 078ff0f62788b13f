"""Bias of the Heston schemes' prices against the closed form, without simulation noise.

    python tests/benchmarks/heston_bias.py [--points 512] [--steps 16 32 64 128] [--scheme quadratic_exponential]

A scheme is a Markov chain in v: its own characteristic function follows backwards from maturity,
f_k(v) = E[e^{iu·mean − u²·variance/2} f_{k+1}(v')], here by Gauss–Legendre quadrature in the normal, cut where the scheme's law has its
atom, and cubic interpolation in √v, cut where it switches.  The library's own increment is called.  Error of these figures: about .01 bp.
Prices in basis points of the forward; box, strikes and standardisation as in the notes of the method.
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from torch import Tensor

import spectralmc as smc
from spectralmc.processes.base import scheme_of

GRID = smc.FrequencyGrid(14.0, 96)
STRIKES = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0], dtype=torch.float64)  # ln(K/F)/s
BOX = {
    "initial_variance": (0.02, 0.25),
    "mean_reversion": (0.5, 5.0),
    "long_run_variance": (0.02, 0.25),
    "vol_of_variance": (0.1, 0.8),
    "correlation": (-0.95, 0.5),
}
DAX = smc.Heston(0.196, 15.7, 0.075, 3.36, -0.51)
LIVES = torch.tensor([13, 41, 75, 166, 257, 348, 530, 701], dtype=torch.float64) / 365  # of the DAX options of 5 July 2002


class Chain:
    """One scheme at one parameter set, on a grid of √v."""

    def __init__(self, process: smc.Heston, maturity: float, steps: int, scheme: str) -> None:
        self.process, self.steps, self.dt = process, steps, maturity / steps
        increment = scheme_of(process, scheme).increment
        assert increment is not None
        self.increment = increment
        self.switches = scheme == "quadratic_exponential"
        v0, kappa, theta, xi, rho = (float(value) for value in vars(process).values())
        self.v0 = v0
        e = math.exp(-kappa * self.dt)
        self.mean = theta * (1 - e), e
        self.variance = theta * xi**2 * (1 - e) ** 2 / (2 * kappa), xi**2 * e * (1 - e) / kappa
        reach = 7 * xi / 2 * math.sqrt(min(maturity, 1 / kappa))
        low, high = max(math.sqrt(min(v0, theta)) - reach, 0.0), math.sqrt(max(v0, theta)) + reach
        cut = math.sqrt(self.switch()) if self.switches else 0.0
        width = xi * math.sqrt(self.dt) / 2  # of one step in √v: a wider mesh would be unstable
        ends = [low, cut, high] if low < cut < high else [low, high]
        self.pieces = []  # (start, mesh, nodes)
        for left, right in zip(ends, ends[1:], strict=False):
            nodes = max(math.ceil(64 * (right - left) / (high - low)), math.ceil((right - left) / width), 12)
            self.pieces.append((left, (right - left) / (nodes - 1), nodes))
        roots = [start + mesh * torch.arange(nodes, dtype=torch.float64) for start, mesh, nodes in self.pieces]
        if len(roots) > 1:
            roots[0][-1] *= 1 - 1e-7  # the two laws at the switch
            roots[1][0] *= 1 + 1e-7
        self.nodes = torch.cat(roots) ** 2

    def switch(self) -> float:
        """The v at which ψ = 1.5."""
        (m0, m1), (s0, s1) = self.mean, self.variance
        a, b, c = m1**2, 2 * m0 * m1 - s1 / 1.5, m0**2 - s0 / 1.5
        return max((-b + math.sqrt(max(b * b - 4 * a * c, 0.0))) / (2 * a), 0.0) if b * b > 4 * a * c else 0.0

    def quadrature(self, v: Tensor, size: int = 32) -> tuple[Tensor, Tensor]:
        """Normals and their weights for each v, (G, size + 1); the first stands for the atom at v' = 0."""
        x, weight = legendre(size)
        left = torch.full_like(v, -7.5)
        if self.switches:
            h = 2 * (self.mean[0] + self.mean[1] * v) ** 2 / (self.variance[0] + self.variance[1] * v)
            left = torch.where(h < 4 / 3 - 1e-12, -torch.special.ndtri(2 * h / (2 + h)), left)
        mass = torch.special.ndtr(-left)[:, None]
        z = left[:, None] + (7.5 - left[:, None]) * (x + 1) / 2
        inside = weight * torch.exp(-z * z / 2)
        return torch.cat([left[:, None] - 1, z], 1), torch.cat([1 - mass, inside / inside.sum(1, keepdim=True) * mass], 1)

    def interpolation(self, v: Tensor) -> Tensor:
        """Cubic weights of the nodes, (…, G)."""
        root = v.clamp(min=0).sqrt()
        total = torch.zeros(*v.shape, len(self.nodes), dtype=torch.float64)
        offset = 0
        for i, (start, mesh, nodes) in enumerate(self.pieces):
            inside = root < self.pieces[i + 1][0] if i + 1 < len(self.pieces) else torch.ones_like(root, dtype=torch.bool)
            inside = inside & (root >= start) if i else inside
            first = ((root - start) / mesh).floor().long().clamp(1, nodes - 3) - 1
            t = ((root - start) / mesh - first).clamp(0, 3)
            cubic = (-(t - 1) * (t - 2) * (t - 3) / 6, t * (t - 2) * (t - 3) / 2, -t * (t - 1) * (t - 3) / 2, t * (t - 1) * (t - 2) / 6)
            for j, weight in enumerate(cubic):
                total.scatter_add_(-1, (first + j + offset)[..., None], torch.where(inside, weight, 0.0)[..., None])
            offset += nodes
        return total

    def transition(self, v: Tensor, u: Tensor, tilt: Tensor) -> Tensor:
        """The operator on e^{−tilt·v} f, (K, len(v), G)."""
        z, weight = self.quadrature(v)
        move = self.increment(self.process, (v[:, None].expand(z.shape),), torch.full((1, 1), self.dt, dtype=torch.float64), z[None])
        after = move.state[0]
        frequency, slope = u[:, None, None], tilt[:, None, None]
        kernel = torch.exp(1j * frequency * move.mean - frequency**2 * move.variance / 2 + slope * (after - v[:, None])) * weight
        return torch.einsum("kgz,gzn->kgn", kernel, self.interpolation(after) + 0j)

    def characteristic_function(self, u: Tensor) -> Tensor:
        """φ(u) of the scheme, (K,)."""
        _, kappa, _, xi, rho = (float(value) for value in vars(self.process).values())
        w, beta = u * u + 1j * u, kappa - 1j * rho * xi * u
        d = torch.sqrt(beta * beta + xi**2 * w)
        half = -torch.expm1(-d * self.dt * self.steps / 2) / (2 * d)
        tilt = -w * half / (1 - xi**2 * w / (beta + d) * half)  # of the exact law half-way: f is then nearly constant in v
        tilt = tilt * (300 / (tilt.abs() * self.nodes.max())).clamp(max=1.0)
        step, first = self.transition(self.nodes, u, tilt), self.transition(torch.tensor([self.v0], dtype=torch.float64), u, tilt)
        f = torch.exp(-tilt[:, None] * self.nodes)[..., None]
        for _ in range(self.steps - 1):
            f = step @ f
        return (first @ f)[:, 0, 0] * torch.exp(tilt * self.v0)


def legendre(size: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss–Legendre quadrature on [−1, 1], by Golub and Welsch (1969)."""
    k = torch.arange(1, size, dtype=torch.float64)
    off = k / torch.sqrt(4 * k * k - 1)
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return nodes, 2 * vectors[0] ** 2


def bias(process: smc.Heston, maturity: float, steps: int, scheme: str) -> tuple[Tensor, Tensor]:
    """Errors of the put prices at STRIKES in basis points, (7,), and of E[e^X]."""
    s = torch.sqrt(process.integrated_variance(maturity))
    w = GRID.frequency
    chain, exact = Chain(process, maturity, steps, scheme), process.characteristic_function(w / s, maturity)
    found = chain.characteristic_function(w / s)
    found = torch.where(torch.isfinite(found.abs()) | (exact.abs() > 1e-9), found, exact)
    laws = (smc.Distribution(values * torch.exp(1j * w * s / 2), GRID, -(s**2) / 2, s) for values in (found, exact))
    ours, true = (smc.cos_price(law, STRIKES * s, "put") for law in laws)
    forward = chain.characteristic_function(torch.tensor([-1j], dtype=torch.complex128))[0].real - 1
    return 1e4 * (ours - true), 1e4 * forward


def box(points: int) -> list[tuple[smc.Heston, float]]:
    """Scrambled Sobol points of the box."""
    logarithmic = ("initial_variance", "mean_reversion", "long_run_variance", "maturity")
    sample = smc.ParameterSpace(smc.Heston, BOX, (0.05, 3.0), logarithmic=logarithmic).sample(points, seed=512)
    rows = zip(*(column.tolist() for column in sample.values()), strict=True)
    return [(smc.Heston(**dict(zip(BOX, row, strict=False))), row[len(BOX)]) for row in rows]


def main() -> None:
    """Print one row for each number of steps, the fitted slope, and the steps that the DAX optimum needs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=512)
    parser.add_argument("--steps", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--scheme", default="quadratic_exponential")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(f"box, {given.points} points × {len(STRIKES)} strikes, {given.scheme}: |error of the price|, bp")
    for steps in given.steps:
        began = time.process_time()
        found = [bias(process, maturity, steps, given.scheme) for process, maturity in box(given.points)]
        errors, forwards = torch.stack([e for e, _ in found]).abs(), torch.stack([f for _, f in found]).abs()
        worst = int(errors.max(1).values.argmax())
        rows.append((float(errors.mean()), float(errors.max())))
        print(
            f"n={steps:4d}  mean {rows[-1][0]:.4f}  95th {float(errors.quantile(0.95)):.3f}  max {rows[-1][1]:.3f}"
            f"  E[e^X] − 1: mean {float(forwards.mean()):.4f} max {float(forwards.max()):.3f}  ({time.process_time() - began:.0f} s)",
            f"worst: {box(given.points)[worst]}",
            flush=True,
        )
    if len(rows) > 1:
        x = torch.log(torch.tensor([1 / n for n in given.steps], dtype=torch.float64))
        for name, values in zip(("mean", "max"), zip(*rows, strict=True), strict=True):
            y = torch.log(torch.tensor(values, dtype=torch.float64))
            print(f"slope of the {name} in the step: {float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()):.2f}")
    print("DAX optimum, largest error over its eight maturities: price bp; vol bp within one standard deviation of the money")
    for steps in given.steps:
        prices, vols = [], []
        for life in LIVES.tolist():
            error, _ = bias(DAX, life, steps, given.scheme)
            s = float(torch.sqrt(DAX.integrated_variance(life)))
            vega = smc.black_vega(STRIKES * s, s / math.sqrt(life), life)
            prices.append(error.abs().max())
            vols.append((error / vega)[1:6].abs().max())
        print(f"n={steps:4d}  {float(max(prices)):.2f} bp   " + "  ".join(f"{float(v):.1f}" for v in vols), flush=True)


if __name__ == "__main__":
    main()
