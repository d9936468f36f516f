"""`check_separation`: does the maximum-likelihood estimate of a linear model exist, answered exactly, on the host.

Along a direction v of the parameters the linear predictors move by t (design @ v). The recession cone
C = {v : no row's loss ever rises as t grows} is polyhedral: each row says that a signed eta, or the margin of its
class over another one, must not fall (>= 0), or that its eta must stand still (= 0). The estimate exists if and only
if no v in C makes a constraint strict (Albert and Anderson, 1984; Correia, Guimaraes and Zylkin, 2019):

1. which constraints: the sign of the slope of `family.nll` far out on either side of 0 (`_free_sides`);
2. coordinates u in which the design is orthonormal, aliased columns left out (`_orthonormal`), and in them a basis of
   the subspace where the equalities hold, without directions that move no constraint (`_null_space`);
3. one linear program over that subspace, maximize sum(s) with A z >= s, 0 <= s <= 1 and z free (`_strict`). C is a
   cone: whatever can be strict is strict in the sum of such directions and reaches 1 when that is scaled up, so at
   the optimum each s is 0 or 1. The dual agrees: its multipliers y >= 0 have A'y = 0, and y >= 1 where s = 0, so
   0 = y'Az forces those constraints to 0 on all of C;
4. span(C) is the null space of the constraints that are not strict: they vanish on C, and with a v that is strict
   in all others, v plus a small enough step in that null space is in C. So a coefficient is infinite if and only if
   that null space has a component in it, and no further program is needed.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .data import Data
from .distributions import Family
from .inputs import check_finite, is_traced
from .models import Model, check_problem, in_dtype
from .predictors import Dense, Linear

# Where slopes are read. exp(2 * 300) is finite in float64, and no loss is flat there that is not flat for good; the
# farther ones see past the largest target or, for an inverse link, the reciprocal of the smallest.
_PROBES = (3e2, 3e5, 3e8, 3e11, 3e14)
_ALIASED = 1e-11  # R's rule: what earlier columns leave of a column, of its norm
_ZERO = 1e-9  # of a vector's norm: a part that counts as rounding. Gaps and overlaps that small are not told from 0


class Separation(NamedTuple):
    """Whether the maximum-likelihood estimate exists, and if not, what goes to infinity.

    `separated`: the estimate does not exist: the loss falls for ever along `direction`. `infinite`, a `Dense` of
    booleans shaped like the parameters (b None without a bias): the coefficients that are not 0 in some such
    direction. The others have a finite estimate; those of aliased columns (combinations of the bias and earlier
    columns) count as fixed at 0. With K logits the directions sum to 0 over the classes, which is how a fit that starts
    at 0 moves. `rows` (n,): the separated rows, whose loss falls to its infimum; rows of weight 0 never are. For the
    categorical family that means a margin over every other class, so none need be where only a class is absent.
    `direction`, a `Dense` like the parameters: a certificate, which lowers the loss of every row it moves; largest
    entry 1, or all 0. `sentence`: the same in words.
    """

    separated: bool
    infinite: Dense
    rows: np.ndarray
    direction: Dense
    sentence: str


def check_separation(model: Model, data: Data, *, l2: Any = 0.0) -> Separation:
    """Whether the estimate of a linear model exists, decided by linear programming; host-side, needs scipy.

    Exact up to rounding: in float64, a gap or an overlap below about 1e-8 of the columns' spread is not told from
    none, and counts as separated. Offsets do not matter, nor do weights but for 0. Dense: for up to some 1e5 rows times
    other classes; 1e5 rows of 20 features take seconds.

    Args:
        model: from `glm`.
        data: from `make_data`.
        l2: penalty, 0 or more, one number or an array that broadcasts to w: a penalized weight is always finite, so
            only the bias and unpenalized weights can diverge.

    Returns:
        `Separation`.

    Raises:
        ValueError: a hidden-layer model, a shape that does not fit, x not finite, a target outside the support, a
            negative l2; `TypeError`: inside `jit`, `vmap` or `grad`; `ImportError`: scipy is missing.
    """
    try:
        import scipy.optimize  # noqa: F401
    except ImportError:
        raise ImportError("check_separation needs scipy; run pip install 'glmjax[separation]'") from None
    if is_traced(model, data, l2):
        raise TypeError("check_separation is host-side, not for jit, vmap or grad; call it before the fit, on arrays")
    check_problem(model, data)
    if not isinstance(model.predictor, Linear):
        raise ValueError("check_separation is for linear models only (glm); an MLP's loss has no recession cone")
    family, bias = model.family, model.predictor.bias
    x, y = (np.asarray(part, np.float64) for part in (data.x, data.y))
    n, d = x.shape
    rows = np.arange(n) if data.weight is None else np.flatnonzero(np.asarray(data.weight) > 0)
    check_finite(x[rows], "x (in rows of positive weight)")
    if not np.all(family.support(y[rows])):
        raise ValueError(f"a target is outside the {family.name} family's support; make_data(..., family=) names it")
    y = y[rows]
    row, coefficients, strictable = _constraints(model, y)
    used, row = np.unique(row, return_inverse=True)  # a row of flat loss has no constraint, and is no row
    rows = rows[used]

    penalized = _penalized(l2, (d, family.n_outputs) if family.n_outputs else (d,))
    free = np.concatenate([np.ones((int(bias), penalized.shape[1]), bool), ~penalized])
    direction, infinite, strict = np.zeros(free.shape), np.zeros(free.shape, bool), np.zeros(len(row), bool)
    if strictable.any():
        design = np.concatenate([np.ones((len(rows), int(bias))), x[rows]], axis=1)
        frames = {mask.tobytes(): _orthonormal(design, mask) for mask in free.T}  # one, but where l2 differs by class
        bases, backs, noises = zip(*(frames[mask.tobytes()] for mask in free.T), strict=True)
        cone = np.concatenate([c[:, None] * q[row] for c, q in zip(coefficients.T, bases, strict=True)], axis=1)
        strict[strictable], u, span = _solve(cone[strictable], cone[~strictable], max(noises))
        ends = np.cumsum([q.shape[1] for q in bases])[:-1]
        for j, (back, point, part) in enumerate(zip(backs, np.split(u, ends), np.split(span, ends), strict=True)):
            largest = np.linalg.norm(back, axis=1)  # that the coefficient can be for a unit vector
            infinite[:, j] = strict.any() & (np.linalg.norm(back @ part, axis=1) > max(_ZERO, *noises) * largest)
            direction[:, j] = back @ point
    separated = np.zeros(n, bool)
    if strict.any():
        if bias and strict.all() and np.all(coefficients == coefficients[:1]):
            direction[0], direction[1:] = coefficients[0], 0  # one class: the bias alone is a certificate, and plain
        direction = np.where(infinite, direction, 0) / np.abs(direction).max()
        separated[rows] = True
        separated[rows[row[~strict]]] = False

    def params(value: Any) -> Dense:
        value = value if family.n_outputs else value[:, 0]
        return Dense(value[1:], value[0]) if bias else Dense(value, None)

    found = Separation(bool(strict.any()), params(infinite), separated, params(direction), "")
    return found._replace(sentence=_sentence(family, y[used], found))


def _free_sides(model: Model, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each row's loss never rises as eta goes to +infinity, and to -infinity: two (n, k) arrays.

    A loss or slope that is not finite at the first probe says no (an overflow, or outside the link's domain); farther
    out only a slope that rises does, since rounding may spoil a flat one there.
    """
    y, index = np.unique(y, axis=0, return_inverse=True)  # few, mostly
    index = index.reshape(-1)  # NumPy 2.0 gave it an axis more
    with jax.enable_x64(True):
        family = in_dtype(model, np.float64).family
        slope_of, target = jax.vmap(jax.value_and_grad(family.nll)), jnp.asarray(y, np.float64)
        shape = (len(y), family.n_outputs) if family.n_outputs else (len(y),)
        sides = []
        for sign in (1.0, -1.0):
            free = np.ones((len(y), family.n_outputs or 1), bool)
            for i, probe in enumerate(_PROBES):
                nll, slope = slope_of(jnp.full(shape, sign * probe), target)
                slope = sign * np.asarray(slope).reshape(free.shape)
                usable = np.isfinite(np.asarray(nll))[:, None] & np.isfinite(slope)
                free &= ~(slope > 0) & (usable if i == 0 else True)
            sides.append(free[index])
    return sides[0], sides[1]


