r"""Learning the law of an outcome for a whole box of parameters, from simulated paths alone.

1. Standardise: Z = (X − m)/s with s known by formula, so that one frequency grid fits every parameter set.
2. Label: the empirical φ of a few hundred randomised quasi-Monte-Carlo paths; where the control (the geometric average for the
   arithmetic one) is exactly Gaussian, :math:`\hat\varphi_Z - \hat\varphi_{control} + e^{-w^2/2}` has far less noise and the same mean.
3. Learn: the network adds its output to :math:`e^{-w^2/2}`; the loss is the mean of |φ − label|², unbiased in the noise of labels.
4. Refit the readout by least squares on all labels, with the ridge that held-out labels choose.

Parameter sets, labels and batches are functions of the step and the seed alone: the same steps and seed give the same model.
"""

from __future__ import annotations

import importlib.metadata
import math
import time
import warnings
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import TqdmWarning

from spectralmc.draws import Draws
from spectralmc.functionals import Functional
from spectralmc.nn import SpectralNetwork
from spectralmc.parameters import ParameterSpace
from spectralmc.paths import simulate
from spectralmc.pricing import cos_price
from spectralmc.spectrum import FrequencyGrid, powers
from spectralmc.surrogate import Problem, Surrogate
from spectralmc.validation import count, real

with warnings.catch_warnings():  # without ipywidgets, tqdm.auto warns in a notebook and shows a text bar, as it should
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm

_FRESH = 256  # parameter sets simulated at once …
_EVERY = 32  # … every so many steps
_BATCH = 512
_WARM_UP = 100
_TILE = 8  # parameter sets in the cache while phases are summed
_HELD_OUT, _HELD_OUT_PATHS = 256, 8  # held-out sets, and how many times more paths each gets
_DESIGN, _LABELS, _VALIDATION = 1, 2, 3  # streams of the seed
_RIDGES = (1e-10, 1e-8, 1e-6, 1e-4, 1e-2)
_STRIKES = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0], dtype=torch.float64)


@dataclass(frozen=True)
class Recipe:
    """How to learn.

    Parameters
    ----------
    paths
        N of one label; a power of two.
    low_noise
        Sobol points with a bridge, and the control variate where the process is lognormal; otherwise plain independent paths.
    gaussian_base
        add the network's output to e^{−w²/2}; otherwise it must find the whole of φ.
    width, depth
        of the network.
    learning_rate
        peak of Adam's cosine schedule.
    """

    paths: int = 512
    low_noise: bool = True
    gaussian_base: bool = True
    width: int = 64
    depth: int = 3
    learning_rate: float = 4e-3

    def __post_init__(self) -> None:
        if count("paths", self.paths, 2) & (self.paths - 1):
            raise ValueError(f"paths must be a power of two; got {self.paths}")
        count("width", self.width)
        count("depth", self.depth, 0)
        real("learning_rate", self.learning_rate, "positive")


@dataclass(frozen=True)
class TrainingResult:
    """A surrogate and how it came to be; ``history`` has one row (step, process seconds, loss) a hundred steps."""

    surrogate: Surrogate
    history: list[tuple[int, float, float]]
    interrupted: bool = False


def train(
    space: ParameterSpace,
    functional: Functional,
    *,
    budget: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    time_steps: int = 1,
    grid: FrequencyGrid | None = None,
    recipe: Recipe | None = None,
    progress: bool = True,
) -> TrainingResult:
    """Learn the law of a functional over a box of parameters.

    Parameters
    ----------
    budget, steps
        process seconds, turned into steps once by timing a few; or the number of steps.  One of them.
    seed
        of parameter sets, draws, batches and initial weights.
    time_steps
        M of every path; the fixings are t_i = iT/M.
    grid
        frequencies of the standardised outcome.

    Interrupting (Ctrl-C) ends the steps early and keeps what was learned.

    Raises
    ------
    ValueError, TypeError
        neither or both of budget and steps; bad numbers; a process or functional without the formulae to standardise.
    FloatingPointError
        the loss is no longer finite.

    Example
    -------
    >>> from spectralmc import BlackScholes, ParameterSpace, Terminal, train
    >>> space = ParameterSpace(BlackScholes, {"volatility": (0.1, 0.5)}, maturity=(0.1, 2.0))
    >>> train(space, Terminal(), steps=32, progress=False).surrogate
    Surrogate(Terminal under BlackScholes: volatility [0.1, 0.5], maturity [0.1, 2], carry 0; price error ...)
    """
    if (budget is None) == (steps is None):
        raise ValueError(f"give either budget (process seconds) or steps; got budget={budget}, steps={steps}")
    problem = Problem(space, functional, count("time_steps", time_steps), grid or FrequencyGrid())
    started = time.process_time()
    trainer = Trainer(problem, recipe or Recipe(), count("seed", seed, 0))
    if steps is None:
        steps = trainer.affordable(float(real("budget", budget if budget is not None else math.nan, "positive", "seconds")), started)
    interrupted = trainer.fit(count("steps", steps), progress)
    return TrainingResult(trainer.finish(time.process_time() - started), trainer.history, interrupted)


