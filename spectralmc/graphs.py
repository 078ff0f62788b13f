"""Training steps on a GPU: one step captured as a graph and replayed, while another stream simulates the next labels."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor


class GraphedSteps:
    """Replays of one training step.  What changes from step to step (rows of the ring, rates) is read from buffers that a counter walks."""

    def __init__(self, trainer: Any) -> None:
        self.device = trainer.device
        rows = trainer.draw()
        self.rows, self.losses = torch.zeros_like(rows), torch.zeros(len(rows), dtype=trainer.dtype, device=self.device)
        self.rates = torch.zeros(len(rows), 4, dtype=trainer.dtype, device=self.device)
        self.at = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.labels = torch.cuda.Stream(self.device)
        self.waiting: tuple[int, tuple[Tensor, Tensor]] | None = None
        self.trainer = trainer
        self.graph: Any = None
        kept = {name: tensor.clone() for name, tensor in trainer.optimizer.state()}
        try:
            self._capture()
        except RuntimeError as error:
            self.graph = None
            warnings.warn(f"the training step runs without a CUDA graph, which is slower: {error}", RuntimeWarning, stacklevel=2)
        with torch.no_grad():
            for name, tensor in trainer.optimizer.state():
                tensor.copy_(kept[name])

    def _capture(self) -> None:
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):  # libraries make their workspaces before the capture
            for _ in range(3):
                self._step()
        torch.cuda.current_stream(self.device).wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=side):
            self._step()

    def _step(self) -> None:
        trainer = self.trainer
        index = self.at % len(self.rows)
        rows = self.rows.index_select(0, index)[0]
        # leaves of this step alone: autograd ties a leaf to the stream that first used it, which a capture may not touch
        leaves = {name: weight.detach().requires_grad_() for name, weight in trainer.optimizer.weights.items()}
        values = torch.func.functional_call(trainer.network, leaves, (trainer.ring.inputs[rows],))
        loss = loss_of(values, trainer.ring.labels[rows])
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        trainer.optimizer.move(gradients, self.rates.index_select(0, index)[0])
        self.losses.index_copy_(0, index, loss.detach()[None])
        self.at.add_(1)

    def run(self, rows: Tensor, rates: Tensor) -> Tensor:
        """Take a step for each row of ``rows`` (steps, batch) and ``rates`` (steps, 4), without waiting; return their losses."""
        number = len(rows)
        self.rows[:number].copy_(rows)
        self.rates[:number].copy_(rates.to(self.device, non_blocking=True))
        self.at.zero_()
        for _ in range(number):
            self._step() if self.graph is None else self.graph.replay()
        return self.losses[:number]

    def prefetch(self, trainer: Any, block: int) -> None:
        """Simulate the labels of a block on a stream of their own."""
        with torch.cuda.stream(self.labels):
            self.waiting = block, trainer.simulated(block)

    def ready(self, block: int) -> tuple[Tensor, Tensor] | None:
        """Return the labels that were simulated ahead, if they are those of this block."""
        found, self.waiting = self.waiting, None
        if found is None or found[0] != block:
            return None
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self.labels)
        for tensor in found[1]:
            tensor.record_stream(current)
        return found[1]


def loss_of(values: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over a batch of Σ|φ − label|²."""
    return torch.view_as_real(values - labels).square().sum(-1).mean()
