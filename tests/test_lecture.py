"""The lecture's claims, by name: gradients, links, softmax, the Poisson limit, backpropagation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from problems import D, problem

import glmjax as gj

# the gradient of every row --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["normal", "bernoulli", "poisson"])
def test_gradient_is_mean_minus_target_times_x(name):
    """d nll / d w = (y(x) - t) x, for the linear, logistic and Poisson rows alike."""
    model, params, data = problem(name)
    gradient = jax.grad(gj.loss, argnums=1)(model, params, data)
    x, t, y = (np.asarray(a) for a in (data.x, data.y, gj.predict(model, params, data.x)))
    np.testing.assert_allclose(gradient.w, np.mean([(y[i] - t[i]) * x[i] for i in range(len(x))], axis=0), rtol=1e-12)
    np.testing.assert_allclose(gradient.b, np.mean(y - t), rtol=1e-12)


@pytest.mark.parametrize("name", ["categorical", "categorical-reference"])
def test_gradient_of_softmax_is_x_times_probabilities_minus_indicator(name):
    """dL/dW = x (y(x) - 1_t)^T; with a reference class, the columns of the others."""
    model, params, data = problem(name)
    gradient = jax.grad(gj.loss, argnums=1)(model, params, data)
    x, t = np.asarray(data.x), np.asarray(data.y).astype(int)
    y = np.asarray(gj.predict(model, params, x))
    by_hand = np.mean([np.outer(x[i], y[i] - np.eye(3)[t[i]]) for i in range(len(x))], axis=0)
    if name == "categorical-reference":
        by_hand = np.delete(by_hand, 1, axis=1)
    np.testing.assert_allclose(gradient.w, by_hand, rtol=1e-11, atol=1e-15)


def test_the_bias_can_be_absorbed_by_a_column_of_ones():
    model, params, data = problem("bernoulli")
    absorbed = gj.glm(model.family, bias=False)
    x1 = jnp.concatenate([data.x, jnp.ones((len(data.x), 1))], axis=1)
    params1 = gj.Dense(jnp.concatenate([params.w, params.b[None]]), None)
    np.testing.assert_allclose(
        gj.loss(absorbed, params1, data._replace(x=x1)), gj.loss(model, params, data), rtol=1e-14
    )


# links and activations ------------------------------------------------------------------------------------------------


def test_sigmoid_and_its_derivative():
    z = jnp.linspace(-5, 5, 21)
    sigmoid = gj.bernoulli().mean
    s = sigmoid(z)
    np.testing.assert_allclose(s, 1 / (1 + np.exp(-z)), rtol=1e-14)
    np.testing.assert_allclose(jax.vmap(jax.grad(sigmoid))(z), s * (1 - s), rtol=1e-13)
    np.testing.assert_allclose(jax.grad(sigmoid)(0.0), 0.25, rtol=1e-15)


def test_tanh_is_a_rescaled_sigmoid():
    z = jnp.linspace(-5, 5, 21)
    np.testing.assert_allclose(jnp.tanh(z), 2 * jax.nn.sigmoid(2 * z) - 1, rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(jax.grad(jnp.tanh)(0.0), 1.0, rtol=1e-15)


def test_logits_are_the_log_odds():
    model, params, data = problem("bernoulli")
    p = np.asarray(gj.predict(model, params, data.x))
    np.testing.assert_allclose(gj.linear_predictor(model, params, data.x), np.log(p / (1 - p)), rtol=1e-10)
    model, params, data = problem("categorical-reference")
    p = np.asarray(gj.predict(model, params, data.x))
    log_odds = np.log(np.delete(p, 1, axis=1) / p[:, [1]])  # against the reference class
    np.testing.assert_allclose(gj.linear_predictor(model, params, data.x), log_odds, rtol=1e-10, atol=1e-14)


def test_exp_is_the_activation_that_the_poisson_gradient_asks_for():
    """Wanting d nll / d eta = a(eta) - t with nll = -log Poisson(t; a(eta)) gives a' = a, so a = exp."""
    t = 3.0

    def slope(activation, eta):
        return jax.grad(lambda e: activation(e) - t * jnp.log(activation(e)))(eta)

    eta = jnp.linspace(-1.0, 2.0, 7)
    np.testing.assert_allclose(jax.vmap(lambda e: slope(jnp.exp, e))(eta), jnp.exp(eta) - t, rtol=1e-12)
    softplus = jax.vmap(lambda e: slope(jax.nn.softplus, e) - (jax.nn.softplus(e) - t))(eta)
    assert np.all(np.abs(softplus) > 0.1)  # another activation does not have it


