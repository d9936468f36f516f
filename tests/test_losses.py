"""The objective and the deviance: the formula, the row pass behind them, and every transformation."""

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from problems import CASES, problem

import glmjax as gj
from glmjax.losses import chunk_sums
from glmjax.rows import row_sums


def layers(params):
    return [params] if isinstance(params, gj.Dense) else params


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_objective_is_its_formula(name, kind):
    model, params, data = problem(name, kind, full=True)
    eta = gj.linear_predictor(model, params, data.x, data.offset)
    nll = np.array([model.family.nll(eta[i], data.y[i]) for i in range(len(data.y))])
    unit = np.array([model.family.deviance(eta[i], data.y[i]) for i in range(len(data.y))])
    weight = np.asarray(data.weight * data.precision)
    squares = sum(np.sum(np.asarray(layer.w) ** 2) for layer in layers(params))
    want = np.sum(weight * nll) / np.sum(weight) + 0.5 * 0.3 * squares
    np.testing.assert_allclose(gj.loss(model, params, data, l2=0.3), want, rtol=1e-13)
    np.testing.assert_allclose(gj.deviance(model, params, data), np.sum(weight * unit), rtol=1e-13)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_jit_vmap_grad_and_jvp(name, kind):
    model, params, data = problem(name, kind, full=True)
    l2s = jnp.array([0.0, 0.1, 2.0])

    def f(params, l2):
        return gj.loss(model, params, data, l2)

    batch = jax.jit(jax.vmap(f, in_axes=(None, 0)))(params, l2s)
    np.testing.assert_allclose(batch, [f(params, float(l2)) for l2 in l2s], rtol=1e-14)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    h = 1e-6
    g = jax.jit(lambda p: f(unravel(p), 0.1))
    central = [(g(flat.at[i].add(h)) - g(flat.at[i].add(-h))) / (2 * h) for i in range(len(flat))]
    backward = jax.flatten_util.ravel_pytree(jax.grad(f)(params, 0.1))[0]
    np.testing.assert_allclose(backward, central, rtol=1e-7, atol=1e-9)
    direction = jax.tree.map(jnp.ones_like, params)
    _, forward = jax.jvp(lambda p: f(p, 0.1), (params,), (direction,))
    np.testing.assert_allclose(forward, backward.sum(), rtol=1e-11)


def test_new_values_and_equal_models_trace_once():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(1)
    def f(model, params, data, l2):
        return gj.loss(model, params, data, l2)

    for seed, l2 in enumerate((0.0, 0.5, 1.5)):
        model = gj.glm(gj.normal(dispersion=float(seed + 1)))
        _, params, data = problem("normal", seed=seed)
        f(model, params, data, l2)


@pytest.mark.parametrize("chunk", [5, 8])
@pytest.mark.parametrize(("name", "kind"), [("categorical", "mlp"), ("poisson", "glm")])
def test_sums_do_not_depend_on_the_chunks(name, kind, chunk):
    model, params, data = problem(name, kind, full=True)
    whole = chunk_sums(model, params, data)

    def parts(params):
        return row_sums(lambda rows: chunk_sums(model, params, rows), data, chunk)

    chex.assert_trees_all_close(jax.jit(parts)(params), whole, rtol=1e-13)
    chex.assert_trees_all_close(
        jax.grad(lambda p: parts(p).nll)(params), jax.grad(lambda p: chunk_sums(model, p, data).nll)(params),
        rtol=1e-11, atol=1e-13,
    )  # fmt: skip


def test_rows_are_read_once_a_pass():
    """Every row of x goes through `sums` exactly once, whatever the chunk."""
    _, _, data = problem("normal")
    for chunk in (5, 8, 24):
        counted = row_sums(lambda rows: (jnp.sum(rows.x, axis=0), jnp.ones(rows.x.shape[0]).sum()), data, chunk)
        np.testing.assert_allclose(counted[0], np.asarray(data.x).sum(axis=0), rtol=1e-12)
        assert counted[1] == len(data.x)


def test_a_scanned_pass_keeps_no_copy_of_x_for_its_gradient():
    """Reverse mode recomputes chunks: beyond x, its gradient needs a small part of x's memory."""
    n, d = 200_000, 20
    data = gj.make_data(jnp.ones((n, d)), jnp.ones(n))
    model = gj.mlp(gj.poisson(), (10,))
    params = gj.init(model, jax.random.key(0), d)
    compiled = jax.jit(jax.grad(gj.loss, argnums=1)).lower(model, params, data).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.1 * data.x.nbytes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"l2": -1.0}, "l2 must be a finite number, 0 or more, got -1.0"),
        ({"l2": np.nan}, "l2 must be a finite number"),
        ({"l2": np.ones(3)}, r"l2 must be one number, got shape \(3,\); to run several, jax.vmap over it"),
        ({"y": jnp.ones((24, 1))}, r"y must have shape \(24,\) for the poisson family, got \(24, 1\)"),
        ({"y": jnp.ones(23)}, r"data.x has 24 rows but data.y has shape \(23,\)"),
        ({"weight": jnp.ones((24, 1))}, r"data.weight must be \(24,\), got shape \(24, 1\)"),
        ({"x": jnp.ones((24, 5))}, "the parameters are for 3 features, got x with 5"),
        ({"x": jnp.ones(24)}, r"data.x must be \(n, d\)"),
    ],
)
def test_bad_losses(change, message):
    model, params, data = problem("poisson")
    l2 = change.pop("l2", 0.0)
    with pytest.raises(ValueError, match=message):
        gj.loss(model, params, data._replace(**change), l2=l2)
