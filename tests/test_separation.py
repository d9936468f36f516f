"""`check_separation` against stored sets with the truth per row, cases worked by hand, and two slower oracles."""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import DATA, needs_data
from scipy.optimize import linprog

import glmjax as gj
from glmjax.distributions import Distribution, Family
from glmjax.separation import _free_sides, check_separation

BERNOULLI, POISSON = gj.bernoulli(), gj.poisson()
SETS = ["01", "03", "05", "07", "09", "11", "13", "15", "17"]


def check(family, x, y, *, bias=True, l2=0.0, **parts):
    """`check_separation`, and its certificate held against the definition."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    model, data = gj.glm(family, bias), gj.Data(x, y, **parts)
    found = check_separation(model, data, l2=l2)
    shapes = [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(lambda: gj.init(model, None, x.shape[1])))]
    assert [leaf.shape for leaf in jax.tree.leaves(found.infinite)] == shapes
    assert [leaf.shape for leaf in jax.tree.leaves(found.direction)] == shapes
    assert all(leaf.dtype == bool for leaf in jax.tree.leaves(found.infinite))
    largest = max(np.abs(leaf).max(initial=0) for leaf in jax.tree.leaves(found.direction))
    assert largest == pytest.approx(float(found.separated))
    assert any(flag.any() for flag in jax.tree.leaves(found.infinite)) == found.separated
    for flag, part in zip(jax.tree.leaves(found.infinite), jax.tree.leaves(found.direction), strict=True):
        assert not part[~flag].any()
    assert ("not separated" in found.sentence) != found.separated
    if found.separated:
        certify(model, data, found)
    return found


@jax.jit
def _losses(family, eta, y):
    return jax.vmap(family.nll)(eta, y)


def losses(family, eta, y):
    """The loss of each row; rows are padded, so that few shapes are compiled."""
    n = len(y)
    eta, y = (np.concatenate([part, np.repeat(part[:1], -n % 64, axis=0)]) for part in (eta, y))
    return np.asarray(_losses(family, eta, y))[:n]


def certify(model, data, found):
    """No row's loss rises along the direction, that of the separated rows falls, and of some row it does."""
    counted = np.ones(len(data.x), bool) if data.weight is None else np.asarray(data.weight) > 0
    eta = np.asarray(model.predictor.apply(found.direction, data.x[counted]))
    scale = np.abs(data.x[counted] @ np.abs(found.direction.w)) + (0 if found.direction.b is None else 1)
    eta = np.where(np.abs(eta) < 1e-9 * scale.max(), 0, eta)
    eta = 30 * eta / np.abs(eta).max()
    before, half, after = (losses(model.family, t * eta, data.y[counted]) for t in (0, 0.5, 1))
    assert np.all(after <= half + 1e-9)
    assert np.all(half <= before + 1e-9)
    rows = found.rows[counted]
    moved = (np.abs(eta).reshape(len(rows), -1).max(axis=1) > 0) & (before != after)  # a flat row is no row
    assert np.all(moved[rows])
    assert moved.any()
    if model.family.n_outputs is None:
        np.testing.assert_array_equal(rows, moved)  # the certificate is strict in all that can be


def stored(name):
    """Columns of x, counts, and which rows are separated."""
    path = Path(DATA) / "separation" / f"{name}.csv"
    names = path.read_text().splitlines()[0].split(",")
    columns = dict(zip(names, np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2).T, strict=True))
    x = [columns[key] for key in names if key.startswith("x")]
    for key in names:
        if key.startswith("id"):  # fixed effects, one column a level: aliased with the bias, and with one another
            x += [(columns[key] == level).astype(float) for level in np.unique(columns[key])]
    return np.stack(x, axis=1), columns["y"], columns["separated"] == 1


@needs_data
@pytest.mark.parametrize("name", SETS)
def test_stored_sets_have_every_row_right(name):
    x, y, separated = stored(name)
    found = check(POISSON, x, y)
    np.testing.assert_array_equal(found.rows, separated)
    assert found.separated == separated.any()


