r"""Batch normalisation of complex signals: each part by its own variance, or both by their covariance.

A real-linear map of the plane is written x ↦ p x + q x̄.  In this form the covariance of the parts of x has p = E|x|²/2, q = E[x²]/2, and
its inverse square root needs no eigenvectors: with σ = trace, κ = E[x²], δ = √det and t = √(σ + 2δ),

.. math:: V^{-1/2}: \quad p = t / (2δ), \quad q = -κ / (2 δ t).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spectralmc import cuda
from spectralmc.nn.activations import complex_input
from spectralmc.validation import count

_Matrix = tuple[Tensor, Tensor, Tensor, Tensor]  # its entries, row by row, of all channels


class _BatchNorm(nn.Module):
    """What both norms share: parameters, running statistics, and what is refused.  All tensors are real, as the module's casts expect."""

    _rows: int  # numbers that describe the scale of a channel

    def __init__(
        self,
        features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        dtype: torch.dtype = torch.complex64,
    ) -> None:
        super().__init__()
        self.features = count("features", features)
        if not (math.isfinite(eps) and eps >= 0):
            raise ValueError(f"eps must be non-negative; got {eps}")
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be in [0, 1], or None for the average over all batches; got {momentum}")
        self.eps, self.momentum, self.affine, self.track_running_stats = eps, momentum, affine, track_running_stats
        real = dtype.to_real()
        self.weight = nn.Parameter(torch.empty(features, self._rows, dtype=real)) if affine else None
        self.bias = nn.Parameter(torch.empty(features, 2, dtype=real)) if affine else None
        self.register_buffer("running_mean", torch.empty(features, 2, dtype=real) if track_running_stats else None)
        self.register_buffer(self._spread, torch.empty(features, self._rows, dtype=real) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track_running_stats else None)
        self.reset_parameters()

    running_mean: Tensor | None
    num_batches_tracked: Tensor | None
    _spread: str  # the name of the buffer that holds the running variances or covariances

    def reset_running_stats(self) -> None:
        """Set the running mean to zero and the running covariance to the identity."""
        if self.running_mean is not None and self.num_batches_tracked is not None:
            self.running_mean.zero_()
            getattr(self, self._spread).copy_(self._identity())
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Set the scale to the identity, the shift to zero, and the running statistics back."""
        self.reset_running_stats()
        if self.weight is not None and self.bias is not None:
            with torch.no_grad():
                self.weight.copy_(self._identity())
                self.bias.zero_()

    def _identity(self) -> Tensor:
        return torch.tensor([1.0, 1.0, 0.0][: self._rows])

    def extra_repr(self) -> str:
        """Return the settings, in torch's words."""
        names = ("eps", "momentum", "affine", "track_running_stats")
        return ", ".join([str(self.features), *(f"{name}={getattr(self, name)}" for name in names)])

    def _checked(self, z: Tensor) -> Tensor:
        """Return ``z``, or refuse it."""
        name = type(self).__name__
        if complex_input(self, z).ndim < 2 or z.shape[1] != self.features:
            raise ValueError(f"{name} needs (B, {self.features}) or (B, {self.features}, …); got shape {tuple(z.shape)}")
        own = self.weight if self.running_mean is None else self.running_mean
        if own is not None and own.dtype != z.real.dtype:
            raise TypeError(f"{name} holds {own.dtype}; got {z.dtype}: convert the layer with .double() or .float()")
        if own is not None and own.device != z.device:
            raise ValueError(f"{name} is on {own.device}; got an input on {z.device}: move one of them with .to(device)")
        if self._uses_batch and z.numel() <= self.features:
            raise ValueError(f"{name} needs more than one value per channel in training; got shape {tuple(z.shape)}")
        return z

    @property
    def _uses_batch(self) -> bool:
        return self.training or self.running_mean is None

    def _update(self, mean: Tensor, spread: Tensor) -> None:
        """Move the running statistics towards a batch's, or refuse a batch that would poison them."""
        if not self.training or self.running_mean is None or self.num_batches_tracked is None:
            return
        finite = torch.isfinite(spread).all()  # a mean that is not finite makes the spread so
        skip = (
            torch.compiler.is_compiling() or spread.is_cuda
        )  # neither can raise without waiting: the batch leaves no trace but its output
        if not skip and not bool(finite):
            raise ValueError(
                f"{type(self).__name__} got a batch whose mean or covariance is not finite (NaN, infinity or overflow): "
                "its running statistics are left as they were"
            )
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.to(mean.dtype)
        for held, new in ((self.running_mean, mean), (getattr(self, self._spread), spread)):
            moved = torch.lerp(held, new, share)
            held.copy_(torch.where(finite, moved, held) if skip else moved)