# softmax --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_softmax_shift_invariance(dtype, scale):
    family = gj.categorical(5)
    eta = jnp.arange(5, dtype=dtype) * scale / 8  # exact in both precisions, as is the shift
    for shift in (-scale, scale):
        moved = eta + jnp.array(shift, dtype)
        np.testing.assert_array_equal(family.mean(moved), family.mean(eta))
        for label in range(5):
            y = jnp.array(label, dtype)
            np.testing.assert_array_equal(family.nll(moved, y), family.nll(eta, y))
    assert np.isfinite(family.nll(eta, jnp.array(0, dtype)))


def test_two_class_softmax_is_logistic_regression():
    """softmax((a, b))_1 = sigmoid(b - a): same probabilities and same loss; with a reference, the same parameters."""
    model, params, data = problem("bernoulli")
    for family, both in [
        (gj.categorical(2), gj.Dense(jnp.stack([-params.w, params.w], 1) / 2, jnp.stack([-params.b, params.b]) / 2)),
        (gj.categorical(2, reference=0), gj.Dense(params.w[:, None], params.b[None])),
    ]:
        softmax = gj.glm(family)
        np.testing.assert_allclose(
            gj.predict(softmax, both, data.x)[:, 1], gj.predict(model, params, data.x), rtol=1e-13
        )
        np.testing.assert_allclose(gj.loss(softmax, both, data), gj.loss(model, params, data), rtol=1e-13)


@pytest.mark.parametrize("reference", [0, 1, 2])
def test_k_minus_1_logits_are_k_logits_up_to_a_constant(reference, key):
    """Subtracting the reference's column from all columns changes no probability and frees that column."""
    full = gj.glm(gj.categorical(3))
    params = gj.init(full, key, D, bound=1.0)
    x = jax.random.normal(key, (10, D))
    less = gj.Dense(
        jnp.delete(params.w - params.w[:, [reference]], reference, axis=1),
        jnp.delete(params.b - params.b[reference], reference),
    )
    small = gj.glm(gj.categorical(3, reference=reference))
    np.testing.assert_allclose(gj.predict(small, less, x), gj.predict(full, params, x), rtol=1e-13)


# Poisson --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.5, 3.0])
def test_poisson_is_the_limit_of_the_binomial_at_rate_one_over_n(rate):
    """Total variation between Binomial(n, rate / n) and Poisson(rate) falls as 1/n, and below Le Cam's rate^2 / n."""
    n = np.array([10, 100, 1000, 10_000])
    counts = jnp.arange(60.0)
    log_mean = jnp.log(rate)
    log_factorial = jax.scipy.special.gammaln(counts + 1)
    poisson = np.exp(-jax.vmap(lambda t: gj.poisson().nll(log_mean, t))(counts) - log_factorial)
    distance = np.array([0.5 * np.abs(scipy.stats.binom.pmf(counts, m, rate / m) - poisson).sum() for m in n])
    assert np.all(distance <= rate**2 / n)
    slope = np.polyfit(np.log(n[1:]), np.log(distance[1:]), 1)[0]
    np.testing.assert_allclose(slope, -1, atol=0.01)


def test_poisson_mean_is_its_variance_by_sampling(key):
    model = gj.glm(gj.poisson())
    params = gj.Dense(jnp.array([0.0]), jnp.log(6.0))
    t = np.asarray(gj.sample(model, params, jnp.zeros((100_000, 1)), key))
    np.testing.assert_allclose([t.mean(), t.var()], [6, 6], rtol=0.02)


# mean squared error ---------------------------------------------------------------------------------------------------


