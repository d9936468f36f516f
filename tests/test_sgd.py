"""SGD against a run by hand, its stopping and its lanes, under every transformation."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import CASES, D, N, problem

import glmjax as gj
from glmjax.sgd import _fit


def momentum(learning_rate):
    """An optimizer of one's own: a module-level factory."""
    return optax.sgd(learning_rate, momentum=0.9)


def decaying(learning_rate):
    """A schedule."""
    return optax.sgd(optax.exponential_decay(learning_rate, 10, 0.5))


def by_hand(name, params, x, t, order, learning_rate, l2):
    """The lecture's SGD in NumPy: forward, backward and update of a tanh MLP, or of a GLM where it has no hidden."""
    layers = [(np.array(w), np.array(b)) for w, b in ([params] if isinstance(params, gj.Dense) else params)]
    for rows in order:
        rows = rows[rows >= 0]
        h = [x[rows]]
        for w, b in layers[:-1]:
            h.append(np.tanh(h[-1] @ w + b))
        a = h[-1] @ layers[-1][0] + layers[-1][1]
        if name == "categorical":
            p = np.exp(a - a.max(axis=1, keepdims=True))
            delta = p / p.sum(axis=1, keepdims=True) - np.eye(3)[t[rows].astype(int)]
        else:
            delta = {"normal": a, "bernoulli": 1 / (1 + np.exp(-a)), "poisson": np.exp(a)}[name] - t[rows]
        delta = delta / len(rows)
        new = []
        for (w, b), h_in in zip(layers[::-1], h[::-1], strict=True):
            new.append((w - learning_rate * (h_in.T @ delta + l2 * w), b - learning_rate * delta.sum(axis=0)))
            delta = (np.multiply.outer(delta, w) if w.ndim == 1 else delta @ w.T) * (1 - h_in**2)
        layers = new[::-1]
    return layers