class SplitBatchNorm(_BatchNorm):
    r"""Batch normalisation of the real and the imaginary part, each by its own mean and variance, as two channels of torch's BatchNorm.

    Neither complex-linear nor phase-equivariant.  Correlation of the parts stays.

    ``weight`` (C, 2) scales the parts and starts at 1; ``bias`` (C, 2) shifts them.  ``running_mean`` (C, 2) and ``running_variance``
    (C, 2) follow torch's conventions: unbiased variance, ``momentum=None`` for the average over all batches.  ``eps`` is absolute, added
    to the variances.

    Shapes: (B, C) or (B, C, …), complex; statistics over all axes but the second.

    Raises
    ------
    TypeError
        a real input, or one of another precision than the layer's.
    ValueError
        another number of channels, another device; in training a single value per channel, or a batch that is not finite while running
        statistics are kept, which stay as they were (under torch.compile and on a GPU it is skipped and shows in the output only).
    """

    _rows = 2
    _spread = "running_variance"
    running_variance: Tensor | None

    def forward(self, z: Tensor) -> Tensor:
        """Return the normalised signal."""
        z = self._checked(z).resolve_conj()
        x = torch.view_as_real(z)
        planes = x.movedim(-1, 2) if z.ndim > 2 else x  # (B, C, 2, …): a copy only where there are further axes
        weight, bias = (None if p is None else p.flatten() for p in (self.weight, self.bias))
        mean = variance = None
        if self.running_mean is not None and self.running_variance is not None:
            mean, variance = self.running_mean.flatten(), self.running_variance.flatten()
            if self.training:  # taken by themselves, so that a bad batch can be refused
                mean, variance = torch.zeros_like(mean), torch.zeros_like(variance)
        cudnn = torch.backends.cudnn.enabled  # torch's functional form refuses eps 0
        y = torch.batch_norm(planes.flatten(1, 2), weight, bias, mean, variance, self._uses_batch, 1.0, self.eps, cudnn).view(planes.shape)
        if self._uses_batch and mean is not None and variance is not None:
            self._update(mean.view(-1, 2), variance.view(-1, 2))
        return torch.complex(*y.unbind(2))


class CovarianceBatchNorm(_BatchNorm):
    r"""Batch normalisation by the covariance of real and imaginary part: y = Γ V^{-1/2} (z − m) + β (Trabelsi et al. 2018, section 3.5).

    V is the 2 × 2 covariance matrix of (Re z, Im z) of a channel; the output of the whitening has the identity for its covariance.

    Phase-equivariant in training without the affine part: V(e^{iθ}z) is V(z) turned, and the symmetric inverse square root turns with it.
    Not complex-linear.

    ``weight`` (C, 3) holds the symmetric Γ as Γ_rr, Γ_ii, Γ_ri and starts at the identity (unit variance of each part; Trabelsi et al.
    start at 1/√2 of it, unit variance of the modulus); nothing keeps it positive.  ``bias`` (C, 2) is β.  ``running_mean`` (C, 2) and
    ``running_covariance`` (C, 3) follow torch's conventions: unbiased covariance, ``momentum=None`` for the average over all batches.

    ``eps`` is absolute as in torch's BatchNorm: it is added to both variances, so the output's covariance is V (V + eps)⁻¹.  At ``eps=0``
    it is the identity within 4 ε κ(V), ε the rounding of the dtype and κ the condition number.  Condition numbers beyond 2/ε are
    rounding, and det V is taken no smaller than ε σ²/2, so that parts that are equal, or one of them zero, give finite values and
    gradients.  A constant channel gives β.

    Autocast leaves complex tensors alone: the layer computes in its own precision.  Under torch.compile it is real arithmetic,
    which the compiler fuses; such code cannot raise, so a batch that is not finite is skipped and shows in the output only.  So it is on a
    GPU, where nothing waits for it; with CuPy there, (B, C) takes the fused kernels, which skip such a batch channel by channel, and whose
    sums are in double precision: complex128 moduli must lie within 1e±70.

    Shapes: (B, C) or (B, C, …), complex; statistics over all axes but the second.

    Raises
    ------
    TypeError
        a real input, or one of another precision than the layer's.
    ValueError
        another number of channels, another device; in training a single value per channel, or a batch that is not finite while running
        statistics are kept, which stay as they were.
    """

    _rows = 3
    _spread = "running_covariance"
    running_covariance: Tensor | None

    def forward(self, z: Tensor) -> Tensor:
        """Return the whitened signal."""
        z = self._checked(z).resolve_conj()
        if not self.training and self.running_mean is not None and self.running_covariance is not None:
            rr, ii, ri = self.running_covariance.unbind(-1)
            matrix = _matrix(rr, ii, ri, self.eps, self.weight)
            return _mapped(z, self.running_mean, matrix, self.bias)
        compiling = torch.compiler.is_compiling()
        if not compiling and _has_kernel(z):
            fused: Callable[..., Tensor] = _Fused.apply
            return fused(z, self.weight, self.bias, self.eps, self._running())
        whiten: Callable[..., tuple[Tensor, Tensor, Tensor]] = _whiten if compiling else _Whiten.apply
        y, mean, covariance = whiten(z, self.weight, self.bias, self.eps)
        n = z.numel() // self.features
        self._update(mean.detach(), covariance.detach() * (n / (n - 1)))
        return y

    def _running(self) -> cuda.Running | None:
        """Return the running statistics for a kernel to move."""
        if not self.training or self.running_mean is None or self.running_covariance is None or self.num_batches_tracked is None:
            return None
        return cuda.Running(self.running_mean, self.running_covariance, self.num_batches_tracked, self.momentum)


