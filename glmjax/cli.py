"""The command line: `glmjax fit data.parquet "y ~ a + C(b)" --family poisson --exposure e --out model.gj`.

Exit codes: 0, done; 1, the fit has no answer, or not for all coefficients, and the table says why; 2, bad input.
"""

import argparse
import json
import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .caching import cache_compilation
from .covariance import fisher, hc0, hc1, hc2, hc3, observed
from .distributions import Family
from .families import categorical
from .formulas import parse
from .frames import Fitted, TermTests, coefficients, load, read, save, terms_text, type2, type3
from .frames import fit as fit_frame
from .frames import predict as predict_frame
from .reports import summary, summary_frame
from .results import Status
from .storage import FAMILIES
from .tabular import columns_in, csv_text, read_columns, read_file, write_columns
from .traces import keeping_traces

COVARIANCES = {"fisher": fisher, "observed": observed, "hc0": hc0, "hc1": hc1, "hc2": hc2, "hc3": hc3}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"glmjax: {message}", file=sys.stderr)
            warnings.simplefilter("default", UserWarning)
            with ExitStack() as stack:
                if not options.no_cache:
                    with suppress(OSError):  # nowhere to keep it: it takes longer then
                        stack.enter_context(keeping_traces(cache_compilation()))
                code = options.run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        text = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        print(f"glmjax: {text}", file=sys.stderr)
        return 2
    except (ValueError, TypeError, ImportError) as error:
        print(f"glmjax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("glmjax: interrupted", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    whole = argparse.ArgumentParser(
        prog="glmjax",
        description="Fit generalized linear models to files, predict by them, and print them.",
        epilog="Exit codes: 0 done, 1 the fit has no answer (the table says why), 2 bad input.",
    )
    whole.add_argument("--version", action="version", version=f"glmjax {metadata.version('glmjax')}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print JSON, all digits, instead of a table")
    shared.add_argument("--no-cache", action="store_true", help="compile anew, and keep nothing of it")

    fit = commands.add_parser("fit", parents=[shared], help="fit a model to a file", description=_FIT)
    fit.set_defaults(run=run_fit)
    fit.add_argument("file", type=Path, help="CSV (also .csv.gz, .tsv) or Parquet, with a header")
    fit.add_argument("formula", help='such as "y ~ age + C(region) + offset(log(years))"')
    families = [name.replace("_", "-") for name in FAMILIES]
    fit.add_argument("--family", required=True, choices=families, metavar="FAMILY", help=", ".join(families))
    fit.add_argument("--link", help="instead of the family's own, such as log, logit, probit, inverse, identity")
    fit.add_argument("--power", type=float, help="of tweedie, from 1 to 2")
    fit.add_argument("--alpha", type=float, help="of a negative binomial; estimated where it is not given")
    fit.add_argument("--reference", help="of categorical: the class that the others are held against; else the first")
    fit.add_argument("--exposure", metavar="COLUMN", help="its logarithm is an offset")
    fit.add_argument("--weight", metavar="COLUMN", help="copies of each row")
    fit.add_argument("--precision", metavar="COLUMN", help="R's prior weights")
    fit.add_argument("--missing", choices=["raise", "drop"], default="raise", help="rows that miss a value")
    fit.add_argument("--l1", type=float, help="lasso penalty, on the mean loss")
    fit.add_argument("--l2", type=float, default=0.0, help="ridge penalty, on the mean loss")
    errors = fit.add_mutually_exclusive_group()
    errors.add_argument("--covariance", choices=COVARIANCES, default="fisher", help="of the errors")
    errors.add_argument("--cluster", metavar="COLUMN", help="errors that hold where the rows of one value go together")
    fit.add_argument("--level", type=float, default=0.95, help="of the intervals")
    width = fit.add_mutually_exclusive_group()
    width.add_argument("--float64", action="store_true", help="compute in 64 bits, which is the default")
    width.add_argument("--float32", action="store_true", help="compute in 32 bits: 5 to 6 digits")
    fit.add_argument("--tests", choices=["2", "3"], help="also test whole terms, Type II or III")
    fit.add_argument("--out", type=Path, metavar="MODEL", help="where to save the model, by custom a name on .gj")

    predict = commands.add_parser("predict", parents=[shared], help="means for the rows of a file")
    predict.set_defaults(run=run_predict)
    predict.add_argument("model", type=Path, help="what fit --out has saved")
    predict.add_argument("file", type=Path, help="CSV or Parquet with the columns of the formula's right side")
    predict.add_argument("--missing", choices=["raise", "drop"], default="raise", help="drop leaves such rows empty")
    predict.add_argument("--out", type=Path, metavar="FILE", help="CSV or Parquet; else CSV on the standard output")

    shown = commands.add_parser("summary", parents=[shared], help="the table of a saved model")
    shown.set_defaults(run=run_summary)
    shown.add_argument("model", type=Path, help="what fit --out has saved")
    return whole


_DROP = 'missing="drop"'  # as it is called in Python
_FIT = "Fit a generalized linear model by a formula, and print its table. Messages count the file's rows from 0."


def run_fit(options: argparse.Namespace) -> int:
    """`glmjax fit`."""
    check_out(options.out)
    beside = [options.exposure, options.weight, options.precision, options.cluster]
    with naming(options.file):
        table = read_file(options.file, [options.formula, *filter(None, beside)])
        family = family_of(options, table)
        fitted = fit_frame(
            options.formula,
            table,
            family,
            weight=options.weight,
            precision=options.precision,
            exposure=options.exposure,
            missing=options.missing,
            l1=options.l1,
            l2=options.l2,
            covariance=COVARIANCES[options.covariance],
            cluster=options.cluster,
            level=options.level,
            dtype=np.float32 if options.float32 else np.float64,
        )
        tests = None
        if options.tests == "3":
            tests = type3(fitted)
        elif options.tests == "2":
            named = {name: getattr(options, name) for name in ("weight", "precision", "exposure", "missing")}
            with jax.enable_x64(not options.float32):
                design, data = read(options.formula, table, family, **named)
            tests = type2(design, data, fitted.fit)
    if options.out:
        save(options.out, fitted)
    show(fitted, tests, options.json)
    if options.out and not options.json:
        print(f"\nsaved as {options.out}")
    return 0 if Status(int(fitted.fit.status)).ok else 1


def run_predict(options: argparse.Namespace) -> int:
    """`glmjax predict`."""
    check_out(options.out)
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


def check_out(path: Path | None) -> None:
    """Raise where a file could not be written, before anything is computed."""
    if path is not None and not path.parent.is_dir():
        raise ValueError(f"--out {path}: there is no folder {path.parent}")
    if path is not None and path.is_dir():
        raise ValueError(f"--out {path}: that is a folder")


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