@dataclass
class Trainer:
    """State of one training run."""

    problem: Problem
    recipe: Recipe
    seed: int
    network: SpectralNetwork = field(init=False)
    history: list[tuple[int, float, float]] = field(default_factory=list)
    step: int = 0

    def __post_init__(self) -> None:
        self.validation = self.problem.space.sample(_HELD_OUT, self.seed, _VALIDATION)
        design = self.problem.features(self.problem.space.sample(1024, self.seed, _DESIGN))
        self.centre, self.spread = design.mean(0), design.std(0).clamp(min=1e-12)
        self.base = torch.exp(-(self.problem.grid.frequency**2) / 2) if self.recipe.gaussian_base else torch.zeros(self.problem.grid.size)
        self.network = SpectralNetwork(design.shape[1], self.problem.grid.size, self.recipe.width, self.recipe.depth, self.seed)
        self.ring = (torch.empty(0, design.shape[1]), torch.empty(0, self.problem.grid.size, dtype=torch.complex64))
        self.started = time.process_time()

    def fit(self, steps: int, progress: bool) -> bool:
        """Take ``steps`` steps; return whether they were interrupted."""
        optimizer = torch.optim.Adam(self.network.parameters(), betas=(0.9, 0.99))
        batches = torch.Generator().manual_seed(self.seed)
        bar = tqdm(total=steps, disable=not progress, unit="step", desc="training")
        try:
            for step in range(1, steps + 1):
                if (step - 1) % _EVERY == 0:
                    self.simulate_fresh((step - 1) // _EVERY)
                for group in optimizer.param_groups:
                    group["lr"] = self.recipe.learning_rate * _schedule(step, steps)
                inputs, labels = self.ring
                rows = torch.randint(len(inputs), (_BATCH,), generator=batches)
                loss = _loss(self.network(inputs[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                self.step = step
                bar.update()
                if step % 100 == 0 or step == steps:
                    self.note(float(loss.detach()), bar)
        except KeyboardInterrupt:
            if self.step == 0:  # nothing was learned: nothing to keep
                raise
            return True
        finally:
            bar.close()
        return False

    def note(self, loss: float, bar: Any) -> None:
        """Write one row of history; stop where the loss is not a number."""
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {self.step}: lower the learning_rate of the recipe")
        self.history.append((self.step, time.process_time() - self.started, loss))
        bar.set_postfix(loss=f"{loss:.2e}")

    def simulate_fresh(self, block: int) -> None:
        """Add one block of new parameter sets with their labels."""
        points = self.problem.space.sample(range(block * _FRESH, (block + 1) * _FRESH), self.seed, _LABELS)
        labels = self.label(points, self.recipe.paths, _LABELS, block * _FRESH) - self.base
        inputs = self.standard_features(points).float()
        self.ring = (
            torch.cat([self.ring[0], inputs]),
            torch.cat([self.ring[1], labels.to(torch.complex64)]),
        )  # one store: interrupts tear nothing

    def standard_features(self, points: dict[str, Tensor]) -> Tensor:
        """Return the features as the network takes them, (B, P)."""
        return (self.problem.features(points) - self.centre) / self.spread

    def label(self, points: dict[str, Tensor], paths: int, stream: int, first_set: int) -> Tensor:
        """Return the estimate of φ_Z at the grid for every point, (B, K)."""
        problem, recipe = self.problem, self.recipe
        draws = Draws(self.seed, "sobol" if recipe.low_noise else "independent", randomizations=1, stream=stream)
        controlled = recipe.low_noise and getattr(problem.space.process, "lognormal", False)
        control: Any = getattr(problem.functional, "control", None)
        functionals = (problem.functional, control) if controlled else (problem.functional,)
        process, time_grid = problem.space.at(points), problem.time_grid(points)
        samples = simulate(process, time_grid, draws, paths, functionals, carry=points["carry"], first_set=first_set)
        location, scale = problem.standardisation(points)
        phi = mean_phases((samples[0].log_return - location[:, None]) / scale[:, None], problem.grid)
        if controlled:
            variance = process.integrated_variance(points["maturity"])
            mean, _ = control.lognormal_law(variance, time_grid, points["carry"])
            z = (samples[1].log_outcome - mean[:, None]) / scale[:, None]
            phi = phi - mean_phases(z, problem.grid) + torch.exp(-(problem.grid.frequency**2) / 2)
        return phi

    def affordable(self, budget: float, started: float) -> int:
        """Return how many steps the budget pays for, by timing some on a copy."""
        probe = deepcopy(self)
        interrupted = probe.fit(_EVERY, progress=False)  # first calls are slow: not timed
        before = time.process_time()
        if interrupted or probe.fit(4 * _EVERY, progress=False):
            raise KeyboardInterrupt  # the copy learned it: nothing to keep
        each = (time.process_time() - before) / (4 * _EVERY)
        before = time.process_time()
        probe.finish(0.0)
        ending = 1.5 * (time.process_time() - before)
        left = budget - ending - (time.process_time() - started)
        return max(int(0.95 * left / each), _EVERY)

    def finish(self, seconds: float) -> Surrogate:
        """Refit the readout, measure the held-out error, and pack the surrogate in double precision."""
        held_out = self.label(self.validation, _HELD_OUT_PATHS * self.recipe.paths, _VALIDATION, 0)
        ridge = self.refit(held_out)
        surrogate = self.surrogate()
        error = self.price_errors(surrogate, held_out)[1::2]  # the other half chose the ridge
        record = {
            "seed": self.seed,
            "steps": self.step,
            "parameter_sets": len(self.ring[0]),
            "paths": len(self.ring[0]) * self.recipe.paths,
            "process_seconds": round(seconds, 1),
            "recipe": vars(self.recipe),
            "ridge": ridge,
            "loss": self.history[-1][2] if self.history else None,
            "held_out_mean_relative_error": float(error.mean()),
            "versions": {name: importlib.metadata.version(name) for name in ("spectralmc", "torch", "numpy")},
        }
        return replace(surrogate, relative_error=float(torch.quantile(error, 0.99)), record=record)

    def surrogate(self) -> Surrogate:
        """Return the network as it stands, in double precision and without an error bar."""
        network = self.network.astype(torch.complex128).requires_grad_(False)
        return Surrogate(self.problem, network, self.centre, self.spread, self.recipe.gaussian_base, math.nan)

    def price_errors(self, surrogate: Surrogate, held_out: Tensor) -> Tensor:
        """Return |learned price − price of the held-out label|/s at the strikes ln(K/F)/s, (B, L)."""
        points = self.validation
        model = {n: v for n, v in points.items() if n not in ("maturity", "carry")}
        learned = surrogate.distribution(model, points["maturity"], points["carry"])
        truth = replace(learned, values=held_out)
        k = _STRIKES * learned.scale[:, None]
        return (cos_price(learned, k, "put") - cos_price(truth, k, "put")).abs() / learned.scale[:, None]

    @torch.no_grad()
    def refit(self, held_out: Tensor) -> float | None:
        """Replace the readout by least squares on all labels where held-out prices agree; return the ridge taken.

        Prices choose, not φ: the noise of a label sits at high frequencies, where it hides what moves a price.
        """
        inputs, labels = self.ring
        features = _stacked(self.network.hidden(inputs))
        target = torch.cat([labels.real, labels.imag], 1).double().numpy()
        gram, moment = features.T @ features, features.T @ target
        readout = self.network.readout
        candidates: list[tuple[float, float | None, dict[str, Tensor]]] = []
        for ridge in (None, *_RIDGES):
            if ridge is not None:
                self.set_readout(np.linalg.solve(gram + ridge * np.diag(np.diag(gram) + 1e-12), moment))
            error = float(self.price_errors(self.surrogate(), held_out)[::2].mean())
            candidates.append((error, ridge, deepcopy(readout.state_dict())))
        _, best, state = min(candidates, key=lambda candidate: candidate[0])
        readout.load_state_dict(state)
        return best

    def set_readout(self, solution: np.ndarray) -> None:
        """Write a solution (2H + 1, 2K) into the widely linear readout."""
        readout = self.network.readout
        readout.weight.copy_(torch.from_numpy(solution[:-1].T.copy()))
        readout.bias.copy_(torch.from_numpy(solution[-1].copy()))


def mean_phases(z: Tensor, grid: FrequencyGrid) -> Tensor:
    """Return the mean over paths of e^{iw_k z}, (B, N) → (B, K) complex128, tile by tile in the cache."""
    angle = z.to(torch.float32) * (math.pi / grid.half_width)
    return torch.cat([powers(tile, grid.size).mean(2).T for tile in torch.split(angle, _TILE)]).to(torch.complex128)


def _stacked(hidden: Tensor) -> np.ndarray:
    columns = torch.cat([hidden.real, hidden.imag, torch.ones(len(hidden), 1)], 1)
    return columns.double().numpy()


def _loss(values: Tensor, labels: Tensor) -> Tensor:
    return torch.view_as_real(values - labels).square().sum(-1).mean()


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    return min(step / _WARM_UP, 1.0) * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