@needs_data
@pytest.mark.parametrize("name", SETS)
def test_solvers_say_so_of_stored_sets(name):
    """Never CONVERGED; which coefficients go to infinity as the exact check has it, and the limiting deviance."""
    x, y, separated = stored(name)
    model, data = gj.glm(POISSON), gj.make_data(x, y)
    fit = gj.fit_newton(model, data)
    usable = gj.Status.CONVERGED, gj.Status.RANK_DEFICIENT
    assert fit.status == gj.Status.SEPARATED if separated.any() else fit.status in usable
    exact = check_separation(model, data).infinite
    for found, wanted in zip(jax.tree.leaves(fit.infinite), jax.tree.leaves(exact), strict=True):
        np.testing.assert_array_equal(found, wanted)
    rest = gj.fit_newton(model, data._replace(weight=jnp.asarray(~separated, float)))  # separated rows leave no loss
    deviances = (
        gj.deviance(model, f.params, d) for f, d in ((fit, data), (rest, gj.make_data(x, y, weight=~separated)))
    )
    assert abs(np.subtract(*map(float, deviances))) < 1e-6
    for solver in (gj.fit_lbfgs, partial(gj.fit_elastic_net, l1=0.0)) if name == SETS[0] else ():
        assert solver(model, data).status == gj.Status.SEPARATED


@pytest.mark.parametrize("solver", [gj.fit_newton, gj.fit_lbfgs, partial(gj.fit_elastic_net, l1=0.0)])
@pytest.mark.parametrize(("family", "share"), [(BERNOULLI, 0.5), (POISSON, 0.3)], ids=["bernoulli", "poisson"])
def test_solvers_and_the_exact_check_agree(family, share, solver):
    """On small random problems as one batch, some of them separated."""
    rng = np.random.default_rng(5)
    xs = rng.integers(-1, 2, (60, 12, 3)).astype(float)
    ys = (rng.random((60, 12)) < share).astype(float)
    model, data = gj.glm(family), gj.make_data(xs[0], ys[0])
    fits = jax.jit(jax.vmap(lambda x, y: solver(model, data._replace(x=x, y=y))))(xs, ys)
    exact = [check_separation(model, gj.make_data(x, y)).separated for x, y in zip(xs, ys, strict=True)]
    assert 10 < sum(exact) < 50
    np.testing.assert_array_equal(fits.status == gj.Status.SEPARATED, exact)


def test_complete_separation():
    found = check(BERNOULLI, [[-2], [-1], [1], [2]], [0, 0, 1, 1])
    assert found.separated
    assert found.rows.all()
    assert found.infinite.w.all()
    assert found.infinite.b
    assert found.direction.w[0] > 0
    assert "4 of 4 rows are separated (row 0, row 1, row 2, row 3)" in found.sentence
    assert "w[0], b" in found.sentence


