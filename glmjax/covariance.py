"""Covariances of a linear model's coefficients: functions of an `Optimum`, values of `inference(covariance=)`.

With H = I + S diag(l2), I the expected information and S the sum of the weights, an estimate's covariance is

    H^-1 M H^-1

and the estimators differ in M. Each returns `root' M root`, the covariance in the coordinates of `Optimum.root`, in
which H is the identity and the numbers are of one size.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .data import Data
from .influence import codes_of
from .inputs import is_traced
from .optima import Forms, Optimum, row_scores, row_total, signed_total, whitened
from .rotations import square_root
from .rows import chunk_rows, row_fold


def fisher(optimum: Optimum) -> Array:
    """M = dispersion I: R's standard errors, `dispersion I^-1` without a penalty.

    With `l2` it is the covariance of the penalized estimates, `dispersion H^-1 I H^-1`: how they vary, and not how far
    they are from the truth, which `bayesian` says.

    Reference: McCullagh and Nelder, Generalized Linear Models (1989), section 2.5.
    """
    return optimum.dispersion * (jnp.eye(len(optimum.share), dtype=optimum.share.dtype) - optimum.share)


def bayesian(optimum: Optimum) -> Array:
    """M = dispersion H, so `dispersion H^-1`: the posterior covariance where the ridge penalty is a normal prior.

    Without a penalty the same as `fisher`. Its intervals cover on average over the coefficients, bias included.

    Reference: Wood, Generalized Additive Models (2017), section 6.10; Nychka, JASA 83 (1988).
    """
    return optimum.dispersion * jnp.eye(len(optimum.share), dtype=optimum.share.dtype)


def observed(optimum: Optimum) -> Array:
    """`dispersion J^-1` (with `l2`, `dispersion Ho^-1 J Ho^-1`, Ho = J + S diag(l2)), J the observed information.

    Stata's `vce(oim)`: the same as `fisher` for canonical links. NaN where J is not positive definite. With an
    estimated alpha it is the joint Hessian.

    Reference: Efron and Hinkley, Biometrika 65 (1978).
    """

    def gap(optimum: Optimum, forms: Forms, z: Array) -> Array:
        return forms.observed - forms.expected

    one = jnp.eye(len(optimum.share), dtype=optimum.share.dtype)
    bread = one + signed_total(gap, optimum)  # 1 up to rounding for canonical links, however ill-conditioned
    upper = jnp.linalg.cholesky(bread).T
    half = jax.scipy.linalg.solve_triangular(upper, one)
    inverse = half @ half.T
    return optimum.dispersion * (inverse - inverse @ optimum.share @ inverse)


def hc0(optimum: Optimum) -> Array:
    """M = sum(weight s s'), s the gradient of a row's nll: White's, right whatever the variance of the targets.

    The bread is the expected information, as in R's `sandwich`; Stata's `vce(robust)` has the observed one, and a
    factor n / (n - 1). The dispersion cancels.

    Reference: White, Econometrica 48 (1980); Zeileis, Object-oriented computation of sandwich estimators (2006).
    """
    return row_total(_squared_score, optimum)


def hc1(optimum: Optimum) -> Array:
    """n / (n - p) times `hc0`, n = sum(weight) and p the effective degrees of freedom; as R's `vcovHC(type="HC1")`.

    Stata's `regress` has it too; its `glm` and `poisson` have n / (n - 1) instead.

    Reference: MacKinnon and White, Journal of Econometrics 29 (1985).
    """
    return optimum.rows / (optimum.rows - optimum.edf) * hc0(optimum)


def hc2(optimum: Optimum) -> Array:
    """M = sum(weight s s' / (1 - h)), h the row's leverage: unbiased for a normal model of constant variance.

    `h = I_i z_i' H^-1 z_i`, of one copy of the row. Of several outputs both are matrices, and s is multiplied by
    (1 - h)^-1/2; it cannot be differentiated then. NaN where a row's leverage is 1.

    Reference: MacKinnon and White, Journal of Econometrics 29 (1985).
    """
    return row_total(_hc2_score, optimum)


def hc3(optimum: Optimum) -> Array:
    """M = sum(weight s s' / (1 - h)^2), h the row's leverage: close to the jackknife, and the best for small samples.

    The rest is as for `hc2`.

    Reference: Long and Ervin, The American Statistician 54 (2000).
    """
    return row_total(_hc3_score, optimum)


SUMS = (fisher, bayesian, observed, hc0, hc1, hc2, hc3)  # those that take no more of the rows than sums over them


def clustered(groups: Any) -> Callable[[Optimum], Array]:
    """M = G / (G - 1) sum over clusters of s s', s the sum of weight times gradient over the rows of a cluster.

    For rows that depend on each other within G independent groups, as patients in a hospital; G should be some tens at
    least. Clusters of weight 0 do not count. As Stata's `vce(cluster)` for maximum likelihood; R's `vcovCL` multiplies
    by (n - 1) / (n - p) besides. Under `vmap` a lane holds (G, p) numbers.

    Args:
        groups: labels (n,), whole numbers or text; under a transformation whole numbers.

    Returns:
        An estimator, to be given as `inference(data, fit, covariance=clustered(groups))`.

    Raises:
        ValueError: one cluster only.
        TypeError: labels that are not whole numbers or text.

    Reference: Liang and Zeger, Biometrika 73 (1986).
    """
    n = np.shape(groups)[0] if np.ndim(groups) else 0
    if is_traced(groups):
        return jax.tree_util.Partial(_clustered, jnp.unique(groups, return_inverse=True, size=n)[1], jnp.zeros(n, bool))
    codes = codes_of(groups, "clusters", n)
    return jax.tree_util.Partial(_clustered, jnp.asarray(codes, jnp.int32), jnp.zeros(codes.max() + 1, bool))


def _squared_score(optimum: Optimum, forms: Forms, z: Array) -> Array:
    return _square(forms.score)


def _square(score: Array) -> Array:
    return score[:, :, None] * score[:, None]


def _hc2_score(optimum: Optimum, forms: Forms, z: Array) -> Array:
    # (1 - h)^-1/2 = 1 + h / (sqrt(1 - h) (1 + sqrt(1 - h)))
    return _square(_stretched(optimum, forms, z, lambda rest: 1 / (jnp.sqrt(rest) * (1 + jnp.sqrt(rest)))))


def _hc3_score(optimum: Optimum, forms: Forms, z: Array) -> Array:
    return _square(_stretched(optimum, forms, z, lambda rest: 1 / rest))  # 1 / (1 - h) = 1 + h / (1 - h)


def _stretched(optimum: Optimum, forms: Forms, z: Array, excess: Callable[[Array], Array]) -> Array:
    """Scores times 1 + h excess(1 - h), with h = I M the leverage and M what the row's outputs have of H^-1.

    Of several outputs h has the eigenvalues of r M r', r'r = I, and h f(h) is r' f(r M r') r M.
    """
    v, eps = whitened(optimum, z), jnp.finfo(z.dtype).eps
    m = v @ jnp.swapaxes(v, 1, 2)

    def beyond(h: Array) -> Array:
        return excess(jnp.where(h < 1 - 64 * eps, 1 - h, jnp.nan))

    if m.shape[1] == 1:
        h = forms.expected[:, :, 0] * m[:, :, 0]
        return forms.score * (1 + h * beyond(h))
    r = square_root(forms.expected)
    h, turn = jnp.linalg.eigh(r @ m @ jnp.swapaxes(r, 1, 2))
    r = jnp.swapaxes(turn, 1, 2) @ r
    return forms.score + jnp.einsum("nak,na,nal,nlm,nm->nk", r, beyond(h), r, m, forms.score)


def _clustered(codes: Array, clusters: Array, optimum: Optimum) -> Array:
    """The estimator of `clustered`; `clusters` (G,) has as many entries as there are, or may be."""
    n, q = len(optimum.data.x), len(optimum.root)
    if codes.shape != (n,):
        raise ValueError(f"groups must be ({n},), one label a row of x, got {codes.shape[0]}")

    def update(total: tuple[Array, Array], part: tuple[Data, Array], new: Array) -> tuple[Array, Array]:
        (rows, code), (sums, found) = part, total
        scores, copies = row_scores(optimum, rows, new)
        return sums.at[code].add(scores), found.at[code].max(copies > 0)

    start = jnp.zeros((len(clusters), q), optimum.root.dtype), clusters
    sums, found = row_fold(update, start, (optimum.data, codes), chunk_rows(4 * q))
    count = jnp.sum(found.astype(sums.dtype))
    moves = sums @ optimum.root
    return count / (count - 1) * moves.T @ moves
