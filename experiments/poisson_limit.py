"""Poisson is the limit of many rare chances.

Binomial(n, lambda / n), n chances of lambda / n each, approaches Poisson(lambda) as n grows: the total variation
distance between them falls as 1/n, and stays below lambda^2 / n (Le Cam, 1960). In a Poisson distribution the
variance is the mean, so larger counts scatter more.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax import Array
from jax.scipy.special import gammaln
from matplotlib.figure import Figure

import glmjax as gj

from .claims import Finding, at_most, between

RATES = (0.3, 1.0, 3.0, 10.0)


@partial(jax.jit, static_argnames=("size", "all_counts"))
def distance_of(n: Array, rate: Array, size: int, all_counts: bool) -> Array:
    """`distance` over the counts 0..size-1, which are all of the binomial's or all that matter."""
    counts = jnp.arange(float(size))
    log_poisson = -jax.vmap(lambda k: gj.poisson().nll(jnp.log(rate), k))(counts) - gammaln(counts + 1)
    falling = jnp.concatenate([jnp.zeros(1), jnp.cumsum(jnp.log1p(-counts[:-1] / n))])
    log_ratio = falling + (n - counts) * jnp.log1p(-rate / n) + rate
    poisson = jnp.exp(log_poisson)
    tail = jnp.maximum(0, 1 - poisson.sum()) if all_counts else 0.0
    return 0.5 * (jnp.sum(poisson * jnp.abs(jnp.expm1(log_ratio))) + tail)


def distance(n: int, rate: float) -> float:
    """Total variation between Binomial(n, rate / n) and Poisson(rate), stable for every n.

    From the ratio of the two probabilities, `log ratio_k = sum_(j<k) log(1 - j/n) + (n - k) log(1 - rate/n) + rate`,
    whose terms are small: probabilities subtracted from each other would leave rounding only. Counts above n and the
    Poisson's tail are Poisson's alone; counts above 160 do not happen at the rates here.
    """
    size = min(n, 160) + 1
    return float(distance_of(jnp.array(float(n)), jnp.array(rate), size, n < 160))


def investigate(quick: bool) -> Finding:
    """Distances over n and lambda, against the bound and against SciPy; variance against mean."""
    sizes = np.unique(np.logspace(1, 6, 6 if quick else 26).round().astype(int))
    rates = [rate for rate in RATES]
    table = np.array([[distance(int(n), rate) if rate < n else np.nan for n in sizes] for rate in rates])
    bound = np.array([[rate**2 / n for n in sizes] for rate in rates])
    claims = [at_most("largest distance over Le Cam's bound lambda^2 / n, all points", np.nanmax(table / bound), 1.0)]
    large = sizes >= 1000
    for rate, row in zip(rates, table, strict=True):
        slope = np.polyfit(np.log(sizes[large]), np.log(row[large]), 1)[0]
        claims.append(between(f"slope of log distance in log n, lambda = {rate:g}", slope, -1.005, -0.995))
    worst = 0.0
    for rate in rates:
        k = np.arange(200)
        for n in (20, 100, 1000):
            direct = 0.5 * np.abs(scipy.stats.binom.pmf(k, n, rate / n) - scipy.stats.poisson.pmf(k, rate)).sum()
            worst = max(worst, abs(direct - distance(n, rate)))
    claims.append(at_most("difference from SciPy's probabilities where those suffice (n to 1000)", worst, 1e-12))

    means = jnp.logspace(-1, 3, 9)
    draws = 20_000 if quick else 1_000_000
    model = gj.glm(gj.poisson())

    def ratio(key: Array, mean: Array) -> Array:
        t = gj.sample(model, gj.Dense(jnp.zeros(1), jnp.log(mean)), jnp.zeros((draws, 1)), key)
        return jnp.var(t) / jnp.mean(t)

    ratios = np.asarray(jax.lax.map(lambda a: ratio(*a), (jax.random.split(jax.random.key(0), len(means)), means)))
    # The sample variance of a Poisson has standard deviation mean sqrt((2 + 1 / mean) / draws).
    error = np.asarray(jnp.sqrt((2 + 1 / means) / draws))
    claims.append(
        at_most("variance over mean of samples less 1, in its standard errors", (abs(ratios - 1) / error).max(), 5)
    )

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, (rate, row) in enumerate(zip(rates, table, strict=True)):
        left.loglog(sizes, row, "o-", markersize=3, color=f"C{i}", label=f"λ = {rate:g}")
        left.loglog(sizes, bound[i], ":", color=f"C{i}")
    left.set(xlabel="n", ylabel="total variation distance", title="Binomial(n, λ/n) against Poisson(λ); dotted: λ²/n")
    left.legend(frameon=False)
    right.loglog(means, ratios * means, "o", label="samples")
    right.loglog(means, means, "-", color="0.5", label="variance = mean")
    right.set(xlabel="mean", ylabel="variance", title="the variance grows with the mean")
    right.legend(frameon=False)
    figures = {"n": sizes, "lambda": rates, "distance": table, "variance over mean": ratios}
    return Finding(claims, figure, figures)