def _layout(z: Tensor) -> tuple[list[int], tuple[int, ...]]:
    """Return the axes of the statistics, and the shape in which one number a channel meets the batch."""
    return [0, *range(2, z.ndim)], (-1, *[1] * (z.ndim - 2))


def _matrix(rr: Tensor, ii: Tensor, ri: Tensor, eps: float | Tensor, weight: Tensor | None) -> _Matrix:
    """Return Γ V^{-1/2} for the covariance with these entries, eps added to its diagonal."""
    trace = rr + ii + 2 * eps
    trace = torch.where(trace == 0, torch.ones_like(trace), trace)  # nothing varies and eps is 0: any scale will do
    rr, ii, ri = (rr + eps) / trace, (ii + eps) / trace, ri / trace  # of trace 1: their products cannot overflow
    delta = (rr * ii - ri * ri).clamp(min=torch.finfo(trace.dtype).eps / 2).sqrt()
    scale = delta * (1 + 2 * delta).sqrt() * trace.sqrt()
    a, b, d = (ii + delta) / scale, -ri / scale, (rr + delta) / scale
    if weight is None:
        return a, b, b, d
    p, s, q = weight.unbind(-1)
    return p * a + q * b, p * b + q * d, q * a + s * b, q * b + s * d


def _mapped(z: Tensor, mean: Tensor, matrix: _Matrix, bias: Tensor | None) -> Tensor:
    """Return the matrix of each channel times (Re, Im) of z − mean, plus the bias."""
    shape = _layout(z)[1]
    a, b, c, d = (entry.reshape(shape) for entry in matrix)
    x, y = (part - m.reshape(shape) for part, m in zip(torch.view_as_real(z).unbind(-1), mean.unbind(-1), strict=True))
    out = torch.stack((a * x + b * y, c * x + d * y), -1)
    return torch.view_as_complex(out if bias is None else out + bias.reshape(*shape, 2))


