"""Every family with every link it has: targets, and linear predictors that reach into both tails."""

from typing import NamedTuple

import oracle
from oracle import D

import glmjax as gj

# Numbers that float32 has, so that one truth serves both precisions.
REAL = [-1024.0, -50.0, -1.0, -(2.0**-16), 2.0**-16, 0.5, 1.0, 3.0, 1e6]
POSITIVE = [2.0**-40, 2.0**-16, 0.015625, 0.3125, 1.0, 1.5, 7.0, 300.0, 1e6, 2.0**40]
LOG = [-80.0, -40.0, -9.0, -1.5, -0.3125, -(2.0**-10), 0.0, 2.0**-10, 0.25, 1.0, 2.0, 9.0, 40.0, 80.0]
UNIT = [2.0**-66, 2.0**-20, 0.0078125, 0.3125, 0.40625, 0.5, 0.75, 0.96875, 1 - 2.0**-20]
BELOW = [-80.0, -20.0, -3.0, -0.9375, -0.703125, -0.6875, -0.125, -(2.0**-10), -(2.0**-40)]
LOGIT = [-80.0, -40.0, -9.0, -1.0, -0.3125, -(2.0**-26), 0.0, 0.25, 1.0, 4.0, 12.0, 40.0, 80.0]
PROBIT = [-30.0, -12.0, -5.0078125, -5.0, -4.9921875, -2.0, -0.3125, 0.0, 0.25, 1.0, 4.0, 8.0, 12.0]
CLOGLOG = [-80.0, -30.0, -9.0, -1.0, -(2.0**-20), 0.0, 0.015625, 0.25, 1.0, 2.0, 3.0, 3.6875]
PROPORTIONS = {"logit": LOGIT, "probit": PROBIT, "cloglog": CLOGLOG, "log": BELOW, "identity": UNIT}
ROOTS = [2.0**-20, *POSITIVE[1:-1], 2.0**20]
MEANS = {"log": LOG, "identity": POSITIVE, "sqrt": ROOTS, "inverse": POSITIVE, "inverse_squared": POSITIVE}

COUNTS = [0.0, 1.0, 3.0, 40.0, 1000.0]
SIZES = [2.0**-20, 0.125, 1.0, 3.0, 8192.0]
ALPHAS = [0.5, 2.0**-20, 64.0]
POWERS = [1.5, 0.0, 1.0, 1.0625, 2.0, 3.0]


class Case(NamedTuple):
    """A family at one link, with its numbers' values to try."""

    family: gj.Family
    etas: list
    targets: list
    leaf: str | None = None
    numbers: tuple = (None,)

    def row(self, number) -> oracle.Row:
        numbers = {} if number is None else {self.leaf: D(number)}
        return getattr(oracle, self.family.name)(self.family.link, **numbers)

    def points(self, number):
        """(eta, y) of every combination; targets of 0 need a power below 2."""
        targets = [y for y in self.targets if not (self.leaf == "power" and number >= 2 and y == 0)]
        return [(eta, y) for eta in self.etas for y in targets]


def _cases():
    for link, etas in {"identity": REAL, "log": LOG, "inverse": REAL}.items():
        yield Case(gj.normal(link=link), etas, [-2.0, 0.0, 1.0, 1e5])
    for link, etas in PROPORTIONS.items():
        yield Case(gj.bernoulli(link), etas, [0.0, 1.0, 0.25])
        yield Case(gj.binomial(link), etas, [(0.0, 3.0), (5.0, 0.0), (2.0, 7.0), (1e6, 1.0)])
    for link in ("log", "identity", "sqrt"):
        yield Case(gj.poisson(link), MEANS[link], [*COUNTS, 2.5])
        yield Case(gj.negative_binomial(1.0, link), MEANS[link], COUNTS, "alpha", tuple(ALPHAS))
    yield Case(gj.negative_binomial1(1.0), LOG[1:-1], COUNTS[:-1], "alpha", tuple(ALPHAS))
    for link in ("log", "inverse", "identity"):
        yield Case(gj.gamma(link), MEANS[link], SIZES)
    for link in ("log", "inverse_squared", "inverse", "identity"):
        yield Case(gj.inverse_gaussian(link), MEANS[link], SIZES)
    for link in MEANS:
        yield Case(gj.tweedie(1.5, link), MEANS[link], [0.0, *SIZES], "power", tuple(POWERS))


CASES = {f"{case.family.name}-{case.family.link}": case for case in _cases()}
