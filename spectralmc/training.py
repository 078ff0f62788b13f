r"""Learning the law of an outcome for a whole box of parameters, from simulated paths alone.

1. Standardise: Z = (X − m)/s by formula where one is known, else by a pilot run, so that one frequency grid fits every parameter set.
2. Label: φ̂ of a few hundred randomised quasi-Monte-Carlo paths with as little noise as process and functional allow.
3. Learn: the network adds its output to :math:`e^{-w^2/2}`; the loss is the mean of |φ − label|², unbiased in the noise of labels.
   Labels live in a ring: fresh ones replace the oldest.
4. Refit the readout by least squares on all labels, with the ridge that held-out labels choose.
5. Calibrate the error bars on labels held out from all of this.

Parameter sets, labels, batches and rates are functions of the step and the seed alone, so that a run is the same whether it was
interrupted or not.
"""

from __future__ import annotations

import bisect
import datetime
import json
import math
import os
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import TqdmWarning

from spectralmc import __version__
from spectralmc import checkpoint as checkpoints
from spectralmc.calibration import SHARE as CALIBRATION_SHARE
from spectralmc.calibration import calibrated, design, refined
from spectralmc.device import choose, complex_of, device_name, place
from spectralmc.draws import Draws
from spectralmc.functionals import Functional, Terminal, refuse_other
from spectralmc.graphs import GraphedSteps, loss_of
from spectralmc.interrupts import Interrupts
from spectralmc.labels import Labeller
from spectralmc.nn import NETWORKS
from spectralmc.optimizer import Optimizer
from spectralmc.parameters import ParameterSpace
from spectralmc.pricing import PutSeries, put_series
from spectralmc.problem import Outputs, Problem, Standard, posed
from spectralmc.readout import refitted
from spectralmc.ring import Ring
from spectralmc.spectrum import FrequencyGrid
from spectralmc.surrogate import Surrogate, described
from spectralmc.validation import count, one_of, real

with warnings.catch_warnings():  # without ipywidgets, tqdm.auto warns in a notebook and shows a text bar, as it should
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm

_EVERY = 32  # steps between two blocks of fresh parameter sets
_LOOK, _LOOKS = 100, (10, 1000)  # steps between two looks at the held-out error; how few looks a run has, and how many
_HELD_OUT, _HELD_OUT_PATHS = 256, 8  # held-out sets, and how many times more paths each gets
_DESIGN, _LABELS, _VALIDATION, _BATCHES = 1, 2, 3, 4  # streams of the seed
_PROBE = 4  # blocks timed for a budget
_QUICK = 1 << 13  # labels to which a watched model is fitted
_STRIKES = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0], dtype=torch.float64)
Stopped = Literal["finished", "interrupted", "early", "diverged"]


@dataclass(frozen=True)
class Recipe:
    """How to learn.

    Parameters
    ----------
    paths
        N of one label; a power of two.
    low_noise
        Sobol points with a bridge, the asset's own noise integrated out and a control subtracted where process and functional allow it;
        otherwise plain independent paths.
    gaussian_base
        add the network's output to e^{−w²/2}; otherwise it must find the whole of φ.
    width, depth
        of the network.
    learning_rate
        peak of the cosine schedule of Adam; Muon takes four times as much.
    network
        ``complex``, or ``real``: a multilayer perceptron of the same form, to compare with.
    muon
        orthogonalised momentum (Muon) on the hidden matrices; otherwise Adam on everything.
    fresh
        new parameter sets a step, in blocks of thirty-two steps.
    batch
        labels of one step.  The more often a label is seen, the more of its noise is learned: batch over fresh is how often.
    """

    paths: int = 512
    low_noise: bool = True
    gaussian_base: bool = True
    width: int = 64
    depth: int = 3
    learning_rate: float = 5e-3
    network: Literal["complex", "real"] = "complex"
    muon: bool = True
    fresh: int = 8
    batch: int = 512

    def __post_init__(self) -> None:
        if count("paths", self.paths, 2) & (self.paths - 1):
            raise ValueError(f"paths must be a power of two; got {self.paths}")
        count("width", self.width)
        count("depth", self.depth, 0)
        real("learning_rate", self.learning_rate, "positive")
        one_of("network", self.network, tuple(NETWORKS))
        count("fresh", self.fresh)
        count("batch", self.batch)


