"""Time glmjax against its peers, interleaved in one run.

`benchmark single` fits one GLM to many rows; `benchmark many` fits many at once; `benchmark seeds` trains many networks
on the digits.
"""

import argparse

from .benchmarks import many, seeds, single

BENCHMARKS = {"single": single, "many": many, "seeds": seeds}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A subcommand a benchmark."""
    subparsers = parser.add_subparsers(dest="benchmark", required=True, metavar="|".join(BENCHMARKS))
    for name, module in BENCHMARKS.items():
        formatter = argparse.ArgumentDefaultsHelpFormatter
        module.add_arguments(subparsers.add_parser(name, description=module.__doc__, formatter_class=formatter))


def run(options: argparse.Namespace) -> int:
    """Run the benchmark that was named."""
    return BENCHMARKS[options.benchmark].run(options)
