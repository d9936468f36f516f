"""Figures that others published: R, Stata, glmnet, NIST, and 60-digit solutions of problems that break solvers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import digits, flat, nasty, needs_reference, nist, published, read

import glmjax as gj

PUBLISHED = {case["name"]: case for case in read("glm_cases.json") if not case["penalty"]}
NASTY = {case["name"]: case for case in read("nasty_cases.json")}
NIST = {case["name"]: case for case in read("nist_strd.json")}

pytestmark = needs_reference


def slope(model, params, data, l2=0.0):
    """The largest entry of the loss's gradient, in columns of deviation 1 at most."""
    w, b = (np.asarray(part).T for part in jax.grad(lambda p: gj.loss(model, p, data, l2))(params))
    center = np.asarray(data.x).mean(axis=0)
    scale = np.abs(np.asarray(data.x) - center).max(axis=0)
    return max(np.abs((w - b[..., None] * center) / scale).max(initial=0), np.abs(b).max())


def agrees(found, wanted, case, field):
    """Whether a figure is the published one, to the digits that were published: as far as others reproduced it."""
    spread = 2 * case["max_rel_diff"].get(field, 0) + 1e-9
    np.testing.assert_allclose(found, wanted, rtol=spread, atol=1e-13)


@pytest.mark.parametrize("name", PUBLISHED or ["none"])
def test_published_figures(name):
    case = PUBLISHED[name]
    problem = published(case)
    model, data, expected = problem.model, problem.data, case["expected"]
    fit = gj.check(gj.fit_newton(model, data))
    order = problem.raw["order"]
    coef = np.asarray(expected["coef"])
    if model.family.estimates_alpha:
        assert fit.model.family.alpha == pytest.approx(coef[-1], rel=1e-8)
        coef = coef[:-1]
    if name == "dobson_poisson_log":  # two coefficients are 0, and were published as 1e-16 and the like
        np.testing.assert_allclose(flat(fit.params), coef[order], rtol=1e-6, atol=1e-12)
    else:
        agrees(flat(fit.params), coef[order], case, "coef")
    if "deviance" in expected:
        agrees(gj.deviance(fit.model, fit.params, data), expected["deviance"], case, "deviance")
    if expected.get("null_deviance"):
        agrees(gj.null_deviance(fit.model, data), expected["null_deviance"], case, "null_deviance")
    if "loglik" in expected:
        agrees(gj.log_likelihood(fit.model, fit.params, data), expected["loglik"], case, "loglik")


PLAIN = [  # robust errors and alpha's own are in test_inference
    name
    for name, case in PUBLISHED.items()
    if "bse" in case["expected"] and not name.endswith(("hc1", "cluster")) and "NB1" not in case["family"]
]


@pytest.mark.parametrize("name", PLAIN or ["none"])
def test_published_standard_errors(name):
    """R's and Stata's, by the inverse of the expected information and the published dispersion, or Pearson's."""
    case = PUBLISHED[name]
    problem = published(case)
    fit = gj.fit_newton(problem.model, problem.data)
    model, data, order = fit.model, problem.data, problem.raw["order"]
    scale = case["expected"].get("scale") or 1
    if model.family.dispersion is not None and "scale" not in case["expected"]:
        mean = gj.predict(model, fit.params, data.x, data.offset)
        count = 1 if data.weight is None else data.weight
        part = (data.y - mean) ** 2 / jax.vmap(model.family.variance)(mean) * count
        part = part if data.precision is None else part * data.precision
        scale = part.sum() / (np.sum(np.ones(len(mean)) * count) - len(order))
    inverse = np.linalg.inv(np.asarray(gj.fisher_information(model, fit.params, data)))
    found, wanted = np.sqrt(scale * np.diag(inverse)), np.asarray(case["expected"]["bse"])[order]
    if name.startswith("longley"):  # the condition of x'x is 2e19 in these units: its inverse holds no more digits
        np.testing.assert_allclose(found, wanted, rtol=1e-8)
    else:
        agrees(found, wanted, case, "bse")


BARS = {"Norris": 12, "NoInt1": 12, "NoInt2": 12, "Pontius": 11, "Longley": 10.5, "Filip": 7, "Wampler1": 9, "Wampler2": 10, "Wampler3": 9, "Wampler4": 7.5, "Wampler5": 5.5}  # fmt: skip
NOISE = [759, -2048, 2048, -2048, 2523, -2048, 2048, -2048, 1838, -2048, 2048]
NOISE = np.array(NOISE + NOISE[-2::-1], float)