class Row(NamedTuple):
    """One look at a run: step, process seconds so far, loss of a batch, and mean |price error|/s on held-out labels."""

    step: int
    seconds: float
    loss: float
    held_out: float


class Progress(NamedTuple):
    """What a watcher is told every look: the history so far, how many steps there will be, and the model as it stands on call."""

    history: list[Row]
    steps: int
    surrogate: Callable[[], Surrogate]


@dataclass(frozen=True)
class TrainingResult:
    """A surrogate and how it came to be.

    ``stopped`` tells why the steps ended: ``finished``, ``interrupted`` (Ctrl-C), ``early`` (patience ran out), ``diverged`` (a loss that
    is no number: the best state before it was kept).
    """

    surrogate: Surrogate
    history: list[Row]
    stopped: Stopped = "finished"

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the steps."""
        return self.stopped == "interrupted"


def train(
    space: ParameterSpace,
    functional: Functional,
    *,
    budget: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    time_steps: int | None = None,
    substeps: int = 1,
    grid: FrequencyGrid | None = None,
    recipe: Recipe | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    patience: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 60.0,
    progress: bool = True,
    watch: Callable[[Progress], None] | None = None,
) -> TrainingResult:
    """Learn the law of a functional over a box of parameters.

    Parameters
    ----------
    budget, steps
        seconds (of the process on a CPU, of the clock on a GPU), turned into steps once by timing a few; or the number of steps.  One
        of them.
    seed
        of parameter sets, draws, batches and initial weights.
    time_steps, substeps
        M fixings of every path at t_i = iT/M, and how many steps of the scheme lead from one to the next.  Only a terminal price may
        leave M open: its last fixing is all it sees.
    grid
        frequencies of the standardised outcome.
    dtype
        of simulation and network while learning: float32 or float64.
    device
        ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one: where paths, labels and network live while learning.  The surrogate is
        on the CPU.
    patience
        looks (one every hundred steps, or about ten in a run of fewer than a thousand) without a better held-out error after which the
        steps end; None: never.
    checkpoint, resume
        file to write the whole state to every ``checkpoint_seconds``, on Ctrl-C and at the end of the steps; whether to go on from it.
        A run killed at any moment and resumed gives the bits of the uninterrupted one.  Where no file is, a resumed run begins.
    watch
        called at every look, for a live figure (`spectralmc.live.LiveFigure`).

    Interrupting (Ctrl-C) ends the steps early and keeps what was learned.

    Raises
    ------
    ValueError, TypeError
        neither or both of budget and steps; bad numbers; no time_steps for an outcome of the path; an outcome that is constant or not
        finite; ``resume`` without a checkpoint, or one that is damaged, of another version, run, number of threads or torch.
    FileExistsError
        a checkpoint is there already and ``resume`` was not asked for.
    FloatingPointError
        the loss is no longer finite and there is no better state to keep.

    Example
    -------
    >>> from spectralmc import BlackScholes, ParameterSpace, Terminal, train
    >>> space = ParameterSpace(BlackScholes, {"volatility": (0.1, 0.5)}, maturity=(0.1, 2.0))
    >>> train(space, Terminal(), steps=32, progress=False).surrogate
    Surrogate(Terminal under BlackScholes: volatility [0.1, 0.5], maturity [0.1, 2], carry 0; price error ...)
    """
    if (budget is None) == (steps is None):
        raise ValueError(f"give either budget (process seconds) or steps; got budget={budget}, steps={steps}")
    complex_of(dtype)  # float32 or float64, or a refusal
    place_of = choose(device)
    clock = _clock(place_of)
    started = clock()
    seconds = None if budget is None else float(real("budget", budget, "positive", "seconds"))
    if resume and checkpoint is None:
        raise ValueError("resume needs the checkpoint to go on from: give its path as checkpoint")
    problem = Problem(space, functional, _fixings(functional, time_steps), grid or FrequencyGrid(), count("substeps", substeps))
    file = None if checkpoint is None else (Path(checkpoint), float(real("checkpoint_seconds", checkpoint_seconds, "non-negative")))
    stored = None if file is None else _stored(file[0], resume)
    if steps is None and stored:
        steps = int(stored[0]["configuration"]["steps"])
    whole = 1 if steps is None else count("steps", steps)
    patience = None if patience is None else count("patience", patience)
    trainer = Trainer(posed(problem, count("seed", seed, 0)), recipe or Recipe(), seed, whole, dtype, patience, place_of)
    if steps is None:
        assert seconds is not None
        trainer = replace(trainer, steps=trainer.affordable(seconds, started))
    if stored and file:
        trainer.restore(file[0], *stored)
    stopped = trainer.fit(progress, watch, file)
    model = trainer.finish(stopped)
    return TrainingResult(replace(model, record={**model.record, "budget": seconds}), trainer.history, stopped)


def _fixings(functional: Functional, time_steps: int | None) -> int:
    """Return how many fixings a path has: what an outcome of the path is made of, not something to guess."""
    refuse_other(functional)
    if time_steps is None and not isinstance(functional, Terminal):
        raise ValueError(f"{type(functional).__name__} is an outcome of the path: give time_steps, how many fixings it has")
    return 1 if time_steps is None else count("time_steps", time_steps)


def _stored(path: Path, resume: bool) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Return the checkpoint to go on from, if there is one; refuse to write over one, or where nothing can be written."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {str(path.parent)!r} to write a checkpoint in")
    if resume:
        return checkpoints.read(path)
    if path.exists() or checkpoints.previous(path).exists():
        raise FileExistsError(f"a checkpoint is at {str(path)!r} already: pass resume=True to go on from it, or another path")
    return None


@dataclass
class Trainer:
    """State of one training run."""

    problem: Problem
    recipe: Recipe
    seed: int
    steps: int
    dtype: torch.dtype = torch.float32
    patience: int | None = None
    device: torch.device = torch.device("cpu")  # noqa: RUF009
    history: list[Row] = field(default_factory=list, init=False)
    step: int = field(default=0, init=False)
    best: tuple[float, dict[str, Tensor]] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        problem, recipe = self.problem, self.recipe
        design = problem.features(problem.space.sample(1024, self.seed, _DESIGN))
        self.centre, self.spread = design.mean(0), design.std(0).clamp(min=1e-12)
        self.base = torch.exp(-(problem.grid.frequency**2) / 2) * recipe.gaussian_base
        self.moved = [x.to(self.device) for x in (self.centre, self.spread, self.base)]
        make: Any = NETWORKS[recipe.network]
        complex_dtype = self.dtype.to_complex()
        self.network: Any = make(design.shape[1], problem.size, recipe.width, recipe.depth, self.seed, dtype=complex_dtype).to(self.device)
        hidden = tuple(f"inner.{i}.weight" for i in range(1, recipe.depth + 1)) if recipe.muon else ()
        self.optimizer = Optimizer(self.network, hidden, recipe.learning_rate)
        self.ring = Ring(_EVERY * recipe.fresh, self.steps * recipe.fresh, design.shape[1], problem.size, self.dtype, self.device)
        self.labeller = Labeller(problem, self.seed, recipe.low_noise, self.dtype, self.device)
        self.batches = Draws(self.seed, stream=_BATCHES)
        self.rows: Tensor | None = None
        self.look_every = max(min(_LOOK, self.steps // _LOOKS[0]), self.steps // _LOOKS[1], 1)
        self.clock = _clock(self.device)
        self.graph: GraphedSteps | None = None
        self.began = self.clock()

    def fit(
        self, progress: bool = False, watch: Callable[[Progress], None] | None = None, file: tuple[Path, float] | None = None
    ) -> Stopped:
        """Take the steps that are left and return why they ended."""
        bar = tqdm(total=self.steps, initial=self.step, disable=not progress, unit="step", desc="training")
        with Interrupts() as interrupts:
            try:
                stopped = self._fit(bar, watch, file, interrupts)
            except KeyboardInterrupt:  # a second one, or one from elsewhere: the last step may be half done
                stopped, file = "interrupted", None
            finally:
                bar.close()
        if self.step == 0:  # nothing was learned: nothing to keep
            raise KeyboardInterrupt
        if file and stopped != "diverged":
            self.save(file[0])
        return stopped

    def _fit(self, bar: Any, watch: Callable[[Progress], None] | None, file: tuple[Path, float] | None, asked: Interrupts) -> Stopped:
        saved = time.monotonic()
        while self.step < self.steps:
            before = self.step
            loss = self.advance() if self.device.type == "cpu" else self.leap()
            if not math.isfinite(loss):
                return self._diverged(loss)
            bar.update(self.step - before)
            if self.step % self.look_every == 0 or self.step == self.steps:
                self.look(loss)
                bar.set_postfix(loss=f"{loss:.2e}", held_out=f"{self.history[-1].held_out:.2e}")
                if watch:
                    watch(Progress(self.history, self.steps, self.surrogate))
                if self._out_of_patience():
                    return "early"
            if asked.asked:
                return "interrupted"
            if file and time.monotonic() - saved >= file[1]:
                self.save(file[0])
                saved = time.monotonic()
        return "finished"

    def advance(self) -> float:
        """Take one step, unless the loss of its batch is no number; return that loss."""
        rows = self.draw()[self.step % _EVERY]
        loss = loss_of(self.network(self.ring.inputs[rows]), self.ring.labels[rows])
        value = float(loss.detach())
        if not math.isfinite(value):
            return value
        gradients = torch.autograd.grad(loss, list(self.optimizer.weights.values()))
        rates = self.optimizer.rates(self.step + 1, self.steps)
        self.optimizer.move(gradients, torch.tensor(rates, dtype=self.dtype))
        self.step += 1
        return value

    def draw(self) -> Tensor:
        """Return the batches up to the next block, as rows of the ring, (steps, batch); put that block in first where it is due."""
        if self.step % _EVERY == 0 and self.ring.blocks == self.step // _EVERY:
            self.ring.put(*self.fresh(self.step // _EVERY))
            self.rows = None
        if self.rows is None:
            with place(self.device):
                self.rows = self.ring.batches(self.batches, _EVERY, self.recipe.batch)
        return self.rows

    def leap(self) -> float:
        """Take the steps up to the next block or look as replays of a graph; return the loss of the last one."""
        rows, first = self.draw(), self.step % _EVERY
        number = min(_EVERY - first, self.look_every - self.step % self.look_every, self.steps - self.step)
        self.graph = self.graph or GraphedSteps(self)
        rates = [self.optimizer.rates(self.step + 1 + i, self.steps) for i in range(number)]
        losses = self.graph.run(rows[first : first + number], torch.tensor(rates, dtype=self.dtype))
        if self.step + number < self.steps and (self.step + number) % _EVERY == 0:
            self.graph.prefetch(self, (self.step + number) // _EVERY)
        values: list[float] = losses.tolist()  # waits for the steps
        self.step += number
        return next((value for value in values if not math.isfinite(value)), values[-1])

    def fresh(self, block: int) -> tuple[Tensor, Tensor]:
        """Return inputs and labels of the parameter sets of one block."""
        if self.graph and (ready := self.graph.ready(block)):
            return ready
        return self.simulated(block)

    def simulated(self, block: int) -> tuple[Tensor, Tensor]:
        """Simulate the labels of one block."""
        first, sets = block * self.ring.block, self.ring.block
        with place(self.device):
            points = self.problem.space.sample(range(first, first + sets), self.seed, _LABELS)
            labels = self.labeller(points, self.recipe.paths, _LABELS, first)
            targets = self.problem.targets(labels, self.problem.standard(points), self.moved[2])
            return self.inputs(points), targets.to(self.ring.labels.dtype)

    def inputs(self, points: dict[str, Tensor]) -> Tensor:
        """Return the features as the network takes them, (B, P)."""
        centre, spread, _ = self.moved
        return ((self.problem.features(points) - centre) / spread).to(self.dtype)

    def look(self, loss: float) -> None:
        """Write one row of history, and keep the averaged weights if none were better on held-out labels."""
        error = self.held_out.error(self.averaged())
        self.history.append(Row(self.step, self.clock() - self.began, loss, error))
        if math.isfinite(error) and (self.best is None or error < self.best[0]):
            self.best = error, {name: tensor.clone() for name, tensor in self.optimizer.average.items()}

    def _out_of_patience(self) -> bool:
        best = min(range(len(self.history)), key=lambda i: self.history[i].held_out)
        return self.patience is not None and len(self.history) - 1 - best >= self.patience

    def _diverged(self, loss: float) -> Stopped:
        message = f"the loss is {loss} at step {self.step + 1}: lower the learning_rate of the recipe"
        if self.best is None:
            raise FloatingPointError(message)
        warnings.warn(f"{message}; the best state before it is kept", RuntimeWarning, stacklevel=4)
        return "diverged"

    def averaged(self, weights: dict[str, Tensor] | None = None) -> Any:
        """Return a copy of the network with the moving average of its weights, or with these."""
        network = deepcopy(self.network).requires_grad_(False)
        network.load_state_dict(self.optimizer.average if weights is None else weights)
        return network

    @cached_property
    def held_out(self) -> HeldOut:
        """The held-out points, which choose between states of the network and ridges."""
        problem, paths = self.problem, _HELD_OUT_PATHS * self.recipe.paths
        with place(self.device):
            points = problem.space.sample(_HELD_OUT, self.seed, _VALIDATION)
            labels = Labeller(problem, self.seed, self.recipe.low_noise, device=self.device)(points, paths, _VALIDATION, 0)
            return HeldOut.of(problem, problem.standard(points), self.inputs(points), labels, self.moved[2])

    def affordable(self, budget: float, started: float) -> int:
        """Return how many steps the budget pays for, by timing some on a copy."""
        probe = replace(self, steps=_EVERY * _PROBE)
        if self.device.type != "cpu":
            probe.simulated(0)  # compiles kernels, which takes as long as thousands of sets: timed as part of what has started
        before = self.clock()
        probe.simulated(0)
        label = (self.clock() - before) / (probe.ring.block * self.recipe.paths)  # seconds a path, on a CPU first calls included
        with Interrupts() as interrupts:
            while probe.step < probe.steps:
                if probe.step == _EVERY:
                    before = self.clock()  # first calls are slow: not timed
                probe.advance() if self.device.type == "cpu" else probe.leap()
                if interrupts.asked:
                    raise KeyboardInterrupt  # the copy learned it: nothing to keep
        each = (self.clock() - before) / (probe.steps - _EVERY)
        finer = refined(self.problem).substeps / self.problem.substeps
        double = torch.float64.itemsize / self.dtype.itemsize  # in which held-out labels are made
        fixed = double * label * _HELD_OUT * _HELD_OUT_PATHS * self.recipe.paths + 0.5
        left = 0.96 * budget - fixed - (self.clock() - started)

        def price(steps: int) -> float:
            sets, paths = self.calibration(steps)
            return steps * each + label * finer * 2 * sets * paths

        return max(bisect.bisect_right(range(1, max(int(left / each), 1) + 1), left, key=price), _EVERY)

    def calibration(self, steps: int) -> tuple[int, int]:
        """Return how many sets, and paths for each of two labels, show the errors of a run of so many steps."""
        return design(int(CALIBRATION_SHARE * steps * self.recipe.fresh * self.recipe.paths), 4 * self.recipe.paths)

    def finish(self, stopped: Stopped = "finished") -> Surrogate:
        """Refit the readout, calibrate the error bars, and pack the surrogate in double precision."""
        network = self.averaged()
        if self.best is not None and (stopped == "diverged" or self.best[0] < self.held_out.error(network)):
            network = self.averaged(self.best[1])
        filled = self.ring.filled
        ridge, error = refitted(network, self.ring.inputs[:filled], self.ring.labels[:filled], lambda: self.held_out.error(network))
        surrogate = self.packed(network)
        found = calibrated(surrogate, self.labeller, *self.calibration(self.step))
        record = {
            "seed": self.seed,
            "steps": self.step,
            "stopped": stopped,
            "parameter_sets": self.ring.blocks * self.ring.block,
            "paths": self.ring.blocks * self.ring.block * self.recipe.paths,
            "process_seconds": round(self.clock() - self.began, 1),
            "trained": datetime.date.today().isoformat(),
            "device": device_name(self.device),
            "recipe": vars(self.recipe),
            "ridge": ridge,
            "loss": self.history[-1].loss if self.history else None,
            "held_out_mean_relative_error": found.mean,
            "validation_mean_relative_error": error,
            "versions": {"spectralmc": __version__, "torch": torch.__version__, "numpy": np.__version__},
        }
        return replace(surrogate, relative_error=found.percentile, bars=found.bars, record=record)

    def surrogate(self) -> Surrogate:
        """Return the averaged network as it stands, its readout refitted to a part of the ring, without an error bar."""
        network, rows = self.averaged(), slice(0, min(self.ring.filled, _QUICK))
        refitted(network, self.ring.inputs[rows], self.ring.labels[rows], lambda: self.held_out.error(network))
        return self.packed(network)

    def packed(self, network: Any) -> Surrogate:
        """Return a surrogate of this network, in double precision and without an error bar."""
        double = network.cpu().astype(torch.complex128).requires_grad_(False)
        return Surrogate(self.problem, double, self.centre, self.spread, self.recipe.gaussian_base, math.nan)

    def configuration(self) -> dict[str, Any]:
        """Return what must agree between a run and its checkpoint, as plain data."""
        run = {"steps": self.steps, "seed": self.seed, "dtype": str(self.dtype), "patience": self.patience, "recipe": vars(self.recipe)}
        machine = {"threads": torch.get_num_threads(), "torch": torch.__version__, "device": device_name(self.device)}
        plain: dict[str, Any] = json.loads(json.dumps({**described(self.problem), **run, **machine}, default=repr))
        return plain

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the state by name."""
        ring = {"ring.inputs": self.ring.inputs[: self.ring.filled], "ring.labels": self.ring.labels[: self.ring.filled]}
        best = {f"best.{name}": tensor for name, tensor in self.best[1].items()} if self.best else {}
        return dict(self.optimizer.state()) | ring | best

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        state = {
            "step": self.step,
            "blocks": self.ring.blocks,
            "best": self.best[0] if self.best else None,
            "history": [[row.step, row.seconds, row.loss, repr(row.held_out)] for row in self.history],
            "seconds": self.clock() - self.began,
        }
        checkpoints.write(path, {"configuration": self.configuration(), "state": state}, self.tensors())

    def restore(self, path: Path, description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Take over the state of a checkpoint of the same run."""
        theirs, ours = description["configuration"], self.configuration()
        for name in sorted(ours.keys() | theirs.keys()):
            if theirs.get(name) != ours.get(name):
                raise ValueError(
                    f"the checkpoint {str(path)!r} is of another run: {name} is {theirs.get(name)!r} there and {ours.get(name)!r} here: "
                    "resume with what it was begun with, or give another path"
                )
        state = description["state"]
        self.step, self.ring.blocks = state["step"], state["blocks"]
        if state["best"] is not None:
            self.best = state["best"], {name: torch.empty_like(tensor) for name, tensor in self.optimizer.average.items()}
        self.history[:] = [Row(step, seconds, loss, float(error)) for step, seconds, loss, error in state["history"]]
        self.began = self.clock() - state["seconds"]
        with torch.no_grad():
            checkpoints.restore(self.tensors(), tensors)


class HeldOut(NamedTuple):
    """Held-out labels as the prices that judge a network: puts at seven strikes, and the forward where it is learned, over s."""

    problem: Problem
    standard: Standard
    inputs: Tensor
    base: Tensor
    series: PutSeries
    truth: Tensor

    @classmethod
    def of(cls, problem: Problem, standard: Standard, inputs: Tensor, labels: Outputs, base: Tensor) -> HeldOut:
        """Prepare the comparison with these labels."""
        series = put_series(problem.grid, standard.location, standard.scale, _STRIKES.to(standard.scale) * standard.scale[:, None])
        held = cls(problem, standard, inputs, base, series, torch.empty(0))
        return held._replace(truth=held.prices(labels))

    def prices(self, outputs: Outputs) -> Tensor:
        """Return puts on the continuous part and the forward, over s, (B, 8): linear in the outputs."""
        put = outputs.mass[:, None] * self.series.constant + (self.series.weights * outputs.values[:, None]).real.sum(-1)
        return torch.cat([put, outputs.forward[:, None]], 1) / self.standard.scale[:, None]

    @torch.no_grad()
    def error(self, network: Any) -> float:
        """Return the mean |price error|/s of a network."""
        outputs = self.problem.outputs(network(self.inputs).to(torch.complex128), self.standard, self.base)
        return float((self.prices(outputs) - self.truth).abs().mean())


def _clock(device: torch.device) -> Callable[[], float]:
    """Return the clock of a budget: on a GPU the process mostly waits."""
    return time.process_time if device.type == "cpu" else time.perf_counter
