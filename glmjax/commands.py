"""What the commands of the command line do: `fit`, `predict`, `summary`."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .ahead import made as made_here
from .ahead import rows
from .covariance import fisher, hc0, hc1, hc2, hc3, observed
from .designs import data_of
from .distributions import Family
from .families import categorical
from .formulas import parse
from .frames import Fitted, TermTests, coefficients, fit_made, load, save, terms_text, type2, type3
from .frames import predict as predict_frame
from .reports import summary, summary_frame
from .results import Status
from .storage import FAMILIES
from .tabular import columns_in, csv_text, read_columns, read_file, write_columns

COVARIANCES = {"fisher": fisher, "observed": observed, "hc0": hc0, "hc1": hc1, "hc2": hc2, "hc3": hc3}
_DROP = 'missing="drop"'  # as it is called in Python


def run_fit(options: argparse.Namespace, ahead: Callable[[], Any]) -> int:
    """`glmjax fit`; `ahead` is from `started`."""
    with naming(options.file), jax.enable_x64(not options.float32):
        jax.devices()  # what takes its time to start does so while the file is read
        import_module("scipy.linalg.cython_lapack")  # where JAX has LAPACK from
        made = ahead()
        if made is None:
            table = rows(options)
            family = family_of(options, table)
            made = made_here(options, table, family.name, family.n_classes)
        else:
            family = family_of(options, None)
        covariance = COVARIANCES[options.covariance]
        fitted = fit_made(made, family, options.l1, options.l2, covariance, options.level)
        tests = None
        if options.tests == "3":
            tests = type3(fitted)
        elif options.tests == "2":
            tests = type2(made.design, data_of(made, family), fitted.fit)
    if options.out:
        save(options.out, fitted)
    show(fitted, tests, options.json)
    if options.out and not options.json:
        print(f"\nsaved as {options.out}")
    return 0 if Status(int(fitted.fit.status)).ok else 1


def run_predict(options: argparse.Namespace) -> int:
    """`glmjax predict`."""
    fitted = load(options.model)
    with naming(options.file):
        table = read_file(options.file, [fitted.design.formula])
        mean = predict_frame(fitted, table, missing=options.missing)
    outputs = [str(name) for name in fitted.design.classes or ()] if mean.ndim == 2 else ["mean"]
    columns = dict(zip(outputs or map(str, range(mean.shape[1])), mean.reshape(len(mean), -1).T, strict=True))
    if options.out:
        write_columns(options.out, columns)
    if options.json:
        print(json.dumps({name: list(map(number, column.tolist())) for name, column in columns.items()}))
    elif not options.out:
        sys.stdout.write(csv_text(columns))
    return 0


def run_summary(options: argparse.Namespace) -> int:
    """`glmjax summary`."""
    fitted = load(options.model)
    show(fitted, None, options.json)
    return 0 if Status(int(fitted.fit.status)).ok else 1


def family_of(options: argparse.Namespace, table: Any) -> Family:
    """The family that the options ask for; the classes of a categorical one are those of the target in the file."""
    given = {name: value for name in ("link", "power", "alpha") if (value := getattr(options, name)) is not None}
    if options.family != "categorical":
        for name, of in (("power", ("tweedie",)), ("alpha", ("negative-binomial", "negative-binomial1"))):
            if name in given and options.family not in of:
                raise ValueError(f"--{name} is for the family {of[0]}, not for {options.family}")
        if options.reference is not None:
            raise ValueError("--reference is for the family categorical")
        if options.family == "tweedie" and "power" not in given:
            raise ValueError("the family tweedie needs --power, from 1 to 2")
        return FAMILIES[options.family.replace("-", "_")](**given)
    target = str(parse(options.formula).lhs).strip("`")
    if target not in columns_in(table):
        raise ValueError(f"the target of the family categorical must be a column, and {target!r} is none of the file")
    levels = [str(level) for level in read_columns(table, [target])[target].astype("category").cat.categories]
    if options.reference is not None and options.reference not in levels:
        raise ValueError(f"--reference {options.reference} is none of the classes {', '.join(levels)}")
    return categorical(len(levels), levels.index(options.reference) if options.reference else 0)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors on what a file holds, with its name before them."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {str(error).replace(_DROP, '--missing drop')}") from error


def show(fitted: Fitted, tests: TermTests | None, as_json: bool) -> None:
    """The fit on the standard output, as text or JSON."""
    if as_json:
        print(json.dumps(described(fitted, tests), indent=2, allow_nan=False))
        return
    design, status = fitted.design, Status(int(fitted.fit.status))
    print(design.formula + f" ({design.dropped} rows left out, which miss a value)" * (design.dropped > 0))
    if fitted.table is not None:
        print(summary(fitted.table))
    else:
        print(
            f"{status.name}: {status.sentence}"
            if not status.ok
            else "without errors, which a penalized fit has none of"
        )
        wide = max(map(len, coefficients(fitted)), default=0)
        print("\n".join(["", *(f"{name:<{wide}}  {value:.5g}" for name, value in coefficients(fitted).items())]))
    if tests is not None:
        print("\n" + terms_text(tests))


def described(fitted: Fitted, tests: TermTests | None) -> dict[str, Any]:
    """The fit in what JSON can hold; what is no number is null."""
    status = Status(int(fitted.fit.status))
    whole: dict[str, Any] = {
        "formula": fitted.design.formula,
        "family": fitted.fit.model.family.name,
        "link": fitted.fit.model.family.link,
        "status": status.name,
        "message": status.sentence,
        "steps": int(fitted.fit.steps),
        "dropped": fitted.design.dropped,
    }
    if fitted.table is None:
        cells = [{"name": name, "estimate": number(value)} for name, value in coefficients(fitted).items()]
        return whole | {"coefficients": cells}
    frame = summary_frame(fitted.table)
    whole |= {name: number(value) for name, value in frame.attrs.items() if isinstance(value, float)}
    whole["coefficients"] = [
        {"name": str(name), **{column: number(value) for column, value in row.items()}}
        for name, row in frame.iterrows()
    ]
    if tests is not None:
        rows = zip(tests.names, *(np.asarray(part) for part in tests[1:]), strict=True)
        whole["terms"] = [
            {"name": name} | {field: number(value) for field, value in zip(TermTests._fields[1:], values, strict=True)}
            for name, *values in rows
        ]
    return whole


def number(value: Any) -> float | None:
    """A number for JSON, which knows no NaN and no infinity."""
    return float(value) if math.isfinite(value) else None
