"""Models of data frames by formulas: `frames.fit("claims ~ age + C(region)", frame, gj.poisson(), exposure="years")`.

What is behind are the functions of arrays: `read` makes a frame `Data`, and says in a `Design` how; what is fitted to
them is an ordinary `Fit`. A `Fitted` holds none of the frame's rows, and goes to a file as it is.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from .auto import fit as fit_data
from .covariance import clustered, fisher
from .data import Data, check_family
from .designs import Design, Made, data_of, made_of, read, rows_of
from .distributions import Family
from .formulas import Term, parse
from .hypotheses import likelihood_ratio, wald_each
from .inferences import DETERMINED, Inference, Names, inference
from .influence import as_vector
from .linear import free_shift
from .models import Model, glm
from .models import predict as predict_rows
from .optima import Optimum
from .reports import aligned, in_digits
from .resampling import outcome
from .results import Fit, Status
from .storage import load as load_file
from .storage import save as save_file

__all__ = ["Design", "Fitted", "Term", "TermTests", "fit", "load", "named", "predict", "read", "save", "type2", "type3"]


class Fitted(NamedTuple):
    """A model of a frame: its `design`, its `fit`, and the `table` of errors and tests, None where there is none."""

    design: Design
    fit: Fit
    table: Inference | None


class TermTests(NamedTuple):
    """A test of each term as a whole: `names`, and `statistic`, `df`, `df_resid`, `p_value`, (m,), as of `wald`."""

    names: Names
    statistic: Array
    df: Array
    df_resid: Array
    p_value: Array


def fit(
    formula: str,
    frame: Any,
    family: Family,
    *,
    weight: str | Any = None,
    precision: str | Any = None,
    exposure: str | None = None,
    missing: str = "raise",
    l1: float | None = None,
    l2: float = 0.0,
    covariance: Callable[[Optimum], Array] = fisher,
    cluster: str | Any = None,
    level: float = 0.95,
    dtype: DTypeLike = np.float64,
) -> Fitted:
    """Fit a generalized linear model to a data frame by a formula, with its table of errors and tests.

        fitted = frames.fit("claims ~ age + C(region)", frame, gj.poisson(), exposure="years")
        print(gj.summary(fitted.table))

    is R's `glm(claims ~ age + factor(region) + offset(log(years)), family = poisson)`. Whatever JAX runs in, this door
    computes in float64, and leaves JAX as it is.

    Args:
        formula: target and terms, as R and statsmodels write them: `a + b`, `a:b`, `a*b`, `(a + b)**2`, `- 1` for no
            intercept, `.` for all other columns; `C(a)` for numbers that are categories, `C(a, contr.treatment("x"))`
            for the level of reference, `contr.sum`, `contr.helmert`, `contr.poly`; `offset(a)`; `log`, `exp`, `np.sqrt`
            and other elementwise functions of NumPy, `center`, `scale`, `poly`, `bs`, `I(a / b)`; odd names in
            backticks. Columns of text are categories, their levels sorted, the first for reference. The target of a
            binomial model is `cbind(successes, failures)`. One of text is for Bernoulli, whose event is the second
            level, or categorical, with its levels for classes.
        frame: pandas, polars or Arrow, or a dict of columns. Messages count its rows from 0.
        family: as `glm` takes it.
        weight: copies of each row: the name of a column, or (n,).
        precision: R's prior weights, likewise.
        exposure: the name of a column; its logarithm is an offset.
        missing: "raise", or "drop" to leave out rows that miss a value in a column that is used; `design.dropped`
            counts them, and other messages count the rows that are left.
        l1, l2: penalties, as `gj.fit` takes them.
        covariance, level: as `inference` takes them.
        cluster: instead of a covariance the name of a column, or (n,): rows with the same value depend on each other,
            and the errors are those of `clustered`.
        dtype: float32 asks for that, 5 to 6 digits.

    Returns:
        `Fitted`; without a `table` for fits with `l1` or K logits, which have no errors, and those without an answer,
        of which `gj.check(fitted.fit)` tells.

    Raises:
        ValueError: a formula that cannot be read, a column that is not there, missing values, and what `make_data`
            raises.
        TypeError: a column of dates, of mixed types, or of numbers but for a few entries of text.
        ImportError: formulaic is not installed.

    Reference: Wilkinson and Rogers, Applied Statistics 22 (1973).
    """
    beside = {"weight": weight, "precision": precision, "cluster": cluster}
    with _computing_in(dtype):
        check_family(family)
        made = made_of(formula, frame, family.name, family.n_classes, exposure, missing, beside)
        return fit_made(made, family, l1, l2, covariance, level)


def fit_made(
    made: Made, family: Family, l1: float | None, l2: float, covariance: Callable[[Optimum], Array], level: float
) -> Fitted:
    """Fit to what `made_of` has made of a frame, in the float that JAX runs in; the rest is as `fit` takes it."""
    design, data = made.design, data_of(made, family)
    if made.beside["cluster"] is not None:
        if covariance is not fisher:
            raise ValueError("give covariance or cluster, not both")
        covariance = clustered(made.beside["cluster"])
    model = glm(family, bias=design.bias)
    found = fit_data(model, data, l1=l1, l2=l2)
    table = None
    if l1 is None and Status(int(found.status)) in DETERMINED and not free_shift(model):
        table = named(design, inference(data, found, covariance=covariance, level=level))
    return Fitted(design, found, table)


def _computing_in(dtype: DTypeLike) -> Any:
    """A context in which JAX runs in float64, or in float32."""
    if np.dtype(dtype) not in (np.float64, np.float32):
        raise ValueError(f"dtype must be float64 or float32, got {np.dtype(dtype)}")
    return jax.enable_x64(np.dtype(dtype) == np.float64)


def named(design: Design, table: Inference) -> Inference:
    """The table of a fit to what `read` has made, with the names of the formula's columns for its coefficients."""
    return table._replace(names=coefficient_names(design, table.model))