def test_mse_and_gaussian_nll_share_their_minimiser():
    """Both gradients vanish at the closed-form least squares, and nowhere else; sigma^2 scales the NLL only."""
    _, _, data = problem("normal")
    x, t = np.asarray(data.x), np.asarray(data.y)
    solution = np.linalg.lstsq(np.c_[x, np.ones(len(x))], t, rcond=None)[0]
    params = gj.Dense(jnp.array(solution[:-1]), jnp.array(solution[-1]))
    model = gj.glm(gj.normal())

    def mse(params):
        return jnp.mean((gj.predict(model, params, data.x) - data.y) ** 2)

    def gaussian_nll(params, sigma):
        r = gj.predict(model, params, data.x) - data.y
        return jnp.mean(r**2 / (2 * sigma**2) + jnp.log(sigma) + 0.5 * jnp.log(2 * jnp.pi))

    for gradient in (
        jax.grad(mse)(params),
        jax.grad(gaussian_nll)(params, 3.0),
        jax.grad(gj.loss, argnums=1)(model, params, data),
    ):
        for leaf in jax.tree.leaves(gradient):
            np.testing.assert_allclose(leaf, 0, atol=1e-14)
    np.testing.assert_allclose(gj.loss(model, params, data), gaussian_nll(params, 1.0), rtol=1e-14)
    np.testing.assert_allclose(gj.loss(model, params, data), mse(params) / 2 + 0.5 * np.log(2 * np.pi), rtol=1e-14)


# backpropagation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["normal", "bernoulli", "categorical", "poisson"])
@pytest.mark.parametrize(
    ("activation", "derivative"),
    [
        ("identity", lambda z, h: np.ones_like(z)),
        ("sigmoid", lambda z, h: h * (1 - h)),
        ("tanh", lambda z, h: 1 - h**2),
        ("relu", lambda z, h: (z > 0).astype(float)),
    ],
)
def test_backpropagation_step_by_step(name, activation, derivative, key):
    """The lecture's chain, one example at a time: dL/dy dy/da, through da/dh and dh/dh_in, to dh_in/dW_h."""
    _, _, data = problem(name)
    model = gj.mlp(gj.categorical(3) if name == "categorical" else problem(name)[0].family, (4, 5), activation)
    params = gj.init(model, key, D, bound=1.0)
    function = {"identity": lambda z: z, "sigmoid": lambda z: 1 / (1 + np.exp(-z)), "tanh": np.tanh,
                "relu": lambda z: np.maximum(z, 0)}[activation]  # fmt: skip
    (w1, b1), (w2, b2), (w3, b3) = [(np.asarray(w), np.asarray(b)) for w, b in params]
    total = [[0.0, 0.0] for _ in range(3)]
    for x, t in zip(np.asarray(data.x), np.asarray(data.y), strict=True):
        # forward
        z1 = x @ w1 + b1
        h1 = function(z1)
        z2 = h1 @ w2 + b2
        h2 = function(z2)
        a = h2 @ w3 + b3
        if name == "categorical":
            y, target = np.exp(a) / np.exp(a).sum(), np.eye(3)[int(t)]
            dl_dy = -target / y  # L = -sum_k t_k log y_k
            dy_da = np.diag(y) - np.outer(y, y)
            dl_da = dl_dy @ dy_da
            np.testing.assert_allclose(dl_da, y - target, atol=1e-14)
        else:
            y, dl_dy, dy_da = {
                "normal": lambda a, t: (a, a - t, 1.0),
                "bernoulli": lambda a, t: ((s := 1 / (1 + np.exp(-a))), (s - t) / (s * (1 - s)), s * (1 - s)),
                "poisson": lambda a, t: (np.exp(a), 1 - t / np.exp(a), np.exp(a)),
            }[name](a, t)
            dl_da = dl_dy * dy_da
            np.testing.assert_allclose(dl_da, y - t, atol=1e-13)
        # output layer, then each hidden layer: outer products with what came in
        dl_dh2 = w3 @ np.atleast_1d(dl_da) if w3.ndim == 2 else w3 * dl_da
        dl_dz2 = dl_dh2 * derivative(z2, h2)
        dl_dh1 = w2 @ dl_dz2
        dl_dz1 = dl_dh1 * derivative(z1, h1)
        for layer, (h_in, dz) in enumerate([(x, dl_dz1), (h1, dl_dz2), (h2, dl_da)]):
            total[layer][0] += np.multiply.outer(h_in, dz) / len(data.y)
            total[layer][1] += dz / len(data.y)
    gradient = jax.grad(gj.loss, argnums=1)(model, params, data)
    for layer, by_hand in zip(gradient, total, strict=True):
        np.testing.assert_allclose(layer.w, by_hand[0], rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(layer.b, by_hand[1], rtol=1e-10, atol=1e-13)