def wampler(number):
    """The problem's x and y, which have formulas, and the certified coefficients."""
    x = np.arange(21.0)
    base = 0.1 if number == 2 else 1.0
    coef = base ** np.arange(6)
    size = {1: 0, 2: 0, 3: 1, 4: 100, 5: 10_000}[number]
    powers = x[:, None] ** np.arange(6)
    return powers[:, 1:], (powers @ coef if number == 2 else powers.sum(axis=1)) + size * NOISE, coef


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_wamplers_polynomials(number):
    x, y, coef = wampler(number)
    if number == 4:
        np.testing.assert_array_equal(y, NIST["Wampler4"]["y"])
    fit = gj.check(gj.fit_newton(gj.glm(gj.normal()), gj.make_data(x, y)))
    assert digits(flat(fit.params), coef) >= BARS[f"Wampler{number}"]


def test_noint2():
    fit = gj.fit_newton(gj.glm(gj.normal(), bias=False), gj.make_data(np.array([[4.0], [5.0], [6.0]]), [3.0, 4.0, 4.0]))
    assert digits(fit.params.w, [0.727272727272727]) >= BARS["NoInt2"]


@pytest.mark.parametrize("name", NIST or ["none"])
def test_nist(name):
    problem = nist(NIST[name])
    fit = gj.fit_newton(problem.model, problem.data)
    assert fit.status == gj.Status.CONVERGED
    right = digits(flat(fit.params), problem.raw["coef"])
    print(f"{name}: {right:.1f} digits, bar {BARS[name]}")  # shown by -n0 -s
    assert right >= BARS[name]
    flagged = float(fit.rcond) < float(jnp.finfo(fit.rcond.dtype).eps) ** 0.5
    assert flagged == (name == "Filip")  # no other is ill-conditioned once centered and scaled


@pytest.mark.parametrize("name", NASTY or ["none"])
def test_nasty_cases(name):
    problem = nasty(NASTY[name])
    case, model, data = problem.raw, problem.model, problem.data
    fit = gj.fit_newton(model, data, l2=case["l2"])
    if case["status"] == "diverges":
        assert fit.status == gj.Status.SEPARATED
        assert np.all(flat(fit.infinite)[np.asarray(case["infinite_direction"]) != 0])
        np.testing.assert_array_equal(flat(fit.infinite), flat(gj.check_separation(model, data).infinite))
        assert gj.deviance(model, fit.params, data) < 1e-8
        return
    assert fit.status == gj.Status.CONVERGED
    if "collinear" in name:
        assert digits(flat(fit.params), case["coef"]) >= 5
        with pytest.warns(UserWarning, match="ill-conditioned"):
            gj.check(fit)
    else:
        assert digits(flat(fit.params), case["coef"]) >= 11
    if "deviance" in case:
        # Collinear: a linear predictor is the difference of two numbers 1e8 times its size, and rounds like them.
        bar = 9 if "collinear" in name else 10
        assert digits(gj.deviance(model, fit.params, data), case["deviance"]) >= bar
    assert slope(model, fit.params, data, case["l2"]) < 1e-8 * max(1, float(abs(fit.loss)))


@pytest.mark.parametrize("name", NASTY or ["none"])
def test_nasty_cases_in_float32(name):
    """Five digits of the linear predictor where the standardized condition is below 100, else a flag; never NaN."""
    problem = nasty(NASTY[name])
    case, model, exact = problem.raw, problem.model, problem.data
    data = jax.tree.map(lambda part: part.astype(jnp.float32), exact)
    fit = gj.fit_newton(model, data, l2=case["l2"])
    assert fit.params.w.dtype == jnp.float32
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(fit.params))
    if case["status"] == "diverges":
        assert fit.status == gj.Status.SEPARATED
    elif fit.rcond > 0.01 and fit.status == gj.Status.CONVERGED:
        double = gj.fit_newton(model, jax.tree.map(lambda part: part.astype(float), data), l2=case["l2"])
        eta, truth = (
            np.asarray(gj.linear_predictor(model, f.params, d.x, d.offset), float)
            for f, d in ((fit, data), (double, jax.tree.map(lambda part: part.astype(float), data)))
        )
        size = np.abs(truth).max() if exact.offset is None else max(np.abs(truth).max(), np.abs(exact.offset).max())
        assert np.abs(eta - truth).max() <= 1e-5 * size
    else:
        with pytest.warns(UserWarning, match=r"ill-conditioned|RANK_DEFICIENT"):
            gj.check(fit)