def _whiten(z: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, mean and biased covariance by real arithmetic, which autograd differentiates to any order and a compiler fuses."""
    # stacks of one row a number: what a compiler computes once a channel, where it would else do so for each value
    axes, shape = _layout(z)
    share = z.shape[1] / z.numel()  # a factor, since the gradient of a mean divides every value
    words = torch.compiler.is_compiling() and z.dtype == torch.complex64 and z.device.type == "cpu" and sys.byteorder == "little"
    parts = _Apart.apply(z) if words else torch.view_as_real(z).unbind(-1)  # type: ignore[no-untyped-call]
    mean = torch.stack([part.sum(axes) for part in parts]) * share
    unit = _unit((parts[0].detach().abs() + parts[1].detach().abs()).sum(axes) * share, eps)  # y and its gradient do not depend on it
    scale = torch.stack((unit.reciprocal(), unit))[0]

    def centred(means: Tensor) -> list[Tensor]:
        return [(part - m.reshape(shape)) * scale.reshape(shape) for part, m in zip(parts, means, strict=True)]

    # a compiler takes no second derivative, and to first order the covariance does not depend on the centre
    x, y = centred(mean.detach() if words else mean)
    rr, ii, ri = torch.stack([product.sum(axes) for product in (x * x, y * y, x * y)]) * share
    shift = (bias if bias is not None else torch.zeros_like(mean.mT)).unbind(-1)
    a, b, c, d, e, f = (row.reshape(shape) for row in torch.stack((*_matrix(rr, ii, ri, eps / unit / unit, weight), *shift)))
    x, y = centred(mean)
    x, y = a * x + b * y + e, c * x + d * y + f
    out = _Together.apply(x, y) if words else torch.view_as_complex(torch.stack((x, y), -1))  # type: ignore[no-untyped-call]
    return out, mean.mT, torch.stack((rr, ii, ri), -1) * unit.square().unsqueeze(-1)


class _Apart(torch.autograd.Function):
    """The real and the imaginary part of complex64 numbers, cut out of words of 64 bits.

    On the CPU the compiler makes vector code of this; of every second number in memory it makes a scalar loop, several times slower.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> tuple[Tensor, Tensor]:
        word = z.view(torch.int64)
        return word.to(torch.int32).view(torch.float32), (word >> 32).to(torch.int32).view(torch.float32)

    @staticmethod
    def backward(ctx: Any, *grad: Any) -> Any:
        return _Together.apply(*grad)  # type: ignore[no-untyped-call]


class _Together(torch.autograd.Function):
    """The inverse of ``_Apart``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        low, high = (part.view(torch.int32).to(torch.int64) for part in (x, y))
        return ((low & 0xFFFFFFFF) | (high << 32)).view(torch.complex64)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _Apart.apply(grad)  # type: ignore[no-untyped-call]


def _unit(size: Tensor, eps: float) -> Tensor:
    """Return a scale at which the squares of numbers of mean size ``size`` and ``eps`` itself neither overflow nor vanish."""
    least = math.sqrt(eps)
    return torch.where(size > max(least, torch.finfo(size.dtype).tiny), size, torch.full_like(size, least or 1.0))


def _symmetric(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return p (real) and q of the symmetric matrix with entries rr, ii, ri."""
    rr, ii, ri = weight.unbind(-1)
    return (rr + ii) / 2, torch.complex((rr - ii) / 2, ri)


class _Whiten(torch.autograd.Function):
    """The same as ``_whiten`` in half the passes over the data, and with no memory of the batch's size but its results.

    Where squares or their products could over- or underflow, and for derivatives of second order, ``_whiten`` does the work.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        axes, shape = _layout(z)
        m = z.mean(axes)
        work = z - m.reshape(shape)
        squares = (parts := torch.view_as_real(work)).mul_(parts).mean(axes)
        kappa = torch.sub(z, m.reshape(shape), out=work).mul_(work).mean(axes)
        sigma, limit = squares.sum(-1) + 2 * eps, torch.finfo(squares.dtype).max ** 0.25
        low, high = sigma.aminmax()
        ctx.eps, ctx.plain = eps, not 1 / limit < float(low) <= float(high) < limit
        if ctx.plain:
            y, mean, covariance = _whiten(z, weight, bias, eps)
            ctx.save_for_backward(z, weight, bias)
        else:
            mean, covariance = torch.view_as_real(m), torch.cat((squares, kappa.imag.unsqueeze(-1) / 2), -1)
            p0, q0, *rest = _root(covariance, sigma, kappa, eps)
            p, q = (p0.to(q0.dtype), q0) if weight is None else _after(weight, p0, q0)
            # y = p z + q z̄ + shift, the last two as the conjugate of q̄ z and the conjugate shift
            shift = -torch.addcmul(q.conj() * m, p.conj(), m.conj())
            if bias is not None:
                shift += torch.view_as_complex(bias).conj()
            y = torch.addcmul(shift.reshape(shape), z, q.conj().reshape(shape), out=work)
            y.conj_physical_().addcmul_(z, p.reshape(shape))
            ctx.save_for_backward(z, weight, bias, m, p, q, p0, q0, kappa, sigma, *rest)
        ctx.mark_non_differentiable(mean, covariance)
        return y, mean, covariance

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        z, weight, bias, *saved = ctx.saved_tensors
        if torch.is_grad_enabled() or ctx.plain:
            return *_differentiated(ctx, grad), None
        m, p, q, p0, q0, kappa, sigma, delta, square, free = saved
        axes, shape = _layout(z)
        n = z.numel() // z.shape[1]
        # dL = Re(ḡ dy); the gradient of a complex number a is the g_a of dL = Re(ḡ_a da)
        total = grad.sum(axes)
        work = z - m.reshape(shape)
        g_q = work.mul_(grad).sum(axes)
        g_p = torch.sub(z, m.reshape(shape), out=work).conj_physical_().mul_(grad).sum(axes)
        g_bias = torch.view_as_real(total) if bias is not None else None
        g_weight = None
        if weight is None:
            g_p0, g_q0 = g_p.real, g_q
        else:
            scale, skew = _symmetric(weight)
            g_scale, g_skew = p0 * g_p.real + (g_q.conj() * q0).real, g_p * q0 + g_q * p0
            g_weight = torch.stack(((g_scale + g_skew.real) / 2, (g_scale - g_skew.real) / 2, g_skew.imag), -1)
            g_p0, g_q0 = scale * g_p.real + (g_q.conj() * skew).real, g_p.conj() * skew + scale * g_q
        if not ctx.needs_input_grad[0]:
            return None, g_weight, g_bias, None
        g_sigma, g_kappa = _root_gradient(g_p0, g_q0, p0, q0, kappa, sigma, delta, square, free)
        # per value p̄ g + q ḡ + (2/n)(g_σ x + g_κ x̄), less its mean; what is conjugate is summed before it is conjugated
        a, b, c, d = p.conj(), q.conj(), (2 / n * g_sigma).to(q.dtype), 2 / n * g_kappa.conj()
        shift = -(torch.addcmul(c * m, a, total / n).conj() + torch.addcmul(d * m, b, total / n))
        a, b, c, d, shift = (v.resolve_conj().reshape(shape) for v in (a, b, c, d, shift))
        torch.addcmul(shift, grad, b, out=work).addcmul_(z, d).conj_physical_().addcmul_(grad, a).addcmul_(z, c)
        return work, g_weight, g_bias, None


class _Fused(torch.autograd.Function):
    """y of ``_whiten`` by the kernels of `spectralmc.cuda`, which move the running statistics too; second derivatives by ``_whiten``."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, running: cuda.Running | None) -> Tensor:
        ctx.eps = eps
        y, saved = cuda.norm_forward(z.contiguous(), weight, bias, eps, running)
        ctx.save_for_backward(z, weight, bias, *saved)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return *_differentiated(ctx, grad), None, None
        z, weight, _, *saved = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        return *cuda.norm_backward(z.contiguous(), grad.resolve_conj().contiguous(), tuple(saved), weight, wanted), None, None


def _differentiated(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of z, weight and bias through ``_whiten``, with a graph of their own where a second derivative is wanted."""
    again, (z, weight, bias, *_) = torch.is_grad_enabled(), ctx.saved_tensors
    given = [tensor for tensor, wanted in zip((z, weight, bias), ctx.needs_input_grad, strict=False) if wanted]
    with torch.enable_grad():
        y = _whiten(z, weight, bias, ctx.eps)[0]
    found = iter(torch.autograd.grad(y, given, grad, create_graph=again))
    return tuple(next(found) if wanted else None for wanted in ctx.needs_input_grad[:3])


def _has_kernel(z: Tensor) -> bool:
    return z.is_cuda and z.ndim == 2 and len(z) <= cuda.NORM_MOST_ROWS and cuda.available()


def _root(covariance: Tensor, sigma: Tensor, kappa: Tensor, eps: float) -> tuple[Tensor, ...]:
    """Return p₀ and q₀ of V^{-1/2}, and δ, t² and where δ is V's own, not its bound."""
    rr, ii, ri = covariance.unbind(-1)
    determinant, bound = torch.addcmul((rr + eps) * (ii + eps), ri, ri, value=-1), sigma.square() * (torch.finfo(rr.dtype).eps / 2)
    delta = torch.maximum(determinant, bound).sqrt()
    square = torch.add(sigma, delta, alpha=2)
    t = square.sqrt()
    return t / (2 * delta), kappa / (-2 * delta * t), delta, square, determinant > bound


def _root_gradient(
    g_p: Tensor, g_q: Tensor, p: Tensor, q: Tensor, kappa: Tensor, sigma: Tensor, delta: Tensor, square: Tensor, free: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of σ and κ from those of p₀ = t/(2δ) and q₀ = −p₀κ/t², with t² = σ + 2δ and 4δ² = σ² − |κ|², or δ ∝ σ."""
    along = (g_q.conj() * q).real
    total = torch.addcmul(along, g_p, p)
    half = (total - 2 * along) / square
    slope = half - total / delta  # in δ
    inner = torch.where(free, slope / (4 * delta), torch.zeros_like(delta))
    return half / 2 + torch.where(free, inner * sigma, slope * delta / sigma), -(p / square) * g_q - inner * kappa


def _after(weight: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Return Γ after V^{-1/2}."""
    scale, skew = _symmetric(weight)
    return scale * p + skew * q.conj(), scale * q + skew * p