def test_quasi_complete_separation_leaves_the_other_coefficients_finite():
    x = np.array([[0, -1.0], [0, 2], [0, 0.5], [0, -3], [0, 1], [1, 0.3], [1, -0.2], [1, 4]])
    found = check(BERNOULLI, x, [1, 0, 1, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(found.rows, x[:, 0] == 1)
    np.testing.assert_array_equal(found.infinite.w, [True, False])
    assert not found.infinite.b
    np.testing.assert_allclose(found.direction.w, [1, 0], atol=1e-12)


def test_points_on_the_boundary_pin_the_bias():
    """At x = 0 both classes are seen: the threshold is known, and only the slope diverges."""
    found = check(BERNOULLI, [[-1], [0], [0], [1]], [0, 0, 1, 1])
    np.testing.assert_array_equal(found.rows, [True, False, False, True])
    assert found.infinite.w.all()
    assert not found.infinite.b


@pytest.mark.parametrize(("size", "shift"), [(1e-4, 0), (1e-6, 0), (1e-7, 0), (1e-4, 1e3), (1e-4, 1e-3)])
def test_an_overlap_is_no_separation_and_a_gap_is(size, shift):
    line = np.linspace(0.01, 1, 40)
    x = (np.r_[-line, line, -size / 2, size / 2] + shift)[:, None]
    classes = np.r_[np.zeros(40), np.ones(40)]
    assert not check(BERNOULLI, x, np.r_[classes, 1, 0]).separated
    assert check(BERNOULLI, x, np.r_[classes, 0, 1]).rows.all()


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("l2", [0.0, 1.0])
def test_one_class(label, l2):
    found = check(BERNOULLI, np.random.default_rng(0).normal(size=(9, 2)), np.full(9, label), l2=l2)
    assert found.rows.all()
    assert found.infinite.b
    assert found.infinite.w.all() == (l2 == 0)  # without a penalty any slope will do, so none is determined
    assert not found.direction.w.any()
    assert found.direction.b == 2 * label - 1
    sign = "+" if label else "-"
    assert found.sentence == f"y has one class ({label}): the bias goes to {sign}infinity; add the other class"


def test_all_counts_zero():
    found = check(POISSON, [[1.0], [3], [2]], [0, 0, 0])
    assert found.rows.all()
    assert found.direction.b == -1
    assert found.sentence == "all counts are 0: the rate's estimate is 0, the bias goes to -infinity"


@pytest.mark.parametrize("reference", [None, 0, 2])
def test_one_class_of_three(reference):
    found = check(gj.categorical(3, reference), np.arange(6.0)[:, None], np.full(6, 1))
    assert found.rows.all()
    assert found.sentence == "y has one class (1): the biases go to infinity; add the other classes"


@pytest.mark.parametrize("reference", [None, 0, 2, 1])
def test_absent_class(reference):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 2)), rng.integers(0, 2, 40) * 2
    assert check(gj.categorical(3, reference), x, rng.integers(0, 3, 40)).separated is False
    found = check(gj.categorical(3, reference), x, y)
    assert found.separated
    assert not found.rows.any()  # each keeps a loss: the two classes that are there overlap
    assert "no rows of class 1" in found.sentence
    b = found.direction.b
    if reference is None:
        assert abs(b.sum()) < 1e-12
        assert b[1] < 0
        assert found.infinite.b.all()
    elif reference == 1:
        assert np.all(b > 0)
        np.testing.assert_allclose(b[0], b[1])
    else:
        column = {0: 0, 2: 1}[reference]
        assert b[column] < 0
        np.testing.assert_array_equal(found.infinite.b, np.arange(2) == column)
        np.testing.assert_array_equal(found.infinite.w, [np.arange(2) == column] * 2)


@pytest.mark.parametrize("reference", [None, 0, 1, 2])
def test_categorical_rows_are_separated_by_a_margin_over_every_class(reference):
    """Group 1 holds class 2 only; in group 0 all three classes are seen."""
    x = np.array([[0.0]] * 6 + [[1]] * 3)
    found = check(gj.categorical(3, reference), x, [0, 1, 2, 0, 1, 2, 2, 2, 2])
    np.testing.assert_array_equal(found.rows, x[:, 0] == 1)
    assert not found.infinite.b.any()
    assert found.infinite.w.all()  # in the group class 2 runs off from both others, which are then free of each other


def test_two_logits_answer_like_one():
    rng = np.random.default_rng(5)
    for _ in range(20):
        x, y = rng.integers(-2, 3, (10, 2)).astype(float), rng.integers(0, 2, 10).astype(float)
        one = check(BERNOULLI, x, y)
        for reference in (None, 0, 1):
            two = check(gj.categorical(2, reference), x, y)
            np.testing.assert_array_equal(two.rows, one.rows)
            np.testing.assert_array_equal(
                two.infinite.w, np.tile(one.infinite.w[:, None], (1, two.infinite.w.shape[1]))
            )


def test_poisson_group_without_counts():
    x = np.array([[1.0, 0, 0.2], [1, 0, -1], [0, 1, 3], [0, 1, 1], [0, 0, 1], [0, 0, 2]])
    found = check(POISSON, x, [0, 0, 1, 4, 0, 2])
    np.testing.assert_array_equal(found.rows, x[:, 0] == 1)
    np.testing.assert_array_equal(found.infinite.w, [True, False, False])
    assert not found.infinite.b
    assert found.direction.w[0] == pytest.approx(-1)
    assert "2 of 6 rows are separated (row 0, row 1), and there is no finite estimate of w[0]: " in found.sentence