def _constraints(model: Model, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """The cone as `coefficients[m] @ eta[row[m]] >= 0` where strictable, `= 0` where not: (m,), (m, k), (m,)."""
    family = model.family
    if family.n_classes:
        label = y.astype(int)
        row, other = np.nonzero(np.arange(family.n_classes)[None] != label[:, None])
        logit = np.eye(family.n_classes)
        if family.reference is not None:
            logit = np.delete(logit, family.reference, axis=1)  # its eta stays 0
        return row, logit[label[row]] - logit[other], np.ones(len(row), bool)
    up, down = _free_sides(model, y)
    row, output = np.nonzero(~(up & down))
    sign = up[row, output].astype(float) - down[row, output]
    return row, np.eye(up.shape[1])[output] * np.where(sign == 0, 1, sign)[:, None], sign != 0


def _penalized(l2: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Whether each weight is penalized, (d, k)."""
    l2 = np.asarray(l2, np.float64)
    check_finite(l2, "l2", remedy="give 0 or more")
    if np.any(l2 < 0):
        raise ValueError(f"l2 must be 0 or more, got {l2}")
    return np.broadcast_to(l2, shape).reshape(-1, shape[1] if len(shape) > 1 else 1) > 0


def _orthonormal(design: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """An orthonormal basis q (n, r) of the chosen columns, the map (p, r) from its coordinates to the parameters (0 for
    columns left out or aliased), and the rounding that q carries.

    Gram-Schmidt in order, twice over: with the bias first this centers, and unlike Householder's reflections it does
    not let a large row spoil the digits of a small one.
    """
    from scipy.linalg import solve_triangular

    n, p = design.shape
    q, left, kept = np.zeros((n, min(n, p))), 1.0, list[int]()
    scale = np.linalg.norm(design, axis=0)
    for j in np.flatnonzero(mask & (scale > 0)).tolist():
        column = design[:, j] / scale[j]
        for _ in range(2):
            column = column - q[:, : len(kept)] @ (q[:, : len(kept)].T @ column)
        size = float(np.linalg.norm(column))
        if size > _ALIASED and len(kept) < q.shape[1]:
            q[:, len(kept)] = column / size
            kept.append(j)
            left = min(left, size)
    q = q[:, : len(kept)]
    r = np.triu(q.T @ (design[:, kept] / scale[kept]))
    back = np.zeros((p, len(kept)))
    back[kept] = solve_triangular(r, np.eye(len(kept))) / scale[kept][:, None]
    return q, back, 100 * float(np.finfo(np.float64).eps) / left


def _null_space(rows: np.ndarray, tolerance: float, *, complement: bool = False) -> np.ndarray:
    """Orthonormal basis (p, q) of what the rows do not see, or of its complement."""
    p = rows.shape[1]
    values, basis = np.linalg.svd(np.linalg.qr(rows, mode="r"))[1:] if rows.size else (np.zeros(0), np.eye(p))
    rank = int(np.sum(values > tolerance))
    return (basis[:rank] if complement else basis[rank:]).T


def _solve(inequalities: np.ndarray, equalities: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which inequalities can be strict, a u strict in all of them, and a basis (p, q) of the span of the cone.

    Some of the rows go first: what cannot be strict among them is 0 on the cone of all rows, which is smaller. Where
    there is no separation they mostly leave nothing to decide, and a program of all rows would be slow.
    """
    tolerance = max(_ZERO, noise)
    basis = _null_space(equalities, tolerance)
    # Directions that move nothing (K logits: a shift of all). Singular values are 0 or of order 1, q being orthonormal.
    basis = basis @ _null_space(inequalities @ basis, max(1e-6, tolerance), complement=True)
    m, p = inequalities.shape
    mixed = np.random.default_rng(0).permutation(m)
    full = np.linalg.norm(inequalities, axis=1)
    for count in [c for c in (200 + 10 * p) * 8 ** np.arange(9) if c < m] + [m]:
        some = mixed[:count]
        a = inequalities[some] @ basis
        # Unit rows: a positive factor changes no inequality. One that is 0 on this subspace is rounding, and must not
        # be scaled up to a constraint.
        size = np.linalg.norm(a, axis=1)
        moves = size > tolerance * full[some]
        a = a[moves] / size[moves][:, None]
        held, z = _strict(a, tolerance)
        reduced = _null_space(a[~held], tolerance)
        basis, z = basis @ reduced, reduced.T @ z
    strict = np.zeros(m, bool)
    strict[some[moves]] = held  # the last ones were all rows
    return strict, basis @ z, basis


def _strict(a: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of `a @ z >= 0` can be strict, and a z that is strict in them and exactly 0 in the others."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_array, eye_array, hstack

    m, p = a.shape
    if a.size == 0:
        return np.zeros(m, bool), np.zeros(p)
    cost, slacks = np.repeat([0, -1], [p, m]), hstack([csr_array(-a), eye_array(m)], format="csr")
    bounds = [(None, None)] * p + [(0, 1)] * m
    for allowed in (1e-10, 1e-7):  # tight first: what it allows shows up in z over the smallest overlap
        options = {f"{side}_feasibility_tolerance": allowed for side in ("primal", "dual")}
        result = linprog(cost, A_ub=slacks, b_ub=np.zeros(m), bounds=bounds, method="highs", options=options)
        if result.status == 0:
            break
    else:
        raise RuntimeError(f"the linear program, which has a solution, was not solved: {result.message}")
    strict, z = result.x[p:] > 0.5, result.x[:p]
    # Its word is good to its tolerance. What is left of z where the other rows are 0 must be strict by itself.
    while strict.any():
        basis = _null_space(a[~strict], tolerance)
        z = basis @ (basis.T @ z)
        holds = a @ z > tolerance * np.linalg.norm(z)
        if np.all(holds[strict]):
            break
        strict &= holds
    return strict, z if strict.any() else np.zeros(p)


def _sentence(family: Family, y: np.ndarray, found: Separation) -> str:
    """What was found, the usual cause and the remedy, in words; y of the rows that count."""
    if not found.separated:
        return "not separated: the maximum-likelihood estimate exists"
    b = found.direction.b
    if b is not None and family.n_classes:
        present = np.bincount(y.astype(int), minlength=family.n_classes) > 0
        if present.sum() == 1:
            return f"y has one class ({int(y[0])}): the biases go to infinity; add the other classes"
        if not present.all():
            absent = ", ".join(map(str, np.flatnonzero(~present)))
            return f"y has no rows of class {absent}: its estimated probability is 0; add rows of it or drop the class"
    elif b is not None and np.ndim(b) == 0 and b and not np.any(found.direction.w):
        end = f"the bias goes to {'+' if b > 0 else '-'}infinity"
        if y.ndim == 1 and np.all(y == 0) and np.all(family.support(np.array([2.0]))):
            return f"all counts are 0: the rate's estimate is 0, {end}"
        if y.ndim == 2 or np.all(y == y[0]):  # of (n, 2): successes and failures
            return f"y has one class ({int(b > 0)}): {end}; add the other class"
    which = [f"row {i}" for i in np.flatnonzero(found.rows)]
    flags = [(name, part) for name, part in zip("wb", found.infinite, strict=True) if part is not None]
    names = [f"{name}{place or ''}" for name, part in flags for place in np.argwhere(part).tolist()]
    some, coefficients = (", ".join(words[:6]) + ", ..." * (len(words) > 6) for words in (which, names))
    return (
        f"{len(which)} of {len(found.rows)} rows are separated{f' ({some})' if which else ''}, and there is no finite "
        f"estimate of {coefficients}: the loss falls for ever on the way to infinity; drop those rows or columns, add "
        "data that overlap, or use l2 > 0"
    )