@pytest.mark.parametrize("kind", ["glm", "mlp"])
@pytest.mark.parametrize("name", ["normal", "bernoulli", "categorical", "poisson"])
def test_an_epoch_replays_a_run_by_hand_to_1e_12(name, kind, key):
    """Exact minibatches from given parameters, the last one incomplete (24 rows by 7)."""
    model, params, data = problem(name, kind)
    order = np.pad(np.random.default_rng(0).permutation(N), (0, 4), constant_values=-1).reshape(4, 7)
    fit = gj.fit_sgd(model, data, None, params=params, order=order, learning_rate=0.2, l2=0.1, epochs=1)
    want = by_hand(name, params, np.asarray(data.x), np.asarray(data.y), order, 0.2, 0.1)
    got = [fit.params] if kind == "glm" else fit.params
    for layer, (w, b) in zip(got, want, strict=True):
        np.testing.assert_allclose(layer.w, w, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(layer.b, b, rtol=1e-12, atol=1e-14)
    assert fit.steps == 4
    if kind == "glm":  # nothing is drawn, so no key is needed
        assert gj.fit_sgd(model, data, None, order=order, epochs=1).status == gj.Status.COMPLETED
    # The step function alone, minibatch by minibatch, does the same.
    stepped = params
    for rows in order:
        rows = rows[rows >= 0]
        stepped = gj.sgd_step(model, stepped, data._replace(x=data.x[rows], y=data.y[rows]), 0.2, 0.1)
    chex.assert_trees_all_close(stepped, fit.params, rtol=1e-13, atol=1e-15)


def test_order_holds_one_epoch_or_all():
    model, params, data = problem("bernoulli")
    rng = np.random.default_rng(1)
    three = np.stack([rng.permutation(N).reshape(4, 6) for _ in range(3)])
    fit = functools.partial(gj.fit_sgd, model, data, None, params=params)
    all_epochs = fit(order=three.reshape(12, 6), epochs=3)
    one_by_one = params
    for order in three:
        one_by_one = gj.fit_sgd(model, data, None, params=one_by_one, order=order, epochs=1).params
    chex.assert_trees_all_close(all_epochs.params, one_by_one, rtol=1e-14)
    again = fit(order=three[0], epochs=3)
    chex.assert_trees_all_close(again.params, fit(order=np.tile(three[0], (3, 1)), epochs=3).params, rtol=1e-14)
    assert again.steps == all_epochs.steps == 12
    assert fit(order=three[0][:2], epochs=1).steps == 2


@pytest.mark.parametrize("optimizer", [optax.sgd, momentum, decaying, optax.adam])
def test_any_optax_factory_is_what_optax_does(optimizer):
    with jax.numpy_dtype_promotion("standard"):  # optax.adam's own arithmetic needs it
        model, params, data = problem("categorical", "mlp")
        order = np.arange(N).reshape(4, 6)
        fit = gj.fit_sgd(model, data, None, params=params, order=order, optimizer=optimizer, epochs=2)
        reference = optimizer(0.1)
        state = reference.init(params)
        for rows in np.tile(order, (2, 1)):
            gradient = jax.grad(gj.loss, argnums=1)(model, params, data._replace(x=data.x[rows], y=data.y[rows]))
            updates, state = reference.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        # optax computes a schedule's factor in float32, which jit may round otherwise.
        rtol = 1e-6 if optimizer is decaying else 1e-10
        chex.assert_trees_all_close(fit.params, params, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_model_fits_and_says_how(name, kind, key):
    model, _, data = problem(name, kind, full=True)
    fit = gj.check(gj.fit_sgd(model, data, key, epochs=4, batch_size=5, learning_rate=0.05))
    assert fit.status == gj.Status.COMPLETED
    assert (fit.steps, fit.passes) == (4 * 5, 4 + 1)
    np.testing.assert_allclose(fit.loss, gj.loss(model, fit.params, data), rtol=1e-13)
    gradient = jax.tree.leaves(jax.grad(gj.loss, argnums=1)(model, fit.params, data))
    largest = max(float(jnp.abs(g).max()) for g in gradient)
    np.testing.assert_allclose(fit.optimality, largest / max(1, abs(fit.loss)), rtol=1e-9)
    assert fit.history.loss.shape == fit.history.watched.shape == (4,)
    assert fit.history.loss[-1] < fit.history.loss[0]
    assert np.isnan(fit.history.watched).all()


def test_full_batch_descent_ends_at_least_squares():
    """An independent oracle, and the optimality condition."""
    model, _, data = problem("normal")
    solution = np.linalg.lstsq(np.c_[data.x, np.ones(N)], np.asarray(data.y), rcond=None)[0]
    fit = gj.fit_sgd(model, data, None, params=gj.init(model, None, D), order=np.arange(N)[None], learning_rate=0.5,
                     epochs=1000)  # fmt: skip
    np.testing.assert_allclose(np.r_[fit.params.w, fit.params.b], solution, rtol=1e-10)
    assert fit.optimality < 1e-12
    residual = np.asarray(data.y) - np.c_[data.x, np.ones(N)] @ solution
    np.testing.assert_allclose(fit.model.family.dispersion, np.mean(residual**2), rtol=1e-9)


def test_the_dispersion_is_per_row_and_output():
    model, _, data = problem("normal-3", full=True)
    fit = gj.fit_sgd(model, data, jax.random.key(0), epochs=2)
    residual = np.asarray(data.y) - np.asarray(gj.predict(fit.model, fit.params, data.x, data.offset))
    weight, precision = np.asarray(data.weight), np.asarray(data.precision)
    want = np.sum((weight * precision)[:, None] * residual**2) / (weight.sum() * 3)
    np.testing.assert_allclose(fit.model.family.dispersion, want, rtol=1e-12)


# in pieces ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patience", [None, 2])
def test_in_pieces_is_in_one_to_the_bit(patience, key):
    model, _, data = problem("categorical", "mlp")
    whole = gj.fit_sgd(model, data, key, epochs=5, batch_size=7, optimizer=momentum, patience=patience)
    state = gj.sgd_init(model, data, key, batch_size=7, optimizer=momentum, patience=patience)
    for epochs in (1, 3, 1):
        state = gj.sgd_epochs(state, data, epochs)
    pieces = gj.sgd_finish(state, data)
    assert state.epoch == 5
    assert state.loss == whole.history.loss[-1]
    chex.assert_trees_all_equal(pieces, whole._replace(history=None))


# stopping -------------------------------------------------------------------------------------------------------------


def overfitting(key):
    """A wide MLP on little signal and much noise: the training loss falls, the validation loss turns up."""
    k1, k2, k3 = jax.random.split(key, 3)
    x = jax.random.normal(k1, (60, 8))
    y = gj.bernoulli().sample(k2, 1.5 * x[:, 0])
    model = gj.mlp(gj.bernoulli(), (30,))
    return model, gj.make_data(x[:30], y[:30]), gj.make_data(x[30:], y[30:]), k3


def test_patience_stops_at_the_turn_and_keeps_the_best(key):
    model, data, validation, k = overfitting(key)
    fit = gj.fit_sgd(model, data, k, epochs=60, batch_size=5, validation=validation, patience=4)
    assert gj.check(fit).status == gj.Status.STOPPED_EARLY
    watched = np.asarray(fit.history.watched)
    ran = int(np.isfinite(watched).sum())
    best = int(np.nanargmin(watched))
    assert ran == best + 1 + 4 < 60
    assert fit.steps == ran * 6
    np.testing.assert_allclose(gj.loss(model, fit.params, validation), watched[best], rtol=1e-12)
    assert np.isnan(fit.history.loss[ran:]).all()
    # Without patience all epochs run, and the last parameters come back.
    full = gj.fit_sgd(model, data, k, epochs=60, batch_size=5, validation=validation)
    np.testing.assert_allclose(full.history.watched[:ran], watched[:ran], rtol=1e-12)
    np.testing.assert_allclose(gj.loss(model, full.params, validation), full.history.watched[-1], rtol=1e-12)
    assert (fit.passes, full.passes) == (ran + 1, 60 + 1)  # the training data, read once an epoch and at the end


def test_patience_watches_the_training_objective_where_there_is_no_validation(key):
    model, data, _, k = overfitting(key)
    fit = gj.fit_sgd(model, data, k, epochs=3, patience=1, l2=0.1)
    np.testing.assert_allclose(np.nanmin(fit.history.watched), fit.loss, rtol=1e-12)
    np.testing.assert_allclose(fit.loss, gj.loss(model, fit.params, data, 0.1), rtol=1e-12)
    assert int(fit.passes) == 2 * np.isfinite(fit.history.watched).sum() + 1


def test_patience_is_each_lanes_own_under_vmap(key):
    model, data, validation, k = overfitting(key)
    keys = jax.random.split(k, 5)
    options = dict(epochs=40, batch_size=5, validation=validation, patience=3)
    fits = gj.fit_seeds(model, data, keys, **options)
    ran = np.isfinite(fits.history.watched).sum(axis=1)
    assert len(set(ran)) > 1  # the lanes stop at different epochs
    for i in range(5):
        one = gj.fit_sgd(model, data, keys[i], **options)
        lane = jax.tree.map(lambda a, i=i: a[i], fits)
        chex.assert_trees_all_close(lane, one, rtol=1e-8, atol=1e-10)


def test_when_all_lanes_have_ended_no_epoch_is_computed():
    """The branch is taken for the batch as a whole: `cond` stays a `cond` under vmap, and is no select."""
    model, _, data = problem("bernoulli")
    text = str(
        jax.make_jaxpr(lambda keys: gj.fit_seeds(model, data, keys, epochs=3))(jax.random.split(jax.random.key(0)))
    )
    assert "cond[" in text


# lanes that fail ------------------------------------------------------------------------------------------------------


def test_a_diverging_lane_is_nonfinite_and_the_others_are_untouched(key):
    model, _, data = problem("poisson")
    rates = jnp.array([0.05, 1e6, 0.05])
    keys = jax.random.split(key, 3)

    def fit(key, rate):
        return gj.fit_sgd(model, data, key, learning_rate=rate, epochs=3, batch_size=6)

    bad, good = jax.jit(jax.vmap(fit))(keys, rates), jax.jit(jax.vmap(fit))(keys, rates.at[1].set(0.05))
    assert list(bad.status) == [gj.Status.COMPLETED, gj.Status.NONFINITE, gj.Status.COMPLETED]
    for lane in (0, 2):
        chex.assert_trees_all_equal(*(jax.tree.map(lambda a, lane=lane: a[lane], f) for f in (bad, good)))
    assert not np.isfinite(bad.loss[1])
    with pytest.raises(RuntimeError, match=r"1 of 3 fits ended NONFINITE \(lanes 1\): .*lower\s+learning_rate"):
        gj.check(bad)


def test_a_lane_that_diverges_with_patience_keeps_its_best_and_says_so(key):
    model, _, data = problem("poisson")
    fit = gj.fit_sgd(model, data, key, learning_rate=1e6, epochs=5, patience=3)
    assert fit.status == gj.Status.NONFINITE
    assert np.isfinite(fit.loss)


@pytest.mark.parametrize("options", [dict(patience=1, batch_size=24), dict(patience=2, epochs=1), dict(patience=4)])
def test_divergence_is_never_taken_for_patience(options, key):
    """Also where it shows in the watched loss only, after the last minibatch of an epoch."""
    model, _, data = problem("poisson")
    rates = jnp.array([0.01, 1e6, 1e9])
    fits = jax.vmap(lambda rate: gj.fit_sgd(model, data, key, learning_rate=rate, **options))(rates)
    assert fits.status[0] != gj.Status.NONFINITE
    assert list(fits.status[1:]) == [gj.Status.NONFINITE] * 2


def test_validation_data_are_held_against_the_family_too(key):
    model, _, data = problem("categorical")
    bad = data._replace(y=data.y.at[3].set(3))
    fit = gj.fit_sgd(model, data, key, epochs=2, validation=bad, patience=1)
    assert fit.status == gj.Status.INVALID_TARGET
    assert fit.steps == 0


def test_numbers_and_weights_out_of_range_are_a_status_of_their_lane(key):
    model, _, data = problem("normal")
    good, bad = jnp.ones(N), jnp.ones(N).at[3].set(-1)
    infinite = jnp.zeros(N).at[2].set(jnp.inf)

    def ends(fit, lanes):
        return [gj.Status(s).name for s in jax.vmap(fit)(lanes).status.tolist()]

    def fit(data=data, **options):
        return gj.fit_sgd(model, data, key, epochs=1, **options)

    ok, invalid = "COMPLETED", "INVALID_INPUT"
    assert ends(lambda v: fit(l2=v), jnp.array([0.0, -1.0, jnp.nan])) == [ok, invalid, invalid]
    assert ends(lambda v: fit(learning_rate=v), jnp.array([0.1, 0.0, -0.1, jnp.inf])) == [ok, invalid, invalid, invalid]
    assert ends(lambda v: fit(data._replace(weight=v)), jnp.stack([good, bad, 0 * good])) == [ok, invalid, invalid]
    assert ends(lambda v: fit(data._replace(offset=v)), jnp.stack([0 * good, infinite])) == [ok, invalid]
    assert ends(lambda v: fit(data._replace(x=data.x * v)), jnp.array([1.0, jnp.nan])) == [ok, invalid]
    assert ends(lambda v: fit(patience=v), jnp.array([1, 0])) == [ok, invalid]


@pytest.mark.parametrize(
    ("name", "value"), [("poisson", -1.0), ("bernoulli", 1.5), ("categorical", 3.0), ("normal", np.nan)]
)
def test_an_invalid_target_is_a_status_of_its_lane(name, value, key):
    model, _, data = problem(name)
    ys = jnp.stack([data.y, data.y.at[4].set(value)])
    fits = jax.vmap(lambda y: gj.fit_sgd(model, data._replace(y=y), key, epochs=2))(ys)
    assert list(fits.status) == [gj.Status.COMPLETED, gj.Status.INVALID_TARGET]
    solo = gj.fit_sgd(model, data, key, epochs=2)
    chex.assert_trees_all_close(jax.tree.map(lambda a: a[0], fits), solo, rtol=1e-11, atol=1e-12)
    # ... unless its row weighs 0.
    weight = jnp.ones(N).at[4].set(0)
    inert = gj.fit_sgd(model, gj.Data(data.x, ys[1], weight), key, epochs=2)
    assert inert.status == gj.Status.COMPLETED
    assert np.isfinite(inert.loss)


# transformations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["categorical", "normal"])
def test_vmap_is_a_loop_over_l2_rates_and_targets(name, key):
    model, _, data = problem(name, "mlp")
    ys = jnp.stack([data.y, data.y[::-1]])
    l2s, rates = jnp.array([0.0, 0.5]), jnp.array([0.1, 0.02])

    def fit(y, l2, rate):
        return gj.fit_sgd(model, data._replace(y=y), key, l2=l2, learning_rate=rate, epochs=2, batch_size=7)

    batch = jax.vmap(fit)(ys, l2s, rates)
    for i in range(2):
        one = fit(ys[i], float(l2s[i]), float(rates[i]))
        chex.assert_trees_all_close(jax.tree.map(lambda a, i=i: a[i], batch), one, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("part", ["weight", "offset", "precision", "x", "params", "patience", "order"])
def test_vmap_is_a_loop_over_anything_else(part, key):
    model, _, data = problem("bernoulli", full=True)
    options = dict(epochs=3, batch_size=7)
    if part == "patience":
        values = jnp.array([1, 2])
    elif part == "order":
        values = jnp.stack([jax.random.permutation(k, N).reshape(4, 6) for k in jax.random.split(key)])
    elif part == "params":
        values = jax.vmap(lambda k: gj.init(model, k, D, bound=1.0))(jax.random.split(key))
    else:
        values = jnp.stack([getattr(data, part), getattr(data, part)[::-1]])

    @jax.jit
    def fit(value):
        if part in data._fields:
            return gj.fit_sgd(model, data._replace(**{part: value}), key, **options)
        return gj.fit_sgd(model, data, key, **options, **{part: value})

    batch = jax.vmap(fit)(values)
    for i in range(2):
        one = fit(jax.tree.map(lambda a, i=i: a[i], values))
        chex.assert_trees_all_close(jax.tree.map(lambda a, i=i: a[i], batch), one, rtol=1e-9, atol=1e-11)


def test_the_pieces_go_through_jit_and_vmap(key):
    model, _, data = problem("poisson", "mlp")
    keys = jax.random.split(key, 2)
    states = jax.jit(jax.vmap(lambda k: gj.sgd_init(model, data, k, batch_size=7)))(keys)
    states = jax.jit(jax.vmap(lambda s: gj.sgd_epochs(s, data, 2)))(states)
    fits = jax.jit(jax.vmap(lambda s: gj.sgd_finish(s, data)))(states)
    want = gj.fit_seeds(model, data, keys, epochs=2, batch_size=7)
    chex.assert_trees_all_close(fits._replace(history=None), want._replace(history=None), rtol=1e-9, atol=1e-11)


def test_gradients_with_respect_to_the_data_are_central_differences(key):
    """x, y and weights, a row of weight 0 among them: what the fit would do if it began to count."""
    model, _, data = problem("normal", full=True)
    row = 4
    assert data.weight[row] == 0

    def final(x, y, weight):
        fit = gj.fit_sgd(model, data._replace(x=x, y=y, weight=weight), key, epochs=2, batch_size=7)
        return jnp.sum(fit.params.w**2) + fit.loss

    at = (data.x, data.y, data.weight)
    gradient = jax.jit(jax.grad(final, argnums=(0, 1, 2)))(*at)
    final, h = jax.jit(final), 1e-6
    for i, index in [(0, (5, 1)), (1, (6,)), (2, (3,)), (2, (row,))]:
        up, down = (list(at) for _ in range(2))
        up[i], down[i] = at[i].at[index].add(h), at[i].at[index].add(0 if index == (row,) else -h)
        step = h if index == (row,) else 2 * h  # a weight has no left side at 0
        np.testing.assert_allclose(gradient[i][index], (final(*up) - final(*down)) / step, rtol=1e-5, atol=1e-8)


def test_gradients_through_a_fit_are_central_differences(key):
    """Forward and reverse, through shuffled epochs, with respect to l2 and the learning rate."""
    model, _, data = problem("bernoulli", "mlp")

    def final(numbers):
        fit = gj.fit_sgd(model, data, key, l2=numbers[0], learning_rate=numbers[1], epochs=2, batch_size=7)
        return gj.loss(model, fit.params, data)

    at, h = jnp.array([0.1, 0.3]), 1e-6
    reverse, forward = jax.jit(jax.grad(final))(at), jax.jit(jax.jacfwd(final))(at)
    central = [(final(at.at[i].add(h)) - final(at.at[i].add(-h))) / (2 * h) for i in range(2)]
    np.testing.assert_allclose(reverse, forward, rtol=1e-10)
    np.testing.assert_allclose(reverse, central, rtol=1e-7)


def test_new_values_and_equal_models_made_anew_compile_nothing(key, caplog):
    _, _, data = problem("categorical")
    keys = jax.random.split(key, 2)

    def call(i, fit, key):
        fit(gj.mlp(gj.categorical(3), (4,)), data, key, epochs=2, learning_rate=[0.1, 0.2, np.float32(0.3)][i],
            l2=[0, 0.5, jnp.array(0.1)][i], optimizer=momentum)  # fmt: skip

    call(0, gj.fit_sgd, keys[0])
    before = _fit.__wrapped__._cache_size()
    for i in (1, 2):
        call(i, gj.fit_sgd, keys[1])
    assert _fit.__wrapped__._cache_size() == before
    call(0, gj.fit_seeds, keys)
    more = [jax.random.split(jax.random.fold_in(key, i), 2) for i in (1, 2)]
    with jax.log_compiles(), caplog.at_level("WARNING"):
        for i in (1, 2):
            call(i, gj.fit_seeds, more[i - 1])
        assert "Compiling" not in caplog.text
        gj.fit_seeds(MODEL, DATA, keys, epochs=3, batch_size=23)
        assert "Compiling" in caplog.text  # it does show


def test_sgd_step_traces_once():
    from glmjax.sgd import _step

    model, params, data = problem("poisson")
    gj.sgd_step(model, params, data, 0.1)
    before = _step._cache_size()
    for rate in (0.2, 1, np.float32(0.5)):
        gj.sgd_step(gj.glm(gj.poisson()), params, data, rate)
    assert _step._cache_size() == before


def test_float32_data_are_fitted_in_float32_also_with_x64_on(key):
    x = np.ones((8, 2), np.float32)
    data = gj.make_data(x, np.zeros(8))
    fit = gj.fit_sgd(gj.mlp(gj.normal(), (3,)), data, key, epochs=1)
    floats = [a.dtype for a in jax.tree.leaves(fit) if jnp.issubdtype(a.dtype, jnp.floating)]
    assert set(floats) == {np.dtype("float32")}


# bad input ------------------------------------------------------------------------------------------------------------

MODEL, PARAMS, DATA = problem("poisson")
KEY = jax.random.key(0)

BAD = {
    "batch_size 0": (ValueError, "batch_size must be 1 or more, got 0", dict(batch_size=0)),
    "batch_size 2.5": (TypeError, "batch_size must be a whole number, got 2.5", dict(batch_size=2.5)),
    "epochs 0": (ValueError, "epochs must be 1 or more, got 0", dict(epochs=0)),
    "epochs text": (TypeError, "epochs must be a whole number, got 'ten'", dict(epochs="ten")),
    "learning_rate 0": (ValueError, "learning_rate must be a finite number above 0, got 0", dict(learning_rate=0)),
    "learning_rate NaN": (ValueError, "learning_rate must be a finite number above 0, got nan", dict(learning_rate=np.nan)),
    "learning_rate text": (TypeError, "learning_rate must be a number, got 'fast'", dict(learning_rate="fast")),
    "learning_rate list": (ValueError, r"learning_rate must be one number, got shape \(2,\)", dict(learning_rate=[0.1, 0.2])),
    "l2 -1": (ValueError, "l2 must be a finite number, 0 or more, got -1", dict(l2=-1)),
    "patience 0": (ValueError, "patience must be 1 or more, got 0", dict(patience=0)),
    "optimizer instance": (TypeError, r"such as optax.adam itself and not optax.adam\(0.1\)", dict(optimizer=optax.adam(0.1))),
    "no key": (TypeError, "key must be a JAX random key.* where rows are shuffled", dict(key=None)),
    "no key to shuffle": (TypeError, "key must be .* where rows are shuffled", dict(key=None, params=PARAMS)),
    "params shape": (ValueError, "the parameters are for 2 features, got x with 3", dict(params=gj.Dense(jnp.ones(2), jnp.ones(())))),
    "params tree": (ValueError, r"params must be Dense\(w, b\), as init\(model, key, 3\) makes them", dict(params=(PARAMS,))),
    "order 1-d": (ValueError, r"order must be \(steps, batch_size\) row numbers, got shape \(24,\)", dict(order=np.arange(24))),
    "order floats": (TypeError, "order must hold whole numbers", dict(order=np.ones((2, 3)))),
    "order outside": (ValueError, r"order has row 24, outside 0\.\.23", dict(order=np.array([[24]]))),
    "validation": (ValueError, "validation has 2 features, data 3", dict(validation=gj.make_data(np.ones((4, 2)), np.ones(4)))),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case):
    error, message, options = BAD[case]
    options = {"key": KEY, **options}
    with pytest.raises(error, match=message):
        gj.fit_sgd(MODEL, DATA, options.pop("key"), **options)


@pytest.mark.parametrize("keys", [jax.random.key(0), 3, None, jnp.ones((0, 2))])
def test_bad_keys(keys):
    with pytest.raises(ValueError, match=r"keys must be \(seeds,\) random keys, jax.random.split\(key, seeds\)"):
        gj.fit_seeds(MODEL, DATA, keys)


def test_old_style_keys_work_too():
    fits = gj.fit_seeds(MODEL, DATA, jax.random.split(jax.random.PRNGKey(0), 2), epochs=1)
    assert fits.loss.shape == (2,)


def test_the_data_are_held_once_not_once_a_seed():
    n, d, seeds = 4000, 120, 32
    data = gj.make_data(jnp.ones((n, d)), jnp.zeros(n))
    keys = jax.random.split(KEY, seeds)
    fit = jax.jit(lambda data, keys: gj.fit_seeds(gj.glm(gj.bernoulli()), data, keys, batch_size=50, epochs=1))
    memory = fit.lower(data, keys).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * data.x.nbytes  # the seeds' orders, not their rows


def test_seeds_laid_over_devices_run_there_and_change_no_answer(key):
    model, _, data = problem("categorical", "mlp")
    keys = jax.random.split(key, 4)
    mesh = jax.sharding.Mesh(jax.devices(), ("seed",))
    spread = jax.device_put(keys, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("seed")))
    fits = gj.fit_seeds(model, data, spread, epochs=2, batch_size=7, patience=1)
    assert len(fits.params[0].w.sharding.device_set) == 2
    chex.assert_trees_all_close(
        jax.device_get(fits), jax.device_get(gj.fit_seeds(model, data, keys, epochs=2, batch_size=7, patience=1)),
        rtol=1e-10, atol=1e-12,
    )  # fmt: skip


def test_data_made_by_hand_are_brought_to_one_dtype(key):
    """NumPy parts, integer labels and weights, bool targets; only x must be floats."""
    model, _, data = problem("bernoulli")
    by_hand = gj.Data(np.asarray(data.x), np.asarray(data.y) > 0, np.ones(N, int), np.zeros(N, np.float32))
    assert gj.fit_sgd(gj.glm(gj.normal()), by_hand, key, epochs=1).model.family.dispersion > 0
    fit = gj.fit_sgd(model, by_hand, key, epochs=1)
    chex.assert_trees_all_close(fit, gj.fit_sgd(model, data, key, epochs=1), rtol=1e-11, atol=1e-12)
    assert gj.fit_sgd(gj.glm(gj.poisson()), by_hand, key, epochs=1).status == gj.Status.COMPLETED
    with pytest.raises(TypeError, match=r"data\.x must be floats, got int64"):
        gj.fit_sgd(model, by_hand._replace(x=np.ones((N, D), int)), key)
    with pytest.raises(TypeError, match="need a model from glm or mlp and data from make_data, got Model and tuple"):
        gj.fit_sgd(model, (data.x, data.y), key)