def coefficient_names(design: Design, model: Model) -> Names:
    """The names of the coefficients: of columns, of a categorical target "class: column"."""
    names, family = ["Intercept"] * design.bias + list(design.columns), model.family
    if family.n_outputs is not None:
        outputs = [str(k) for k in range(family.n_outputs)]
        if family.n_classes is not None:
            classes = design.classes or range(family.n_classes)
            outputs = [str(c) for k, c in enumerate(classes) if k != family.reference]
        names = [f"{output}: {name}" for output in outputs for name in names]
    return Names(names + ["alpha"] * family.estimates_alpha)


def predict(fitted: Fitted, frame: Any, *, missing: str = "raise") -> np.ndarray:
    """Means of the target for the rows of another frame: (n,), or (n, k), of a categorical target a column a class.

    Args:
        fitted: from `fit` or `load`.
        frame: with the columns of the right side; without those of the offset it is 0, with a warning.
        missing: "raise", or "drop", which leaves rows that miss a value NaN.

    Raises:
        ValueError: a column that is not there, a level that was not fitted, missing values.
        TypeError: a column of another kind than in the fit.
    """
    x, offset, kept = rows_of(fitted.design, frame, missing)
    with _computing_in(fitted.fit.loss.dtype):
        mean = np.asarray(predict_rows(fitted.fit.model, fitted.fit.params, x, offset))
    whole = np.full((len(kept), *mean.shape[1:]), np.nan, mean.dtype)
    whole[kept] = mean
    return whole


def type3(fitted: Fitted) -> TermTests:
    """Wald's test of each term, all others in the model: Type III, as statsmodels' `wald_test_terms`.

    By the table's covariance, so robust where that is. Where a term is in an interaction its test depends on the
    contrasts: `contr.sum` then, for what is known as Type III. Aliased coefficients are left out.

    Raises:
        ValueError: a fit without a table.
    """
    design, table = fitted.design, fitted.table
    if table is None:
        raise ValueError("the fit has no table of errors, and so no tests; see gj.check(fitted.fit)")
    q, outputs = len(design.columns) + design.bias, table.model.family.n_outputs or 1
    asked = np.zeros((len(design.terms), len(table.names)), bool)
    for i, term in enumerate(design.terms):
        asked[i, [k * q + design.bias + place for k in range(outputs) for place in term.columns]] = True
    with _computing_in(table.estimate.dtype):
        tests = wald_each(table, jnp.asarray(asked & np.isfinite(np.asarray(table.std_error))))
    return TermTests(_names(design), *(getattr(tests, field) for field in TermTests._fields[1:]))


