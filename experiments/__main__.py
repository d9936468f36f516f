"""`python -m experiments` lists the experiments; `python -m experiments NAME --help` says what one takes."""

import argparse
import importlib
import os
import sys

import jax

CLAIMS = {  # in the lecture's order; each is a file that measures claims, see claims.py
    "glm-table": "the four rows of the GLM table recover what drew their data, with one gradient for all",
    "mse-is-mle": "least squares is maximum likelihood under normal noise",
    "softmax-shift": "softmax does not see a constant added to all logits",
    "convex-regions": "the decision regions of softmax regression are convex, an MLP's are not",
    "poisson-limit": "Poisson is the limit of many rare chances",
    "poisson-regression": "real counts want Poisson regression, with exposure as an offset",
    "hidden-activations": "what hidden layers do, by activation, initialization, depth and width",
    "universal-approximation-relu": "one hidden layer of ReLUs comes as near to f as you like",
    "universal-approximation-squash": "so does one of sigmoids, also in two dimensions",
    "backprop-by-hand": "the chain of derivatives of an MLP, line by line, against autodiff",
}
OTHERS = {
    "digits": "softmax regression and an MLP on handwritten digits, many seeds in one compiled program",
    "claim-frequency": "678,013 motor policies: Poisson frequency with exposure, as rate ratios",
    "genes": "914 genes: a negative binomial regression each, its overdispersion estimated",
    "neurons": "50 trials of a neuron: a Poisson regression on its own history each, some without an estimate",
    "insurance": "242 segments of motor policies: a Poisson regression each, alone and partly pooled",
    "inference": "whether 95 % intervals cover and p-values are uniform: 10,000 data sets a family, one batch each",
    "tune-penalties": "50 ridge penalties of a logistic regression, tuned by the gradient through its fit",
    "file-faults": "files of models and of runs under kill -9 and damage: nothing is lost, nothing broken is believed",
    "streaming": "rows beyond memory, from .npy and Parquet: rows a second with and without a model, and peak memory",
    "scaling": "1e5 to 1e8 rows from disk, rows over 1 to 4 devices, and the arithmetic of 64 GPUs",
    "distributed": "one fit over several processes: the numbers of one process, and rows a second of one and of two",
    "worker-faults": "runs over several processes under kill -9 of one: the others say so and end, nothing is lost",
    "benchmark": "time glmjax against its peers: benchmark single, many or seeds",
    "lecture": "all claims of the lecture, and a page of them to read: lecture --quick",
}


def use_all_cores() -> None:
    """Make every CPU core a JAX device, so that lanes can be spread over them; harmless where there is a GPU."""
    chosen = "JAX_NUM_CPU_DEVICES" in os.environ or "device_count" in os.environ.get("XLA_FLAGS", "")
    if not chosen:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        jax.config.update("jax_num_cpu_devices", cores)


def listing() -> str:
    """The experiments, a line each."""
    return "\n".join(f"  {name:<31} {line}" for name, line in (OTHERS | CLAIMS).items())


def main(arguments: list[str]) -> int:
    """Run the experiment that the first argument names; the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: python -m experiments NAME [--help] [options]\n\nexperiments:\n{listing()}")
        return 0
    name, *rest = arguments
    if name not in CLAIMS | OTHERS:
        print(f"unknown experiment {name!r}; there are:\n{listing()}", file=sys.stderr)
        return 2
    try:
        module = importlib.import_module(f"experiments.{name.replace('-', '_')}")
        from . import claims
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
    if name in CLAIMS:
        claims.add_arguments(parser, name)
    else:
        module.add_arguments(parser)
    options = parser.parse_args(rest)
    use_all_cores()
    return claims.run(module, name, options) if name in CLAIMS else module.run(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
