"""The Gaussian process against explicit formulas, and what its calibration and fit must notice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import approx_fprime
from threadpoolctl import ThreadpoolController

from mergefront.sampling.gp import GaussianProcess, fit
from mergefront.sampling.gp.fitting import fitted_kernel, milestone, objective
from mergefront.sampling.gp.kernel import DEFAULT_ERROR, SMALLEST_ERROR, Kernel, noise_parts
from mergefront.sampling.gp.process import one_thread
from mergefront.stats.pareto import collapsed

Array = NDArray[np.float64]
KERNELS = [Kernel((0.3,), 0.05), Kernel((0.5, 0.2, 2.0), 0.1, 0.6)]


def problem(seed: int, n: int = 12, dimension: int = 3) -> tuple[Array, Array, Array]:
    random = np.random.default_rng(seed)
    points = random.random((n, dimension))
    errors = random.uniform(0.01, 0.06, n)
    values = 0.5 + 0.1 * np.sin(4 * points).mean(axis=1) + errors * random.standard_normal(n)
    return points, values, errors


def correlation(kernel: Kernel, a: Array, b: Array) -> float:
    """One entry of the kernel, straight from its definition, constant mean included."""
    root = np.sqrt(5 * (((a - b) / np.array(kernel.lengthscales)) ** 2).mean())
    return float(kernel.amplitude**2 * (1 + root + root**2 / 3) * np.exp(-root) + 1.0)


def prior(kernel: Kernel, a: Array, b: Array) -> Array:
    return np.array([[correlation(kernel, x, y) for y in b] for x in a])


@pytest.mark.parametrize("kernel", KERNELS, ids=["one scale", "a scale each"])
def test_the_posterior_is_the_textbooks(kernel: Kernel) -> None:
    points, values, errors = problem(0)
    new = np.random.default_rng(9).random((5, 3))
    process = GaussianProcess(kernel, points, values, errors)
    total = prior(kernel, points, points) + np.diag(kernel.own_share * errors**2)
    cross = prior(kernel, new, points) @ np.linalg.inv(total)
    mean, covariance = process.posterior(new)
    away = values - values.mean()
    assert mean == pytest.approx(values.mean() + cross @ away, abs=1e-8)
    assert process.mean(new) == pytest.approx(mean, abs=1e-10)
    assert process.own_mean == pytest.approx(process.mean(points), abs=1e-9)
    expected = prior(kernel, new, new) - cross @ prior(kernel, points, new)
    assert covariance == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("kernel", KERNELS, ids=["one scale", "a scale each"])
def test_leaving_one_out_is_predicting_it_from_the_others(kernel: Kernel) -> None:
    points, values, errors = problem(1)
    residual, deviation = GaussianProcess(kernel, points, values, errors).leave_one_out
    away = values - values.mean()
    total = prior(kernel, points, points) + np.diag(kernel.own_share * errors**2)
    for i in range(len(values)):
        rest = np.arange(len(values)) != i
        weights = np.linalg.solve(total[np.ix_(rest, rest)], total[rest, i])
        assert residual[i] == pytest.approx(away[i] - weights @ away[rest], abs=1e-8)
        variance = total[i, i] - weights @ total[rest, i]
        assert deviation[i] == pytest.approx(np.sqrt(variance), abs=1e-8)


def test_draws_have_the_posteriors_mean_and_covariance() -> None:
    points, values, errors = problem(2)
    process = fit(points, values, errors)
    new = np.vstack([points[:2], [[0.5, 0.5, 0.5]]])
    random = np.random.default_rng(0)
    draws = np.array([process.draw(new, random) for _ in range(4000)])
    mean, covariance = process.posterior(new)
    deviation = np.sqrt(np.diag(covariance))
    assert np.abs(draws.mean(axis=0) - mean).max() < 0.06 * deviation.max()
    scale = deviation[:, None] * deviation
    assert np.abs(np.cov(draws.T) - covariance).max() < 0.1 * scale.max()


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 10_000), st.floats(-0.4, 0.4))
def test_order_and_level_of_the_scores_do_not_matter(seed: int, level: float) -> None:
    points, values, errors = problem(seed)
    new = np.random.default_rng(1).random((4, 3))
    expected = fit(points, values, errors).mean(new)
    order = np.random.default_rng(seed).permutation(len(values))
    assert fit(points[order], values[order], errors[order]).mean(new) == pytest.approx(
        expected, abs=1e-4
    )
    assert fit(points, values + level, errors).mean(new) == pytest.approx(
        expected + level, abs=1e-4
    )


def test_a_score_counts_as_much_as_its_error_allows() -> None:
    points, values, errors = problem(3)
    kernel = KERNELS[0]
    values[0] += 0.2  # a lucky candidate
    sure, unsure = errors.copy(), errors.copy()
    sure[0], unsure[0] = 0.002, 0.2
    believed = GaussianProcess(kernel, points, values, sure).mean(points[:1])[0]
    doubted = GaussianProcess(kernel, points, values, unsure).mean(points[:1])[0]
    assert believed == pytest.approx(values[0], abs=0.005)
    assert doubted < values[0] - 0.1


def test_far_from_all_candidates_nothing_is_known() -> None:
    points, values, errors = problem(4)
    kernel = Kernel((0.1,), 0.07)
    mean, covariance = GaussianProcess(kernel, points, values, errors).posterior([[50.0] * 3])
    assert mean[0] == pytest.approx(values.mean(), abs=0.03)
    assert covariance[0, 0] > 0.07**2


def sampled(kernel: Kernel, n: int, seed: int, *, own: float = 1.0) -> tuple[Array, Array, Array]:
    """Scores drawn from the model itself, on 4 knobs; `own` is what errors are in truth."""
    random = np.random.default_rng(seed)
    points = random.random((n, 4))
    covariance = kernel.covariance(points, points) + 1e-10 * np.eye(n)
    errors = random.uniform(0.02, 0.04, n)
    noise = np.sqrt(own) * errors * random.standard_normal(n)
    return points, 0.5 + np.linalg.cholesky(covariance) @ random.standard_normal(n) + noise, errors


def test_the_fit_finds_what_the_scores_were_made_of() -> None:
    wiggly = fit(*sampled(Kernel((0.14,), 0.1), 150, 0)).kernel
    smooth = fit(*sampled(Kernel((0.8,), 0.1), 150, 0)).kernel
    assert max(wiggly.lengthscales) < 0.4 < min(smooth.lengthscales)
    one = fit(*sampled(Kernel((0.15, 9.0, 9.0, 9.0), 0.1), 150, 0)).kernel.lengthscales
    assert one[0] < 0.3
    assert min(one[1:]) > 4 * one[0]  # three knobs that move nothing
    shares = [
        [fit(*sampled(Kernel((0.45,), 0.1), 150, s, own=own)).kernel.own_share for s in range(4)]
        for own in (1.0, 0.3)
    ]
    assert np.mean(shares[0]) > 0.75
    assert np.mean(shares[1]) < 0.5


def test_the_gradient_is_that_of_the_objective() -> None:
    points, values, errors = problem(7)
    noise = noise_parts(errors, 0.5 * errors)
    theta = np.random.default_rng(0).normal(0.0, 0.5, 5)

    def value(at: Array) -> float:
        return objective(at, points, values - values.mean(), noise, 0.1)[0]

    found = objective(theta, points, values - values.mean(), noise, 0.1)[1]
    assert found == pytest.approx(approx_fprime(theta, value, 1e-6), rel=1e-3, abs=1e-4)


def test_kernels_change_at_milestones_only() -> None:
    steps = sorted({milestone(n) for n in range(1, 400)})
    assert steps[:16] == list(range(1, 17))
    assert all(b - a == -(-a // 7) for a, b in itertools.pairwise(steps[15:]))
    points, values, errors = problem(8, n=45)
    reached = milestone(45)
    some = fit(points[:reached], values[:reached], errors[:reached]).kernel
    assert reached < 45
    assert fit(points, values, errors).kernel == some
    values[reached:] -= 0.5  # a cliff where nobody had been: the kernel is fitted again
    surprised = fit(points, values, errors)
    assert surprised.kernel != some
    assert surprised.kernel == fitted_kernel(points, values, errors, 0.0 * errors)


def test_what_was_not_answered_is_noise_of_the_candidate_alone() -> None:
    kernel = Kernel((0.5,), 0.1, own_share=0.4)
    assert kernel.noise([0.05, 0.05], [0.0, 0.04]) == pytest.approx(
        [0.4 * 0.05**2, 0.04**2 + 0.4 * 0.03**2]
    )
    points, values, errors = problem(9)
    partial = np.where(np.arange(len(errors)) == 0, 0.9 * errors, 0.0)
    whole = GaussianProcess(kernel, points, values, errors)
    part = GaussianProcess(kernel, points, values, errors, partial)
    assert abs(part.mean(points[:1]) - values[0]) > abs(whole.mean(points[:1]) - values[0])
    assert part.deviation(points[:1]) > whole.deviation(points[:1])
    covariance = part.posterior(points)[1]
    assert part.deviation(points) == pytest.approx(np.sqrt(np.diag(covariance)), abs=1e-7)


def test_calibration_of_a_true_model_and_of_a_wrong_one() -> None:
    checks = [fit(*sampled(Kernel((0.45,), 0.1), 120, s)).calibration() for s in range(8)]
    assert not any(check.misfit for check in checks)
    assert np.mean([check.mean_square for check in checks]) == pytest.approx(1.0, abs=0.12)
    assert np.mean([check.within_95 for check in checks]) == pytest.approx(0.95, abs=0.025)
    points, values, errors = sampled(Kernel((0.8,), 0.05), 120, 0)
    sound = fit(points, values, errors).calibration()
    values[::17] = 0.02  # candidates that collapsed, left in
    broken = fit(points, values, errors).calibration()
    assert broken.excess > 5 * sound.excess
    assert broken.within_95 < sound.within_95
    too_sure = GaussianProcess(Kernel((1.4,), 0.02), points, values, errors).calibration()
    assert too_sure.misfit
    assert too_sure.mean_square == pytest.approx(
        np.mean(np.square(np.divide(*_loo(Kernel((1.4,), 0.02), points, values, errors))))
    )


def _loo(kernel: Kernel, points: Array, values: Array, errors: Array) -> tuple[Array, Array]:
    return GaussianProcess(kernel, points, values, errors).leave_one_out


def test_more_than_two_hundred_candidates_all_count() -> None:
    points, values, errors = sampled(Kernel((0.45,), 0.1), 420, 5)
    process = fit(points, values, errors)
    assert process.calibration().n == 420
    moved = values.copy()
    moved[211] += 0.1  # whether or not it chose the kernel
    changed = GaussianProcess(process.kernel, points, moved, errors)
    assert changed.mean(points[211:212])[0] > process.mean(points[211:212])[0] + 1e-4


def test_unknown_and_vanishing_errors() -> None:
    points, values, errors = problem(6)
    unknown = np.where(np.arange(len(errors)) < 2, [np.nan], errors)
    stated = np.where(np.arange(len(errors)) < 2, [DEFAULT_ERROR], errors)
    assert (
        fit(points, values, unknown).mean(points) == fit(points, values, stated).mean(points)
    ).all()
    none, floor = np.zeros(len(errors)), np.full(len(errors), SMALLEST_ERROR)
    assert (fit(points, values, none).mean(points) == fit(points, values, floor).mean(points)).all()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_or_equal_candidates(n: int) -> None:
    points, values, errors = np.full((n, 2), 0.3), np.full(n, 0.6), np.zeros(n)
    process = fit(points, values, errors)
    assert process.mean([[0.3, 0.3], [0.9, 0.1]]) == pytest.approx([0.6, 0.6], abs=1e-6)
    assert np.isfinite(process.draw([[0.3, 0.3], [0.3, 0.3]], np.random.default_rng(0))).all()
    assert not process.calibration().misfit


@pytest.mark.parametrize(
    ("points", "values", "errors", "message"),
    [
        (np.empty((0, 2)), [], [], "0 points, 0 values and 0 errors"),
        ([[0.1], [0.2]], [0.5], [0.1], "2 points, 1 values and 1 errors"),
        ([[0.1], [np.nan]], [0.5, 0.5], [0.1, 0.1], "not finite; leave failed candidates out"),
        ([[0.1], [0.2]], [0.5, np.inf], [0.1, 0.1], "not finite; leave failed candidates out"),
    ],
)
def test_what_fit_refuses(points: object, values: object, errors: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(points, values, errors)  # type: ignore[arg-type]


def test_collapsed_is_less_than_half_the_reference_in_any_objective() -> None:
    values = [[0.6, 0.6], [0.25, 0.6], [0.24, 0.6], [0.6, 0.0]]
    assert collapsed(values, [0.5, 0.4]).tolist() == [False, False, True, True]
    assert collapsed([[-1.2], [-1.6]], [-1.0]).tolist() == [False, True]


def test_the_number_of_cores_changes_no_bit() -> None:
    """Whatever numpy's linear algebra was set to before, a model holds it to one thread."""
    points, values, errors = problem(11, n=150)
    libraries = ThreadpoolController().select(internal_api="openblas").lib_controllers
    if not libraries:
        pytest.skip("this numpy brings no OpenBLAS")
    seen = []
    for threads in (1, 2):
        for library in libraries:
            library.set_num_threads(threads)
        one_thread.cache_clear()
        process = fit(points, values, errors)
        seen.append([process.own_mean.tobytes(), process.deviation(points).tobytes()])
        assert {library.get_num_threads() for library in libraries} == {1}
    assert seen[0] == seen[1]
