"""`python -m experiments` lists the experiments; `python -m experiments NAME --help` says what one takes."""

import argparse
import importlib
import os
import sys

import jax

EXPERIMENTS = {
    "digits": "softmax regression and an MLP on handwritten digits, many seeds in one compiled program",
    "benchmark": "time glmjax against its peers: benchmark seeds",
}


def use_all_cores() -> None:
    """Make every CPU core a JAX device, so that lanes can be spread over them; harmless where there is a GPU."""
    chosen = "JAX_NUM_CPU_DEVICES" in os.environ or "device_count" in os.environ.get("XLA_FLAGS", "")
    if not chosen:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        jax.config.update("jax_num_cpu_devices", cores)


def main(arguments: list[str]) -> int:
    """Run the experiment that the first argument names; the exit status."""
    listing = "\n".join(f"  {name:<12} {line}" for name, line in EXPERIMENTS.items())
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: python -m experiments NAME [--help] [options]\n\nexperiments:\n{listing}")
        return 0
    name, *rest = arguments
    if name not in EXPERIMENTS:
        print(f"unknown experiment {name!r}; there are:\n{listing}", file=sys.stderr)
        return 2
    try:
        module = importlib.import_module(f"experiments.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("experiments", "glmjax")):
            raise
        print(f"{error}; the experiments need their extra: pip install 'glmjax[experiments]'", file=sys.stderr)
        return 2
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments {name}",
        description=module.__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    module.add_arguments(parser)
    options = parser.parse_args(rest)
    use_all_cores()
    return module.run(options) or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