def test_a_fraction_holds_its_row_still():
    x, y = np.array([[-2.0], [-1], [1], [2]]), [0, 0, 1, 1]
    one = check(BERNOULLI, np.r_[x, [[0.5]]], [*y, 0.3])
    np.testing.assert_array_equal(one.rows, [True] * 4 + [False])
    assert not check(BERNOULLI, np.r_[x, [[0.5], [3]]], [*y, 0.3, 0.9]).separated
    assert not check(BERNOULLI, [[0.0], [1], [2]], [1, 1, 0.5], bias=False).separated


def test_normal_is_never_separated():
    rng = np.random.default_rng(0)
    assert not check(gj.normal(), rng.normal(size=(5, 2)), 1e7 * rng.normal(size=5)).separated
    assert not check(gj.normal(3), rng.normal(size=(5, 2)), 1e7 * rng.normal(size=(5, 3))).separated
    assert not check(gj.normal(), np.zeros((5, 0)), np.zeros(5)).separated


def test_aliased_columns_are_left_out():
    x = np.array([[-2, 1.0], [-1, 0], [1, 0], [2, 1], [3, -1]])
    y = [0, 0, 1, 1, 1]
    plain = check(BERNOULLI, x, y)
    wide = check(BERNOULLI, np.c_[np.full(5, 7e5), x[:, :1], x[:, 0] * 3 - 2, x[:, 1:], x.sum(axis=1) / 3], y)
    np.testing.assert_array_equal(wide.rows, plain.rows)
    np.testing.assert_array_equal(wide.infinite.w, [False, *plain.infinite.w[:1], False, *plain.infinite.w[1:], False])
    # The same without a bias: the first column takes its place.
    bare = check(BERNOULLI, np.c_[np.full(5, 7e5), np.ones(5), x], y, bias=False)
    np.testing.assert_array_equal(bare.infinite.w, [True, False, *plain.infinite.w])
    assert bare.infinite.b is None
    # As many columns as rows: all classes can be told apart.
    assert check(BERNOULLI, np.random.default_rng(0).normal(size=(6, 9)), [0, 1, 1, 0, 1, 0]).rows.all()
    # Equal columns move nothing: that is aliasing, not separation.
    assert not check(BERNOULLI, np.ones((4, 2)), [0, 1, 1, 0]).separated


def test_rows_of_weight_zero_do_not_exist():
    x = np.array([[-2.0], [-1], [1], [2], [np.nan], [-5]])
    y = np.array([0, 0, 1, 1, np.nan, 1])
    found = check(BERNOULLI, x, y, weight=np.array([1, 2, 0.5, 1, 0, 0]))
    np.testing.assert_array_equal(found.rows, [True] * 4 + [False] * 2)
    assert not check(BERNOULLI, x[:, :], np.nan_to_num(y), weight=np.array([1, 1, 1, 1, 0, 1.0])).separated


def test_offsets_do_not_matter():
    x, y = np.array([[-2.0], [-1], [1], [2]]), [0, 0, 1, 1]
    assert check(BERNOULLI, x, y, offset=np.array([40.0, 0, -40, 3])).rows.all()


@pytest.mark.parametrize("shift", [0, 1e3])
def test_column_scales(shift):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(60, 5)) + shift
    x[:, 2] = np.arange(60) < 7
    y = np.where(x[:, 2] == 1, 1, rng.integers(0, 2, 60))
    scale = 10.0 ** np.array([6, -6, 3, -3, 5])
    for family in (BERNOULLI, gj.categorical(2), gj.categorical(2, 0)):
        found = check(family, x * scale, y)
        np.testing.assert_array_equal(found.rows, x[:, 2] == 1)
        np.testing.assert_array_equal(found.infinite.w.reshape(5, -1)[:, 0], np.arange(5) == 2)
        assert not np.any(found.infinite.b)


def test_near_collinear_columns():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(60, 3))
    x[:, 2] = x[:, 0] + 1e-6 * rng.normal(size=60)
    group = (np.arange(60) < 7).astype(float)
    y = np.where(group == 1, 1, rng.integers(0, 2, 60))
    found = check(BERNOULLI, np.c_[x, group + x[:, 0]], y)
    np.testing.assert_array_equal(found.rows, group == 1)
    np.testing.assert_array_equal(found.infinite.w, [True, False, False, True])


