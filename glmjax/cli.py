"""The command line: `glmjax fit data.parquet "y ~ a + C(b)" --family poisson --exposure e --out model.gj`.

Exit codes: 0, done; 1, the fit has no answer, or not for all coefficients, and the table says why; 2, bad input.
"""

import argparse
import gc
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from importlib import metadata
from pathlib import Path

from .ahead import started

# By name: the help comes without JAX.
FAMILIES = (
    *("normal", "bernoulli", "binomial", "categorical", "poisson", "negative-binomial", "negative-binomial1"),
    *("gamma", "inverse-gaussian", "tweedie", "quasi-poisson", "quasi-binomial"),
)
COVARIANCES = ("fisher", "observed", "hc0", "hc1", "hc2", "hc3")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"glmjax: {message}", file=sys.stderr)
            warnings.simplefilter("default", UserWarning)
            code = run(options)
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
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print JSON, all digits, instead of a table")
    shared.add_argument("--no-cache", action="store_true", help="compile anew, and keep nothing of it")

    fit = commands.add_parser("fit", parents=[shared], help="fit a model to a file", description=_FIT)
    fit.add_argument("file", type=Path, help="CSV (also .csv.gz, .tsv) or Parquet, with a header")
    fit.add_argument("formula", help='such as "y ~ age + C(region) + offset(log(years))"')
    fit.add_argument("--family", required=True, choices=FAMILIES, metavar="FAMILY", help=", ".join(FAMILIES))
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
    predict.add_argument("model", type=Path, help="what fit --out has saved")
    predict.add_argument("file", type=Path, help="CSV or Parquet with the columns of the formula's right side")
    predict.add_argument("--missing", choices=["raise", "drop"], default="raise", help="drop leaves such rows empty")
    predict.add_argument("--out", type=Path, metavar="FILE", help="CSV or Parquet; else CSV on the standard output")

    shown = commands.add_parser("summary", parents=[shared], help="the table of a saved model")
    shown.set_defaults(out=None)
    shown.add_argument("model", type=Path, help="what fit --out has saved")
    return whole


_FIT = "Fit a generalized linear model by a formula, and print its table. Messages count the file's rows from 0."


def run(options: argparse.Namespace) -> int:
    """Run the command that the options are of."""
    check_out(options.out)
    ahead = started(options) if options.command == "fit" else None
    alone = "jax" not in sys.modules
    if alone:  # what is imported stays, and to look through it for what is not used any more takes long
        gc.disable()
    from .caching import cache_compilation
    from .commands import run_fit, run_predict, run_summary
    from .traces import keeping_traces

    if alone:
        gc.freeze()
        gc.enable()
    with ExitStack() as stack:
        if not options.no_cache:
            with suppress(OSError):  # nowhere to keep it: it takes longer then
                stack.enter_context(keeping_traces(cache_compilation()))
        if ahead is not None:
            return run_fit(options, ahead)
        return run_predict(options) if options.command == "predict" else run_summary(options)


def check_out(path: Path | None) -> None:
    """Raise where a file could not be written, before anything is computed."""
    if path is not None and not path.parent.is_dir():
        raise ValueError(f"--out {path}: there is no folder {path.parent}")
    if path is not None and path.is_dir():
        raise ValueError(f"--out {path}: that is a folder")
