r"""Random numbers by address: the same integers on any device, for any chunk size, in any order.

A normal is a function of (seed, stream, parameter set, path, step, factor) and of nothing that was drawn before, so a path can be
computed again alone.  Of independent draws a longer run begins with the numbers of the shorter one; Sobol points depend on the number
of steps and factors too (the bridge), and with several randomizations on the number of paths.

* ``independent``: Philox 4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3") with Box–Muller.
  Its uniforms are odd multiples of :math:`2^{-24}`, exact in float32 too, so both precisions transform the same number.
* ``sobol``: Sobol points (Joe and Kuo 2008 direction numbers) with Matoušek's (1998) linear scramble shared by all parameter sets and a
  digital shift of its own for every parameter set and randomization, laid on the path by a Brownian bridge.  ``dimensions`` bounds how
  many coordinates of a path are Sobol points: the first in the order of the bridge, which carry most of the variance; the rest are
  Philox normals (a padded sequence, Owen 1998, "Latin supercube sampling for very high-dimensional simulations").
* ``antithetic``: paths 2j and 2j + 1 have opposite normals, of either kind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from spectralmc.validation import count, one_of

Words = tuple[Tensor, Tensor, Tensor, Tensor]
_MASK = 0xFFFFFFFF
_SOBOL_BITS = 30
_SHIFT_STREAM, _SCRAMBLE_STREAM, _DESIGN_STREAM = 1 << 30, 1 << 31, 3 << 30  # keep scrambles apart from the draws of any user stream


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """Philox 4x32-10: four 32-bit words from a 128-bit counter and a 64-bit key (Salmon et al. 2011, section 3.3).

    Shapes: four broadcastable int64 tensors holding values in [0, 2³²); four of the broadcast shape come back.
    """
    return philox_rounds(counter, key_schedule(key))


def key_schedule(key: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the two key words of each of the ten rounds."""
    return [((key[0] + i * 0x9E3779B9) & _MASK, (key[1] + i * 0xBB67AE85) & _MASK) for i in range(10)]


def philox_rounds(counter: Words, keys: Any) -> Words:
    """Return the four words; a round takes a pair of ``keys``, numbers or tensors."""
    c0, c1, c2, c3 = counter
    for k0, k1 in keys:
        left, right = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # int64 wraps; the mask restores unsigned words where they are multiplied next
        c0, c1, c2, c3 = (right >> 32 ^ c1 ^ k0) & _MASK, right, (left >> 32 ^ c3 ^ k1) & _MASK, left
    return c0, c1 & _MASK, c2, c3 & _MASK


