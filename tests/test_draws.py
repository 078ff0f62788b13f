"""Random numbers by address: published answers, moments, nets, bridges, and the same bits in any order."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
import torch
from fixtures import sigmas
from torch import Tensor

from spectralmc.draws import Draws, box_muller, brownian_bridge, philox

SAMPLINGS = ("independent", "sobol")


def normals(draws: Draws, sets: range, paths: range, steps: int = 3, factors: int = 1, **options: object) -> Tensor:
    """All steps of `Draws.normals` stacked: (M, factors, B, N)."""
    return torch.stack(list(draws.normals(sets, paths, steps, factors, **options)))


def digits(points: Tensor, bits: int = 23) -> Tensor:
    """Points of the unit interval as whole numbers of ``bits`` bits."""
    return (points * 2**bits).floor().long()


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_answers_of_random123(counter: str, key: str, answer: str) -> None:
    c = tuple(torch.tensor(int(word, 16)) for word in counter.split())
    k = tuple(int(word, 16) for word in key.split())
    assert [f"{int(word):08x}" for word in philox(c, k)] == answer.split()


def test_words_are_uniform_bit_by_bit_and_in_their_high_byte() -> None:
    words = torch.stack(Draws(3).words(torch.tensor(0), torch.arange(1 << 14), 0)).flatten()
    n = len(words)
    ones = torch.stack([(words >> bit & 1).double().sum() for bit in range(32)])
    assert bool(((ones - n / 2).abs() < sigmas(32) * math.sqrt(n) / 2).all())
    chi_square = float(((torch.bincount(words >> 24, minlength=256) - n / 256) ** 2).sum() / (n / 256))
    assert abs(chi_square - 255) < 4 * math.sqrt(2 * 255)
    assert int(words.min()) >= 0
    assert int(words.max()) < 1 << 32


@pytest.mark.parametrize("address", ["seed", "high word of the seed", "stream", "set", "path", "block"])
def test_every_part_of_the_address_changes_every_word(address: str) -> None:
    def words(seed: int = 1, stream: int = 0, sets: int = 2, paths: int = 3, block: int = 4) -> Tensor:
        return torch.stack(Draws(seed, stream=stream).words(torch.tensor(sets), torch.tensor(paths), block))

    changed = {
        "seed": words(seed=2),
        "high word of the seed": words(seed=1 + (1 << 32)),
        "stream": words(stream=1),
        "set": words(sets=3),
        "path": words(paths=4),
        "block": words(block=5),
    }
    assert bool((changed[address] != words()).all())
    assert torch.equal(words(), words())


@pytest.mark.parametrize("factors", [1, 2, 3])
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_part_of_the_sets_and_paths_equals_the_whole_bit_for_bit(sampling: str, dtype: torch.dtype, factors: int) -> None:
    draws = Draws(5, sampling, randomizations=4)
    whole = normals(draws, range(3), range(256), factors=factors, dtype=dtype, total=256)
    assert whole.shape == (3, factors, 3, 256)
    assert whole.dtype == dtype
    for sets, paths in itertools.product((range(2), range(1, 3)), (range(1), range(37, 41), range(60, 201))):
        part = normals(draws, sets, paths, factors=factors, dtype=dtype, total=256)
        assert torch.equal(part, whole[..., sets.start : sets.stop, paths.start : paths.stop])


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_float32_and_float64_normals_agree_within_the_stated_bound(sampling: str) -> None:
    single, double = (normals(Draws(9, sampling), range(2), range(1 << 14), dtype=d) for d in (torch.float32, torch.float64))
    assert float((single - double).abs().max()) < 2e-6
    assert float(double.abs().max()) < (5.77 if sampling == "independent" else 6.4)


def test_extreme_words_give_finite_normals_within_the_stated_bound() -> None:
    ends = torch.tensor([0, (1 << 32) - 1])
    for dtype, first, second in itertools.product((torch.float32, torch.float64), ends, ends):
        z = torch.stack(box_muller(first, second, dtype))
        assert bool((torch.isfinite(z) & (z.abs() < 5.77)).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_independent_normals_have_the_moments_of_a_normal(dtype: torch.dtype) -> None:
    z = normals(Draws(11), range(4), range(1 << 14), steps=4, dtype=dtype).double().flatten()
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3), (6, 15)):
        variance = math.prod(range(1, 2 * power, 2)) - moment**2
        assert abs(float((z**power).mean()) - moment) < sigmas(5) * math.sqrt(variance / len(z)), power


def test_independent_normals_fill_the_deciles_of_a_normal_evenly() -> None:
    z = normals(Draws(12), range(1), range(1 << 16), steps=1).flatten()
    counts = torch.histc(torch.special.ndtr(z), 10, 0, 1)
    expected = len(z) / 10
    assert abs(float(((counts - expected) ** 2 / expected).sum()) - 9) < 4 * math.sqrt(2 * 9)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_steps_factors_sets_and_streams_are_uncorrelated(sampling: str) -> None:
    draws = Draws(13, sampling, randomizations=1 << 10)  # Sobol: many short randomizations, so that correlations show
    z = torch.cat([normals(d, range(2), range(1 << 13), 3, 2).flatten(0, 2) for d in (draws, draws.on(1), Draws(14, sampling, 1 << 10))])
    rows = torch.corrcoef(z)[~torch.eye(len(z)).bool()]
    assert len(z) == 36
    assert float(rows.abs().max()) < sigmas(36 * 35 // 2) / math.sqrt(z.shape[1])


def test_randomizations_of_sobol_points_are_independent_of_each_other() -> None:
    z = normals(Draws(15, "sobol", randomizations=256), range(64), range(512), steps=1).squeeze().unflatten(-1, (256, 2))[..., 0]
    rows = torch.corrcoef(z.T)[~torch.eye(256).bool()]  # 256 randomizations, each seen on 64 sets
    assert float(rows.abs().max()) < sigmas(256 * 255 // 2) * 1.3 / math.sqrt(64)  # 1.3: tails of a correlation of 64 pairs
    assert abs(float((z**2).mean()) - 1) < 4 * math.sqrt(2 / z.numel())


@pytest.mark.parametrize("factors", [1, 3])
def test_independent_normals_are_those_of_their_address_in_order(factors: int) -> None:
    """The normals of path 5 of set 2, step by step and factor by factor, are those of blocks 0, 1, 2, … with none left out."""
    found = normals(Draws(8), range(2, 3), range(5, 6), steps=4, factors=factors).flatten()
    words = [Draws(8).words(torch.tensor(2), torch.tensor(5), block) for block in range(factors)]
    by_hand = [z for a, b, c, d in words for pair in ((a, b), (c, d)) for z in box_muller(*pair, torch.float64)]
    assert torch.equal(found, torch.stack(by_hand))


def test_a_longer_run_begins_with_the_normals_of_the_shorter_one() -> None:
    draws = Draws(16)
    assert torch.equal(normals(draws, range(2), range(500))[..., :100], normals(draws, range(2), range(100)))
    assert torch.equal(normals(draws, range(2), range(9), steps=7)[:4], normals(draws, range(2), range(9), steps=4))


@pytest.mark.parametrize("size", [2, 16, 256])
@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_each_coordinate_of_a_power_of_two_run_is_stratified(seed: int, size: int) -> None:
    z = normals(Draws(seed, "sobol", randomizations=2), range(2), range(2 * size), 5, total=2 * size)
    # undo the bridge: it is orthogonal
    matrix = brownian_bridge(torch.eye(5).double())
    points = torch.special.ndtr(torch.einsum("ij,ikbn->jkbn", matrix, z)).unflatten(-1, (2, size))
    strata = (points * size).floor().long().sort(-1).values
    assert torch.equal(strata, torch.arange(size).expand_as(strata))


@pytest.mark.parametrize("seed", [0, 7])
def test_the_first_two_coordinates_form_a_net(seed: int) -> None:
    """A (0, m, 2)-net in base 2: every dyadic rectangle of area 2^-m holds exactly one of 2^m points, scrambled or not."""
    m = 8
    points = net_points(seed, 1 << m)
    for across in range(m + 1):
        cell = (points[0] >> (23 - across) << (m - across)) + (points[1] >> (23 - (m - across)))
        assert torch.equal(cell.sort().values, torch.arange(1 << m))


def net_points(seed: int, size: int) -> Tensor:
    """The scrambled and shifted points of one randomization in two dimensions, as 23-bit integers (2, N)."""
    z = normals(Draws(seed, "sobol", randomizations=1), range(1), range(size), steps=1, factors=2)
    return digits(torch.special.ndtr(z[0, :, 0]))


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 32])
def test_the_bridge_is_orthogonal_and_its_first_normal_fixes_the_end(steps: int) -> None:
    matrix = brownian_bridge(torch.eye(steps, dtype=torch.float64))
    identity = torch.eye(steps, dtype=torch.float64)
    torch.testing.assert_close(matrix @ matrix.T, identity, rtol=0, atol=8 * steps * torch.finfo(torch.float64).eps)
    end = math.sqrt(steps) * identity[0]
    torch.testing.assert_close(matrix.sum(0), end, rtol=0, atol=8 * steps * torch.finfo(torch.float64).eps)


def test_bridged_sobol_points_have_the_covariance_of_brownian_motion() -> None:
    z = normals(Draws(17, "sobol", randomizations=64), range(1), range(1 << 13), steps=6)[:, 0, 0]
    path = z.cumsum(0).unflatten(1, (64, -1))
    products = torch.einsum("irn,jrn->ijr", path, path) / path.shape[2]
    expected = torch.minimum(torch.arange(1, 7)[:, None], torch.arange(1, 7)).double()
    error = products.std(-1) / math.sqrt(64)
    assert bool(((products.mean(-1) - expected).abs() < sigmas(21) * error).all())
    assert float(error.max()) < math.sqrt(2) * 6 / math.sqrt(1 << 13)  # far below plain Monte Carlo's, √(2·36/N) at the end


def test_randomised_sobol_points_beat_independent_ones_on_a_smooth_integrand() -> None:
    def error(sampling: str) -> float:
        z = normals(Draws(18, sampling, randomizations=32), range(1), range(32 * 256), steps=8)[:, 0, 0]
        means = torch.exp(0.1 * z.sum(0)).unflatten(0, (32, 256)).mean(1)
        return float((means - math.exp(0.04)).square().mean().sqrt())

    plain = math.sqrt((math.exp(0.08) - 1) * math.exp(0.08) / 256)
    assert error("independent") == pytest.approx(plain, rel=4 / math.sqrt(2 * 32))
    assert error("sobol") < plain / 10


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_uniforms_lie_inside_the_cube_continue_and_fill_it(sampling: str) -> None:
    draws = Draws(19, sampling)
    cube = draws.uniforms(range(1024), 5)
    assert cube.shape == (1024, 5)
    assert bool(((cube > 0) & (cube < 1)).all())
    assert torch.equal(torch.cat([draws.uniforms(range(300), 5), draws.uniforms(range(300, 1024), 5)]), cube)
    assert float((cube.mean(0) - 0.5).abs().max()) < sigmas(5) * math.sqrt(1 / 12 / 1024)
    if sampling == "sobol":
        strata = (cube * 1024).floor().long().sort(0).values
        assert torch.equal(strata, torch.arange(1024)[:, None].expand(1024, 5))


def test_on_moves_to_another_stream_of_the_same_seed() -> None:
    draws = Draws(20, "sobol", randomizations=4)
    assert draws.on(3) == Draws(20, "sobol", 4, stream=3)
    assert not torch.equal(draws.uniforms(range(4), 2), draws.on(3).uniforms(range(4), 2))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"seed": -1}, ValueError, "seed must be at least 0; got -1"),
        ({"seed": 1.5}, TypeError, "seed must be a whole number; got 1.5"),
        ({"seed": 1 << 64}, ValueError, f"seed must be below 2**64; got {1 << 64}"),
        ({"seed": 1, "stream": 1 << 30}, ValueError, f"stream must be below 2**30; got {1 << 30}"),
        ({"seed": 1, "sampling": "halton"}, ValueError, "sampling must be one of independent, sobol; got 'halton'"),
        ({"seed": 1, "randomizations": 0}, ValueError, "randomizations must be at least 1; got 0"),
    ],
)
def test_bad_draws_are_refused(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        Draws(**arguments)


def test_the_largest_seed_and_stream_work_and_numpy_whole_numbers_too() -> None:
    z = normals(Draws((1 << 64) - 1, stream=(1 << 30) - 1), range(1), range(4))
    assert bool(torch.isfinite(z).all())
    assert torch.equal(normals(Draws(np.int64(4)), range(1), range(4)), normals(Draws(4), range(1), range(4)))


@pytest.mark.parametrize(("total", "near"), [(1000, 1024), (16 * 3, 64), (8, 16)])
def test_sobol_runs_that_are_no_power_of_two_are_refused_with_a_number_that_works(total: int, near: int) -> None:
    rule = "paths must be randomizations × a power of two for Sobol points"
    with pytest.raises(ValueError, match=f"^{rule}; got {total} paths, 16 randomizations: take {near}$"):
        Draws(1, "sobol").points_each(total)
    assert Draws(1, "sobol").points_each(near) * 16 == near


def test_too_many_points_or_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("paths must be at most 2**30 a randomization for Sobol points; got 2147483648")):
        Draws(1, "sobol", randomizations=1).points_each(1 << 31)
    with pytest.raises(ValueError, match=r"steps × factors must be at most 21201 for Sobol points; got 21202: use fewer"):
        normals(Draws(1, "sobol"), range(1), range(16), steps=21202)


@pytest.mark.parametrize("sampling", ["independent", "sobol"])
def test_designs_of_parameters_share_no_number_with_the_paths(sampling: str) -> None:
    draws = Draws(5, sampling, randomizations=1, stream=2)
    design = draws.uniforms(range(64), 2)
    paths = torch.special.ndtr(torch.stack(list(draws.normals(range(1), range(64), 2)))[:, 0, 0].T)
    assert not bool(torch.isclose(design[:, :, None], paths[:, None, :], rtol=0, atol=1e-9).any())


@pytest.mark.parametrize(
    ("sets", "paths"), [(range(-1, 1), range(4)), (range(2**32, 2**32 + 1), range(4)), (range(1), range(2**32, 2**32 + 4))]
)
def test_addresses_beyond_the_counter_are_refused(sets: range, paths: range) -> None:
    with pytest.raises(ValueError, match=r"(parameter set|path) numbers must lie in \[0, 2\*\*32\)"):
        Draws(1).normals(sets, paths, 1)


@pytest.mark.parametrize("sampling", ["independent", "sobol"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_antithetic_paths_come_in_pairs_of_opposite_normals(sampling: str, dtype: torch.dtype) -> None:
    draws = Draws(5, sampling, randomizations=2, antithetic=True)
    z = torch.stack(list(draws.normals(range(3), range(32), 4, 2, dtype)))
    assert torch.equal(z[..., ::2], -z[..., 1::2])
    half = torch.stack(list(Draws(5, sampling, randomizations=2).normals(range(3), range(16), 4, 2, dtype)))
    assert torch.equal(z[..., ::2], half)
    for cut in (range(1, 2), range(4, 9), range(7, 32), range(30, 31)):
        part = torch.stack(list(draws.normals(range(3), cut, 4, 2, dtype, total=32)))
        assert torch.equal(part, z[..., cut.start : cut.stop])


@pytest.mark.parametrize("antithetic", [False, True])
def test_the_coordinates_beyond_the_sobol_dimensions_are_independent_normals(antithetic: bool) -> None:
    """Undoing the bridge shows them: the leading ones are those of all-Sobol draws, and the rest those of independent draws."""
    from spectralmc.draws import brownian_bridge

    steps, factors, leading = 6, 2, 5
    options = {"randomizations": 2, "antithetic": antithetic}
    bridge = brownian_bridge(torch.eye(steps, dtype=torch.float64))  # orthogonal: its transpose undoes it

    def coordinates(draws: Draws) -> torch.Tensor:
        z = torch.stack(list(draws.normals(range(2), range(64), steps, factors)))
        return torch.einsum("ij,i...->j...", bridge, z).flatten(0, 1)

    padded, full = (coordinates(Draws(6, "sobol", dimensions=d, **options)) for d in (leading, None))
    torch.testing.assert_close(padded[:leading], full[:leading], rtol=0, atol=1e-13)
    rest = torch.cat(list(Draws(6, antithetic=antithetic).normals(range(2), range(64), steps * factors - leading)))
    torch.testing.assert_close(padded[leading:], rest, rtol=0, atol=1e-13)
    whole = coordinates(Draws(6, "sobol", dimensions=1000, **options))
    assert torch.equal(whole, full)


def test_many_steps_take_sobol_points_for_the_first_of_them_only() -> None:
    draws = Draws(7, "sobol", randomizations=1, dimensions=64)
    z = torch.stack(list(draws.normals(range(1), range(4), 21_202)))
    assert z.shape == (21_202, 1, 1, 4)
    assert bool(torch.isfinite(z).all())


def test_the_runs_that_are_independent_are_counted() -> None:
    assert Draws(1).runs(7) == 0
    assert Draws(1, antithetic=True).runs(8) == 4
    assert Draws(1, "sobol", randomizations=4).runs(32) == 4
    assert Draws(1, "sobol", randomizations=4, antithetic=True).runs(32) == 4


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"antithetic": 1}, TypeError, "antithetic must be True or False; got 1"),
        ({"dimensions": 4}, ValueError, "dimensions are those of Sobol points; got 4 with independent draws"),
        ({"sampling": "sobol", "dimensions": 0}, ValueError, "dimensions must be at least 1; got 0"),
        ({"sampling": "sobol", "dimensions": 21_202}, ValueError, "dimensions must be at most 21201, as many as there are; got 21202"),
    ],
)
def test_bad_antithetic_pairs_and_dimensions_are_refused(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        Draws(1, **arguments)


def test_paths_that_do_not_pair_up_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^paths must be even for antithetic draws, which come in pairs; got 7$"):
        Draws(1, antithetic=True).runs(7)
    with pytest.raises(ValueError, match=r"power of two for Sobol points; got 12 paths, 2 randomizations: take 16$"):
        Draws(1, "sobol", randomizations=2, antithetic=True).runs(12)