def test_a_penalty_holds_its_weights():
    x, y = np.array([[-2.0, 1], [-1, -1], [1, 1], [2, -1]]), [0, 0, 1, 1]
    assert not check(BERNOULLI, x, y, l2=0.1).separated
    assert not check(BERNOULLI, x, y, l2=np.array([0.1, 0.0])).separated
    found = check(BERNOULLI, x, y, l2=np.array([0.0, 0.1]))
    np.testing.assert_array_equal(found.infinite.w, [True, False])
    # A penalized copy in front does not hide the free one behind it.
    found = check(BERNOULLI, x[:, [0, 0]], y, l2=np.array([0.1, 0.0]))
    np.testing.assert_array_equal(found.infinite.w, [False, True])
    labels = [0, 0, 2, 2]
    for reference in (None, 0, 1):
        found = check(gj.categorical(3, reference), x, labels, l2=1.0)  # class 1 is absent: its bias is free
        assert found.separated
        assert not found.infinite.w.any()
    # A penalty by class: class 1's weights may run off, class 0's not.
    free = np.array([[1.0, 0.0]])
    found = check(gj.categorical(3, 2), x[:, :1], [1, 0, 1, 2], l2=free)
    assert not found.separated
    found = check(gj.categorical(3, 2), x[:, :1], [0, 2, 1, 1], l2=free)
    np.testing.assert_array_equal(found.infinite.w, [[False, True]])


# Losses of other families, as they are known: which sides are free is read off the loss alone.
def _gamma_log(family, eta, y):
    return y * jnp.exp(-eta) + eta


def _gamma_inverse(family, eta, y):
    return y * eta - jnp.log(eta)


def _inverse_gaussian_log(family, eta, y):
    return 0.5 * y * jnp.exp(-2 * eta) - jnp.exp(-eta)


def _poisson_identity(family, eta, y):
    return jnp.where(eta > 0, eta - jax.scipy.special.xlogy(y, eta), jnp.inf)  # a mean below 0 has no loss


def _poisson_sqrt(family, eta, y):
    return eta**2 - 2 * jax.scipy.special.xlogy(y, jnp.abs(eta))


def _negative_binomial(family, eta, y):
    return (y + 2.0) * jax.nn.softplus(eta - jnp.log(2.0)) - y * eta


def _probit(family, eta, y):
    return -(y * jax.scipy.special.log_ndtr(eta) + (1 - y) * jax.scipy.special.log_ndtr(-eta))


def _cloglog(family, eta, y):
    mean = jnp.exp(eta)
    return (1 - y) * mean - jnp.where(y > 0, y * jnp.log(-jnp.expm1(-mean)), 0)


def _binomial(family, eta, y):
    return -(y[0] * jax.nn.log_sigmoid(eta) + y[1] * jax.nn.log_sigmoid(-eta))


def _family(nll, shape=()):
    return Family(nll.__name__, "identity", Distribution(nll=nll), target_shape=shape)


NONE, UP, DOWN, BOTH = (False, False), (True, False), (False, True), (True, True)
SIDES = [
    (BERNOULLI, [0.0, 1.0, 0.5, 1e-9], [DOWN, UP, NONE, NONE]),
    (POISSON, [0.0, 1.0, 1e12, 1e-9], [DOWN, NONE, NONE, NONE]),
    (gj.normal(), [0.0, 1e9, -1e12], [NONE, NONE, NONE]),
    (_family(_gamma_log), [1.0, 1e-9, 1e9], [NONE] * 3),
    (_family(_gamma_inverse), [1.0, 1e-9, 1e9], [NONE] * 3),
    (_family(_inverse_gaussian_log), [1.0, 1e-9, 1e9], [NONE] * 3),
    (_family(_poisson_identity), [0.0, 1.0, 1e9], [NONE] * 3),
    (_family(_poisson_sqrt), [0.0, 1.0, 1e9], [NONE] * 3),
    (_family(_negative_binomial), [0.0, 1.0, 1e9], [DOWN, NONE, NONE]),
    (_family(_probit), [0.0, 1.0, 0.5], [DOWN, UP, NONE]),
    (_family(_cloglog), [0.0, 1.0, 0.5], [DOWN, UP, NONE]),
    (_family(_binomial, (2,)), [[0.0, 3], [2, 0], [2, 3], [0, 0]], [DOWN, UP, NONE, BOTH]),
]