def type2(design: Design, data: Data, fit: Fit) -> TermTests:
    """The likelihood-ratio test of each term among all that do not contain it: Type II, as R's `car::Anova`.

    `a` is tested in a model without `a:b`, and does not depend on the contrasts. Each model that it takes is fitted.

    Args:
        design, data: from `read`.
        fit: of the model of all terms, without a penalty.

    Raises:
        ValueError: a penalized fit, and what `inference` raises.
    """
    if np.any(np.asarray(fit.l2) != 0):
        raise ValueError(f"the fit has a penalty, l2={fit.l2}, and a likelihood ratio compares fits without; use type3")
    with _computing_in(data.x.dtype):
        return _type2(design, data, fit)


def _type2(design: Design, data: Data, fit: Fit) -> TermTests:
    full = inference(data, fit)
    known = {str(term): {factor.expr for factor in term.factors} for term in parse(design.formula).rhs}
    factors = [known[term.name] for term in design.terms]

    def without(left_out: list[Term]) -> Inference:
        # Columns of zeros are aliased: every model is of one shape, and compiled once.
        places = [c for term in left_out for c in term.columns]
        rest = data._replace(x=data.x.at[:, np.array(places, int)].set(0)) if places else data
        return inference(rest, fit_data(fit.model, rest))

    if not design.terms:
        return TermTests(Names(()), *(jnp.zeros(0, data.x.dtype) for _ in TermTests._fields[1:]))
    tests = []
    for term, mine in zip(design.terms, factors, strict=True):
        wider = [other for other, its in zip(design.terms, factors, strict=True) if mine < its]
        all_but = without(wider) if wider else full
        tests.append(
            likelihood_ratio(all_but._replace(dispersion=full.dispersion, df=full.df), without([*wider, term]))
        )
    columns = jax.tree.map(lambda *parts: jnp.stack(parts), *tests)
    return TermTests(_names(design), *(getattr(columns, field) for field in TermTests._fields[1:]))


def terms_text(tests: TermTests) -> str:
    """The tests of terms as text, a line a term."""
    known = bool(np.all(np.isinf(tests.df_resid)))
    rows = [["", "chi2" if known else "F", "df", *([] if known else ["df resid"]), "p"]]
    for name, statistic, df, rest, p in zip(tests.names, *map(np.asarray, tests[1:]), strict=True):
        rows.append(
            [name, in_digits(statistic), in_digits(df), *([] if known else [in_digits(rest)]), in_digits(p, p=True)]
        )
    return "\n".join(aligned(rows, labels=1))


def coefficients(fitted: Fitted) -> dict[str, float]:
    """The coefficients by name; for fits without a table too."""
    with _computing_in(fitted.fit.loss.dtype):
        values = np.asarray(as_vector(outcome(fitted.fit)))
    names = coefficient_names(fitted.design, fitted.fit.model)
    return dict(zip(names, values.tolist(), strict=False))


def _names(design: Design) -> Names:
    return Names(term.name for term in design.terms)


def save(path: str | os.PathLike, fitted: Fitted) -> Path:
    """Write a fitted model of a frame to one file, by `gj.save`, with its formula, its levels and its table.

    Raises:
        ValueError, TypeError, OSError: as `gj.save`.
    """
    notes = {"design": fitted.design._asdict()}
    return save_file(path, fitted.fit.model, fitted.fit, notes=notes, table=fitted.table)


def load(path: str | os.PathLike) -> Fitted:
    """Read what `save` has written.

    Raises:
        ValueError: naming the file: as `gj.load`; a model of arrays, which has no formula.
        FileNotFoundError: there is none.
    """
    with jax.enable_x64(True):  # what is float32 stays so
        saved = load_file(path)
    found = saved.notes.get("design") if isinstance(saved.notes, dict) else None
    if not isinstance(found, dict) or set(found) != set(Design._fields):
        raise ValueError(f"{os.fspath(path)} holds a model of arrays, without a formula; read it with gj.load(path)")
    design = Design(**found)
    return Fitted(
        design._replace(
            columns=tuple(design.columns),
            terms=tuple(Term(name, tuple(places)) for name, places in design.terms),
            classes=None if design.classes is None else tuple(design.classes),
        ),
        saved.fit,
        saved.table,
    )
