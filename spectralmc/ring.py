"""The ring of labels: as many as memory allows, the newest in the place of the oldest."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from spectralmc.draws import Draws

_SETS, _MEMORY = 1 << 18, 1 << 30


@dataclass
class Ring:
    """Inputs (R, P) and labels (R, size) of the latest parameter sets, in blocks of ``block`` of them.

    Parameters
    ----------
    block, total
        sets put at once; sets that will be put in all.
    """

    block: int
    total: int
    features: int
    size: int
    dtype: torch.dtype
    device: torch.device = torch.device("cpu")  # noqa: RUF009
    inputs: Tensor = field(init=False)
    labels: Tensor = field(init=False)
    blocks: int = 0

    def __post_init__(self) -> None:
        each = (self.features + 2 * self.size) * self.dtype.itemsize
        most = max(min(_SETS, _MEMORY // each) // self.block, 1) * self.block
        capacity = min(most, -(-self.total // self.block) * self.block)
        self.inputs = torch.empty(capacity, self.features, dtype=self.dtype, device=self.device)
        self.labels = torch.empty(capacity, self.size, dtype=self.dtype.to_complex(), device=self.device)

    @property
    def filled(self) -> int:
        """How many sets it holds."""
        return min(self.blocks * self.block, len(self.inputs))

    def put(self, inputs: Tensor, labels: Tensor) -> None:
        """Write the next block over the oldest."""
        first = self.blocks * self.block % len(self.inputs)
        self.inputs[first : first + self.block] = inputs
        self.labels[first : first + self.block] = labels
        self.blocks += 1

    def batches(self, draws: Draws, number: int, size: int) -> Tensor:
        """Return ``number`` batches of ``size`` rows drawn from what it holds, (number, size): a function of draws and blocks alone."""
        words = draws.words(torch.tensor(self.blocks), torch.arange(-(-number * size // 4)), 0)
        return (torch.cat(words)[: number * size] % self.filled).reshape(number, size)
