"""`fit`: picks a solver by the model, the penalty and the shape."""

from typing import Any

from jax import Array

from .data import Data
from .inputs import check_key
from .lbfgs import fit_lbfgs
from .models import Model, check_problem, init
from .newton import fit_newton
from .predictors import Linear
from .proximal import fit_elastic_net
from .results import Fit

NEWTON = 1000  # coefficients up to which the information matrix is the quicker way


def fit(
    model: Model,
    data: Data,
    *,
    key: Array | None = None,
    params: Any = None,
    l1: float | Array | None = None,
    l2: float | Array = 0.0,
    tol: float | None = None,
    max_steps: int = 500,
) -> Fit:
    """Fit a model on all rows, by the solver that suits it.

    - With `l1`: `fit_elastic_net`.
    - A linear model of up to 1,000 coefficients (columns and bias, times outputs), or one whose alpha is to be
      estimated: `fit_newton`.
    - A wider linear model: `fit_lbfgs`.
    - Hidden layers: `fit_lbfgs`, from `params`, or from parameters drawn by `key`. For minibatches use `fit_sgd`.

    The choice is made from shapes and from which arguments are given, never from values, so it is the same under `jit`
    and `vmap`. Each solver's docstring says what it guarantees; options that only one has (bounds, memory, ...) want it
    called by name.

    Args:
        model: from `glm` or `mlp`.
        data: from `make_data`.
        key: a JAX random key, for the start of a model with hidden layers; linear models need none.
        params: where to start.
        l1: lasso penalty, 0 or more, one number or broadcast to w; None for none. Linear models only.
        l2: ridge penalty, 0 or more, one number or, for linear models, broadcast to w.
        tol: the solver's tolerance; None is its default.
        max_steps: steps at most.

    Returns:
        `Fit`.

    Raises:
        ValueError: hidden layers with neither `params` nor `key`, or with `l1`; what the solver raises.
    """
    check_problem(model, data)
    check_key(key)
    if l1 is not None:
        return fit_elastic_net(model, data, l1=l1, l2=l2, params=params, tol=tol, max_steps=max_steps)
    if isinstance(model.predictor, Linear):
        size = (data.x.shape[1] + model.predictor.bias) * (model.family.n_outputs or 1)
        if size <= NEWTON or model.family.estimates_alpha:
            return fit_newton(model, data, params=params, l2=l2, tol=tol, max_steps=max_steps)
    elif params is None:
        if key is None:
            raise ValueError("a model with hidden layers starts from random parameters: pass key=jax.random.key(0)")
        params = init(model, key, data.x.shape[1], dtype=data.x.dtype)
    return fit_lbfgs(model, data, params=params, l2=l2, tol=tol, max_steps=max_steps)