@pytest.mark.parametrize(("family", "y", "expected"), SIDES, ids=[family.name for family, _, _ in SIDES])
def test_which_sides_are_free(family, y, expected):
    up, down = _free_sides(gj.glm(family), np.array(y))
    assert [(bool(u), bool(d)) for u, d in zip(up[:, 0], down[:, 0], strict=True)] == expected


def test_binomial_counts_and_rows_without_trials():
    x, y = np.array([[-1.0], [0], [1], [2], [-9]]), np.array([[0.0, 2], [1, 1], [3, 0], [1, 0], [0, 0]])
    found = check(_family(_binomial, (2,)), x, y)
    np.testing.assert_array_equal(found.rows, [True, False, True, True, False])
    assert not found.infinite.b
    y[:, 0] = 0
    assert "y has one class (0): the bias goes to -infinity" in check(_family(_binomial, (2,)), x, y).sentence


def signs(y):
    """Which way a Poisson row (0: down, else still) or a Bernoulli row may go: -1, 1, or 0."""
    return np.where(y == 0, -1.0, np.where(y == 1, 1.0, 0.0))


@pytest.mark.parametrize("seed", range(40))
def test_against_every_direction_of_a_circle(seed):
    """Two parameters: the cone's rays lie on the rows' normals, so those and the angles between them are enough."""
    rng = np.random.default_rng(seed)
    bias = bool(seed % 2)
    n = int(rng.integers(3, 9))
    design = rng.integers(-3, 4, (n, 2)).astype(float)
    design[:, 0] = 1 if bias else design[:, 0]
    if np.linalg.matrix_rank(design) < 2:
        design[:2] = [[1, 0], [1, 1]]
    y = rng.choice([0.0, 1.0, 0.5], size=n, p=[0.45, 0.45, 0.1])
    sign = signs(y)
    normals = np.concatenate([design[:, ::-1] * [1, -1], -design[:, ::-1] * [1, -1]])  # exactly 0 on their own rows
    normals = normals[np.any(normals != 0, axis=1)]
    angles = np.linspace(0, 2 * np.pi, 3600, endpoint=False)
    circle = np.concatenate([normals, np.stack([np.cos(angles), np.sin(angles)], axis=1)])
    move = circle @ design.T
    inside = np.all(np.where(sign == 0, move == 0, sign * move >= 0), axis=1)
    rows = np.any(inside[:, None] & (move != 0), axis=0)
    infinite = np.any(inside[:, None] & (np.abs(circle) > 1e-9), axis=0)
    found = check(BERNOULLI, design[:, 1:] if bias else design, y, bias=bias)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_array_equal(np.r_[found.infinite.b, found.infinite.w] if bias else found.infinite.w, infinite)


def oracle(rows, equalities):
    """Row by row, and coefficient by coefficient: can it be positive on the cone? One program each."""
    p = rows.shape[1]

    def can(target):
        result = linprog(
            -target,
            A_ub=np.concatenate([-rows, target[None]]),
            b_ub=np.r_[np.zeros(len(rows)), 1],
            A_eq=equalities if len(equalities) else None,
            b_eq=np.zeros(len(equalities)) if len(equalities) else None,
            bounds=[(None, None)] * p,
        )
        return -result.fun > 0.5

    return np.array([can(row) for row in rows]), np.array([can(e) or can(-e) for e in np.eye(p)])


@pytest.mark.parametrize("family", [BERNOULLI, POISSON], ids=["bernoulli", "poisson"])
def test_against_a_program_for_each_row(family):
    rng = np.random.default_rng(11)
    seen = set()
    for _ in range(25):
        n, d = 14, 4
        x = rng.integers(-1, 2, (n, d)).astype(float)
        y = rng.poisson(0.4, n) if family is POISSON else rng.choice([0, 1, 0.5], n, p=[0.6, 0.3, 0.1])
        design = np.c_[x, np.ones(n)]
        if np.linalg.matrix_rank(design) <= d:
            continue
        sign = np.where(y == 0, -1.0, 0) if family is POISSON else signs(y)
        strict, infinite = oracle((design * sign[:, None])[sign != 0], design[sign == 0])
        rows = np.zeros(n, bool)
        rows[sign != 0] = strict
        found = check(family, x, y)
        np.testing.assert_array_equal(found.rows, rows)
        np.testing.assert_array_equal(np.r_[found.infinite.w, found.infinite.b], infinite)
        seen.add((rows.any(), rows.all()))
    assert len(seen) >= 2


