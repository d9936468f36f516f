"""What a fit is: its answer, how it ended, and `check`, which raises if it ended badly."""

import warnings
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from jax import Array

RUNNING = -1  # of a lane that has not ended: in the states of solvers, never in a `Fit`


class Status(IntEnum):
    """How a fit ended, an int32 a lane; `sentence` says what happened, the usual cause and the knob to turn."""

    COMPLETED = 0
    STOPPED_EARLY = 1
    NONFINITE = 2
    INVALID_TARGET = 3
    INVALID_INPUT = 4
    CONVERGED = 5
    MAX_STEPS = 6
    SEPARATED = 7
    RANK_DEFICIENT = 8
    BOUNDARY = 9

    @property
    def ok(self) -> bool:
        """Whether this is an end that `check` lets pass without a word."""
        return self in (Status.COMPLETED, Status.STOPPED_EARLY, Status.CONVERGED)

    @property
    def usable(self) -> bool:
        """Whether predictions are right all the same; `check` then warns where it else raises."""
        return self.ok or self in (Status.RANK_DEFICIENT, Status.BOUNDARY)

    @property
    def sentence(self) -> str:
        """What happened, the usual cause, and which knob to turn."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.COMPLETED: "all epochs asked for were run",
    Status.STOPPED_EARLY: "the watched loss did not improve for `patience` epochs; the best parameters are kept",
    Status.NONFINITE: "the loss or a parameter became infinite or NaN; usually the learning rate is too large (lower "
    "learning_rate) or the features are on very different scales (standardize x)",
    Status.INVALID_TARGET: "a target, of the data or of the validation data, is outside the family's support; nothing "
    "was fitted; make_data(..., family=family) names the row",
    Status.INVALID_INPUT: "x or the offset is not finite, the square of an x overflows, a weight is negative or all "
    "are 0, a precision is not above 0, or a number such as learning_rate or l2 is out of range; nothing was fitted; "
    "outside of jit and vmap make_data, or the fit, names which",
    Status.CONVERGED: "the optimum was found",
    Status.MAX_STEPS: "the optimum was not reached in max_steps; see fit.optimality for what is left of the gradient; "
    "raise max_steps, give better params to start from, or add l2",
    Status.SEPARATED: "there is no maximum-likelihood estimate: some rows are fitted perfectly in the limit, "
    "and the coefficients marked in fit.infinite go to infinity (the others are right); usual causes are a feature "
    "that predicts a class, a class or group without events, or one class only; use fit_firth, whose "
    "coefficients are finite, add l2 (which leaves the bias free), drop the marked features, or add data; "
    "check_separation(model, data) names the cause and the rows",
    Status.RANK_DEFICIENT: "some columns of x are combinations of columns before them (or of the bias), or there are "
    "fewer rows than columns: the coefficients marked in fit.aliased are set to 0; predictions are right; drop those "
    "columns or add l2",
    Status.BOUNDARY: "alpha is estimated as 0: the counts are not overdispersed, and the fit is the Poisson one; use "
    "poisson()",
}
_BIAS_ALONE = (
    "there is no maximum-likelihood estimate: the bias goes to infinity (the others are right), since y has one class, "
    "lacks a class, or has counts of 0 only; l2 leaves the bias free: use fit_firth, add rows of the missing "
    "kind, or drop the class"
)


class History(NamedTuple):
    """What SGD saw, an entry an epoch; NaN where a lane had ended, or where there was nothing to watch.

    `loss` (epochs,): the objective of the minibatches, averaged over the epoch as they were visited, so while the
    parameters moved. `watched` (epochs,): at the end of the epoch, the loss on `validation`, or with `patience` and
    no validation data the objective on the training data.
    """

    loss: Array
    watched: Array


class Fit(NamedTuple):
    """A fitted model, whichever solver found it; under `vmap` every field has the lanes first.

    `model` carries any family number that was estimated (`fit.model.family.dispersion`, `fit.model.family.alpha`).
    `loss` is the objective and `optimality` its scaled gradient, max|g| / max(1, |loss|), or KKT residual, as the last
    pass over the rows found them; Newton's last step is taken after it and only lowers both. `steps` counts parameter
    updates, `passes` reads of all rows. `status` is a `Status`.

    `rcond` is the reciprocal condition of the standardized, weighted design (1-norm): about
    `-log10(eps / rcond)` digits of the coefficients can be trusted. `aliased` and `infinite` are booleans shaped like
    `params`: coefficients that were set to 0 since their columns depend on others, and coefficients that go to
    infinity where the fit is SEPARATED. These three and `history` are None where the solver does not look at them.
    """

    model: Any
    params: Any
    loss: Array
    optimality: Array
    steps: Array
    passes: Array
    status: Array
    rcond: Array | None
    aliased: Any
    infinite: Any
    l1: Array
    l2: Array
    history: History | None


def check(fit: Fit) -> Fit:
    """Return the fit if it, or every lane of it, ended well; a host-side call.

    Warns where predictions are right but coefficients want care: RANK_DEFICIENT, BOUNDARY, ill-conditioned.

    Raises:
        RuntimeError: naming the lanes that did not end well, what happened to them and what to do.
    """
    status = np.asarray(fit.status)
    found = [s for s in Status if not s.ok and np.any(status == s)]
    failures = [_sentence(fit, s) for s in found if not s.usable]
    if failures:
        raise RuntimeError("\n".join(failures))
    for s in found:
        warnings.warn(_sentence(fit, s), stacklevel=2)
    _warn_of_condition(fit)
    return fit


def _sentence(fit: Fit, ended: Status) -> str:
    status = np.asarray(fit.status)
    if status.ndim == 0:
        found, sentence = "", ended.sentence
        if ended == Status.MAX_STEPS:
            found = f" (optimality {float(fit.optimality):.1e})"
        elif ended == Status.RANK_DEFICIENT and fit.aliased is not None:
            w, b = np.asarray(fit.aliased.w), fit.aliased.b
            dependent = [bool(np.any(row)) for row in w] + ([] if b is None else [bool(np.any(np.asarray(b)))])
            rank = f"rank {len(dependent) - sum(dependent)} of {len(dependent)}"
            found = f" ({rank}, aliased: {_names(fit.aliased)})"
        elif ended == Status.SEPARATED and fit.infinite is not None:
            found = f" (infinite: {_names(fit.infinite, fit.params)})"
            if fit.infinite.b is not None and np.any(fit.infinite.b) and not np.any(fit.infinite.w):
                sentence = _BIAS_ALONE
        return f"the fit ended {ended.name}{found}: {sentence}"
    lanes = [tuple(map(int, index)) if status.ndim > 1 else int(index[0]) for index in np.argwhere(status == ended)]
    some = ", ".join(map(str, lanes[:10])) + (", ..." if len(lanes) > 10 else "")
    return f"{len(lanes)} of {status.size} fits ended {ended.name} (lanes {some}): {ended.sentence}"


def _names(marks: Any, params: Any = None) -> str:
    """The coefficients that are marked, up to ten: "b, w[3]"; given params, with the bias they have come to."""
    texts = []
    for name, part in (("b", marks.b), ("w", marks.w)):
        for index in np.argwhere(np.asarray(part if part is not None else [])):
            value = "" if params is None or name == "w" else f" = {np.asarray(params.b)[tuple(index)]:.3g}"
            texts.append(name + (f"[{', '.join(map(str, index))}]" if len(index) else "") + value)
    return ", ".join(texts[:10]) + (", ..." if len(texts) > 10 else "")


def _warn_of_condition(fit: Fit) -> None:
    """Warn where few digits are left."""
    if fit.rcond is None:
        return
    rcond = np.asarray(fit.rcond)
    eps = np.finfo(rcond.dtype).eps
    if np.any(rcond < max(np.sqrt(eps), 1e5 * eps)):  # half the digits of float64, all but five of float32
        digits = max(0, int(-np.log10(eps / max(float(np.nanmin(rcond)), float(eps)))))
        warnings.warn(
            f"x is ill-conditioned (rcond {np.nanmin(rcond):.1e}): about {digits} digits of the coefficients are "
            "reliable; drop or combine columns that are nearly the same, add l2, or use float64",
            stacklevel=3,
        )