def box_muller(first: Tensor, second: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two independent standard normals from two 32-bit words (Box and Muller 1958).

    The upper 23 bits are used: |Z| < 5.77, and float32 agrees with float64 within 2e-6.
    """
    radius = torch.sqrt(-2 * torch.log(_open_uniform(first, dtype)))
    angle = 2 * math.pi * (_open_uniform(second, dtype) - 0.5)
    return radius * torch.cos(angle), radius * torch.sin(angle)


def _open_uniform(word: Tensor, dtype: torch.dtype) -> Tensor:
    return ((word >> 9).to(dtype) + 0.5) * 2.0**-23


@dataclass(frozen=True)
class Draws:
    """Standard normals addressed by (seed, stream, parameter set, path, step, factor).

    Parameters
    ----------
    seed
        whole number in [0, 2⁶⁴).
    sampling
        ``independent`` (Philox) or ``sobol`` (randomised quasi-Monte-Carlo).
    randomizations
        for ``sobol``: how many independently shifted copies of the points share the paths; their spread is the standard error, so at
        least 16 of them where an error is wanted.
    stream
        whole number in [0, 2³⁰): sequences of one seed that never meet (training labels, validation labels, …).
    antithetic
        paths come in pairs 2j, 2j + 1 with opposite normals; the pair is then what is independent of other pairs.
    dimensions
        for ``sobol``: how many of the steps × factors coordinates of a path are Sobol points; all if None.

    Example
    -------
    >>> z = Draws(seed=7).normals(range(1), range(4), steps=2)
    >>> len(list(z))
    2
    """

    seed: int
    sampling: Literal["independent", "sobol"] = "independent"
    randomizations: int = 16
    stream: int = 0
    antithetic: bool = False
    dimensions: int | None = None

    def __post_init__(self) -> None:
        if count("seed", self.seed, 0) >= 1 << 64:
            raise ValueError(f"seed must be below 2**64; got {self.seed}")
        if count("stream", self.stream, 0) >= 1 << 30:
            raise ValueError(f"stream must be below 2**30; got {self.stream}")
        one_of("sampling", self.sampling, ("independent", "sobol"))
        count("randomizations", self.randomizations)
        if not isinstance(self.antithetic, bool):
            raise TypeError(f"antithetic must be True or False; got {self.antithetic!r}")
        if self.dimensions is not None and self.sampling != "sobol":
            raise ValueError(f"dimensions are those of Sobol points; got {self.dimensions} with {self.sampling} draws")
        if self.dimensions is not None and count("dimensions", self.dimensions) > SobolEngine.MAXDIM:
            raise ValueError(f"dimensions must be at most {SobolEngine.MAXDIM}, as many as there are; got {self.dimensions}")

    def on(self, stream: int) -> Draws:
        """Return the draws of the same seed on another stream."""
        return replace(self, stream=stream)

    @property
    def key(self) -> tuple[int, int]:
        """The seed as two 32-bit words, low and high."""
        return self.seed & _MASK, self.seed >> 32

    def words(self, sets: Tensor, paths: Tensor, block: int | Tensor, stream: int | None = None) -> Words:
        """Return the four Philox words at counter (path, block, set, stream); integer tensors broadcast."""
        lane = self.stream if stream is None else stream
        return philox((paths, torch.as_tensor(block), sets, torch.tensor(lane)), self.key)

    def normals(
        self, sets: range, paths: range, steps: int, factors: int = 1, dtype: torch.dtype = torch.float64, total: int | None = None
    ) -> Iterator[Tensor]:
        """Yield one (factors, B, N) tensor of standard normals a step, for these parameter sets and paths.

        ``total`` is the number of paths of the whole run; Sobol points need it to divide the paths among their randomizations.
        """
        for name, address in (("parameter set", sets), ("path", paths)):
            if address.start < 0 or address.stop > 1 << 32:
                raise ValueError(f"{name} numbers must lie in [0, 2**32); got {address.start} to {address.stop}")
        if self.antithetic:
            pairs = range(paths.start // 2, -(-paths.stop // 2))
            each = replace(self, antithetic=False).normals(sets, pairs, steps, factors, dtype, (total or paths.stop + paths.stop % 2) // 2)
            first = paths.start - 2 * pairs.start
            return (torch.stack([z, -z], -1).flatten(-2)[..., first : first + len(paths)] for z in each)
        if self.sampling == "independent":
            return self._independent(sets, paths, steps, factors, dtype)
        return iter(self._sobol(sets, paths, steps, factors, dtype, total or paths.stop).unbind(0))

    def _independent(self, sets: range, paths: range, steps: int, factors: int, dtype: torch.dtype) -> Iterator[Tensor]:
        set_column = torch.arange(sets.start, sets.stop)[:, None]
        path_row = torch.arange(paths.start, paths.stop)
        waiting: list[Tensor] = []
        block = 0
        for _ in range(steps):
            while len(waiting) < factors:
                a, b, c, d = self.words(set_column, path_row, block)
                waiting += [*box_muller(a, b, dtype), *box_muller(c, d, dtype)]
                block += 1
            yield torch.stack(waiting[:factors])
            waiting = waiting[factors:]

    def _sobol(self, sets: range, paths: range, steps: int, factors: int, dtype: torch.dtype, total: int) -> Tensor:
        """Return the bridged normals, (steps, factors, B, N)."""
        size = self.points_each(total)
        dimensions = min(steps * factors, self.dimensions or steps * factors)
        points = self._scrambled_points(dimensions, paths, size)[:, None].int()  # (D, 1, N); 30 bits need no more
        points = points ^ self._shifts(sets, paths, dimensions, size).int()
        # the tail nearer to 0 keeps its digits: reflect the upper half, take the quantile there, then the sign
        reflection = (points >> (_SOBOL_BITS - 1)).neg_().bitwise_and_((1 << _SOBOL_BITS) - 1)
        tail = points.bitwise_xor_(reflection).to(dtype)
        sign = (reflection >> (_SOBOL_BITS - 1)).to(dtype).mul_(-2).add_(1)
        del points, reflection  # the largest arrays of a simulation
        normal = torch.special.ndtri(tail.add_(0.5).mul_(2.0**-_SOBOL_BITS)).mul_(sign)
        if dimensions < steps * factors:
            rest = self._independent(sets, paths, steps * factors - dimensions, 1, dtype)
            normal = torch.cat([normal, *rest])
        return brownian_bridge(normal.unflatten(0, (steps, factors)))

    def uniforms(self, points: range, dimensions: int) -> Tensor:
        """Return points of the open unit cube, (len(points), dimensions) in float64: a design for parameters."""
        if self.sampling == "sobol":
            bits = self._scrambled_points(dimensions, points, 1 << _SOBOL_BITS)[:, None]
            cube = bits ^ self._shifts(range(1), points, dimensions, 1 << _SOBOL_BITS, _DESIGN_STREAM)
            return (cube[:, 0].T.double() + 0.5) * 2.0**-_SOBOL_BITS
        column = torch.arange(points.start, points.stop)[:, None]
        words = torch.cat(
            [torch.stack(self.words(torch.tensor(0), column, b, _DESIGN_STREAM + self.stream)) for b in range(-(-dimensions // 4))]
        )
        return _open_uniform(words[:dimensions, :, 0].T, torch.float64)

    def runs(self, total: int) -> int:
        """Return how many equal runs of consecutive paths are independent of each other; 0 where every path is."""
        if self.antithetic and total % 2:
            raise ValueError(f"paths must be even for antithetic draws, which come in pairs; got {total}")
        if self.sampling == "sobol":
            self.points_each(total)
            return self.randomizations
        return total // 2 if self.antithetic else 0

    def points_each(self, total: int) -> int:
        """Return how many Sobol points each randomization gets of ``total`` paths; it must come out as a power of two."""
        size, rest = divmod(total // 2 if self.antithetic else total, self.randomizations)
        if rest or size & (size - 1) or not size:
            near = (1 + self.antithetic) * self.randomizations * 2 ** max(round(math.log2(max(size, 1))), 0)
            raise ValueError(
                f"paths must be randomizations × a power of two for Sobol points; got {total} paths, "
                f"{self.randomizations} randomizations: take {near}"
            )
        if size > 1 << _SOBOL_BITS:
            raise ValueError(f"paths must be at most 2**{_SOBOL_BITS} a randomization for Sobol points; got {size}")
        return size

    def _scrambled_points(self, dimensions: int, paths: range, size: int) -> Tensor:
        index = torch.arange(paths.start, paths.stop) % size
        with torch.device("cpu"):  # where torch's Sobol engine works, and what is cached must not depend on the place
            directions = _scrambled_directions(self.seed, self.stream, dimensions)
        directions = directions.to(index.device)
        span = min(size, 1 << (len(paths) - 1).bit_length())
        table = torch.zeros(dimensions, 1, dtype=torch.int64)
        for bit in range(span.bit_length() - 1):  # low digits by doubling
            table = torch.cat([table, table ^ directions[:, bit, None]], 1)
        tiles, which = torch.unique(index // span, return_inverse=True)
        offset = torch.zeros(dimensions, len(tiles), dtype=torch.int64)
        for bit in range(size.bit_length() - span.bit_length()):  # high digits, one offset a tile
            offset ^= directions[:, span.bit_length() - 1 + bit, None] * (tiles >> bit & 1)
        return table[:, index % span] ^ offset[:, which]

    def _shifts(self, sets: range, paths: range, dimensions: int, size: int, lane: int = _SHIFT_STREAM) -> Tensor:
        """Digital shifts (D, B, N), or (D, B, 1) within one randomization: one for every parameter set and randomization."""
        copies = torch.arange(paths.start // size, -(-paths.stop // size))
        column = torch.arange(sets.start, sets.stop)[:, None]
        blocks = torch.arange(-(-dimensions // 4))[:, None, None]
        words = torch.stack(torch.broadcast_tensors(*self.words(column, copies, blocks, lane + self.stream)), 1).flatten(0, 1)
        shift = words[:dimensions] >> (32 - _SOBOL_BITS)
        return shift if len(copies) == 1 else shift[..., torch.arange(paths.start, paths.stop) // size - copies[0]]


@lru_cache(maxsize=16)
def _scrambled_directions(seed: int, stream: int, dimensions: int) -> Tensor:
    """Direction numbers (D, bits) under a random lower-triangular binary matrix with unit diagonal for each dimension."""
    if dimensions > SobolEngine.MAXDIM:
        raise ValueError(
            f"steps × factors must be at most {SobolEngine.MAXDIM} for Sobol points; got {dimensions}: use fewer steps, independent draws, "
            "or dimensions, beyond which a path has independent normals"
        )
    plain = SobolEngine(dimensions).sobolstate.to(torch.int64)
    rows = torch.arange(dimensions)[:, None]
    draws = Draws(seed, stream=stream)
    columns = torch.arange(_SOBOL_BITS)
    random = draws.words(rows, columns, 0, _SCRAMBLE_STREAM + stream)[0] >> (32 - _SOBOL_BITS)
    top = 1 << (_SOBOL_BITS - 1)
    scrambled = torch.zeros_like(plain)
    for bit in range(_SOBOL_BITS):  # digit `bit` (most significant first) spreads downwards only
        image = (random[:, bit, None] & ((top >> bit) - 1)) | (top >> bit)
        scrambled ^= image * (plain >> (_SOBOL_BITS - 1 - bit) & 1)
    return scrambled


def brownian_bridge(normals: Tensor) -> Tensor:
    """Turn normals in order of importance into standardised increments of a Brownian path on equal steps.

    Shapes: (M, …) to (M, …).  The first normal fixes the end of the path, the next ones halve the longest gaps (Caflisch, Morokoff,
    Owen 1997).  An orthogonal map: independent standard normals stay so.
    """
    steps = normals.shape[0]
    path = normals.new_empty((steps + 1, *normals.shape[1:]))
    path[0] = 0
    torch.mul(normals[0], math.sqrt(steps), out=path[steps])
    gaps = [(0, steps)]
    for z in normals[1:]:
        left, right = gaps.pop(0)
        middle = (left + right) // 2
        weight = (middle - left) / (right - left)
        deviation = math.sqrt((middle - left) * (right - middle) / (right - left))
        path[middle] = path[left] * (1 - weight) + path[right] * weight + deviation * z
        gaps += [gap for gap in ((left, middle), (middle, right)) if gap[1] - gap[0] > 1]
    return path[1:] - path[:-1]