@pytest.mark.parametrize("reference", [0, 2])
def test_categorical_against_a_program_for_each_margin(reference):
    rng = np.random.default_rng(4)
    seen = set()
    for _ in range(15):
        n = int(rng.integers(6, 14))
        x, y = rng.integers(-1, 2, (n, 1)).astype(float), rng.integers(0, 3, n)
        design = np.c_[x, np.ones(n)]
        if np.linalg.matrix_rank(design) < 2:
            continue
        logit = np.delete(np.eye(3), reference, axis=1)
        pairs = [(i, k) for i in range(n) for k in range(3) if k != y[i]]
        margins = np.array([np.kron(design[i], logit[y[i]] - logit[k]) for i, k in pairs])
        strict, infinite = oracle(margins, np.zeros((0, 4)))
        found = check(gj.categorical(3, reference), x, y)
        np.testing.assert_array_equal(found.rows, strict.reshape(n, 2).all(axis=1))
        np.testing.assert_array_equal(np.r_[found.infinite.w.ravel(), found.infinite.b], infinite)
        assert found.separated == strict.any()
        seen.add(found.separated)
    assert seen == {True, False}


@pytest.mark.parametrize(
    "family", [BERNOULLI, gj.categorical(3, 0), POISSON], ids=["bernoulli", "categorical", "poisson"]
)
def test_many_rows_are_decided_in_stages(family):
    """Some rows first, then more: groups of 5 separated rows among 4,000 are still found."""
    rng = np.random.default_rng(8)
    x = rng.normal(size=(4000, 4))
    x[:, 3] = 0
    x[100:105, 3] = [1, 2, 1, 3, 1]
    y = rng.poisson(1.0, 4000) if family is POISSON else rng.integers(0, family.n_classes or 2, 4000)
    assert not check(family, x[:, :3], y).separated
    y[100:105] = 0
    found = check(family, x, y)
    np.testing.assert_array_equal(found.rows, x[:, 3] > 0)
    np.testing.assert_array_equal(found.infinite.w.reshape(4, -1)[:, 0], [False, False, False, True])


def test_float32_data_and_jax_arrays():
    x, y = jnp.array([[-2], [-1], [1], [2]], jnp.float32), jnp.array([0, 0, 1, 1], jnp.float32)
    found = check_separation(gj.glm(BERNOULLI), gj.Data(x, y))
    assert found.rows.all()
    with jax.enable_x64(False):
        np.testing.assert_array_equal(check_separation(gj.glm(BERNOULLI), gj.Data(x, y)).rows, found.rows)
        assert jnp.zeros(()).dtype == jnp.float32


def test_what_is_refused(monkeypatch):
    data = gj.make_data(np.eye(3), np.array([0.0, 1, 1]))
    with pytest.raises(ValueError, match="linear models only"):
        check_separation(gj.mlp(BERNOULLI), data)
    with pytest.raises(TypeError, match="host-side, not for jit"):
        jax.jit(lambda data: check_separation(gj.glm(BERNOULLI), data).rows)(data)
    with pytest.raises(ValueError, match="l2 must be 0 or more"):
        check_separation(gj.glm(BERNOULLI), data, l2=-1)
    with pytest.raises(ValueError, match=r"x .* contains NaN at row 1"):
        check_separation(gj.glm(BERNOULLI), data._replace(x=data.x.at[1, 2].set(jnp.nan)))
    with pytest.raises(ValueError, match="outside the bernoulli family's support"):
        check_separation(gj.glm(BERNOULLI), data._replace(y=data.y + 1))
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r"pip install 'glmjax\[separation\]'"):
        check_separation(gj.glm(BERNOULLI), data)
