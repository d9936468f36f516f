"""The GLM table once more, as a textbook has it, in 130-digit decimals: what cancels still has 50 digits after it, and
derivatives are central differences. None of the library's formulas is used here.
"""

import functools
import math
from collections.abc import Callable
from decimal import MAX_EMAX, MIN_EMIN, Decimal, getcontext
from fractions import Fraction
from typing import NamedTuple

getcontext().prec = 130
getcontext().Emax, getcontext().Emin = MAX_EMAX, MIN_EMIN  # the far normal tail is exp(-10^8)
D = Decimal
STEP = D("1e-30")


@functools.cache
def log(x):
    return x.ln()


@functools.cache
def log1p(x):
    return log(1 + x) if abs(x) > D("1e-10") else sum(-((-x) ** k) / k for k in range(1, 14))


def expm1(x):
    return x.exp() - 1 if abs(x) > D("1e-10") else sum(x**k / math.factorial(k) for k in range(1, 14))


def arctan_of_inverse(n):
    return sum(D((-1) ** k) / ((2 * k + 1) * D(n) ** (2 * k + 1)) for k in range(100))


HALF_LOG_2PI = (8 * (4 * arctan_of_inverse(5) - arctan_of_inverse(239))).ln() / 2  # Machin's formula


def normal_tail(x):
    """P(Z > x), x 0 or more: by its power series, far out by its continued fraction."""
    density = (-x * x / 2 - HALF_LOG_2PI).exp()
    if x > 9:
        return density / functools.reduce(lambda fraction, k: x + k / fraction, range(400, 0, -1), x)
    total, term, k = x, x, 1
    while term > D("1e-130"):
        k += 2
        term *= x * x / k
        total += term
    return D("0.5") - density * total


@functools.cache
def stirling_coefficient(k):
    """B_2k / (2k (2k - 1))."""
    bernoulli = [Fraction(1)]
    for n in range(1, 2 * k + 1):
        bernoulli.append(-sum((math.comb(n + 1, j) * bernoulli[j] for j in range(n)), Fraction(0)) / (n + 1))
    c = bernoulli[2 * k] / (2 * k * (2 * k - 1))
    return D(c.numerator) / D(c.denominator)


def stirling_remainder(x):
    """lgamma(x) - (x - 1/2) log(x) + x - log(2 pi) / 2, x shifted to 60 and more."""
    shifts = max(0, 60 - int(x))
    z = x + shifts
    total = sum(stirling_coefficient(k) / z ** (2 * k - 1) for k in range(1, 40))
    for j in range(shifts):
        total += (x + j + D("0.5")) * log1p(1 / (x + j)) - 1
    return total


@functools.cache
def log_gamma(x):
    return (x - D("0.5")) * log(x) - x + HALF_LOG_2PI + stirling_remainder(x)


@functools.cache
def log_rising(r, y):
    """log(Gamma(y + r) / Gamma(r)) of a whole number y."""
    return functools.reduce(lambda product, j: product * (r + j), range(int(y)), D(1)).ln()


def xlogy(x, y):
    return x * log(y) if x else D(0)


@functools.cache
def power_of(m, a):
    return (a * log(m)).exp() if m else D(0)


def box_cox(a, m):
    return (power_of(m, a) - 1) / a if a else log(m)


# links ----------------------------------------------------------------------------------------------------------------


@functools.cache
def probit_pair(eta):
    tail = normal_tail(abs(eta))
    pair = log(tail), log1p(-tail)
    return pair if eta < 0 else pair[::-1]


@functools.cache
def cloglog_pair(eta):
    q = (-eta.exp()).exp()
    return (log1p(-q) if q < D("0.5") else (-expm1(-eta.exp())).ln()), -eta.exp()


_PAIRS = {  # log(p), log(1 - p)
    "logit": lambda eta: (-log1p((-eta).exp()), -log1p(eta.exp())),
    "probit": probit_pair,
    "cloglog": cloglog_pair,
    "log": lambda eta: (eta, log(-expm1(eta))),
    "identity": lambda eta: (log(eta), log1p(-eta)),
}
_MEANS = {
    "identity": lambda eta: eta,
    "log": lambda eta: eta.exp(),
    "inverse": lambda eta: 1 / eta,
    "inverse_squared": lambda eta: 1 / eta.sqrt(),
    "sqrt": lambda eta: eta * eta,
}
PAIRS, MEANS = ({name: functools.cache(f) for name, f in table.items()} for table in (_PAIRS, _MEANS))

# families -------------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A family at one link, as functions of decimals. Targets are "exact" or may be off by rounding ("real"); "whole"
    ones are as the latter, but the density knows whole numbers only.
    """

    nll: Callable
    deviance: Callable
    information: Callable
    log_density: Callable | None  # of (eta, y, dispersion)
    targets: str = "real"


def _of_mean(link, nll, deviance, variance, log_density=None, targets="real"):
    """A row from functions of the mean; the information is mean'^2 / variance."""
    mean = MEANS[link]

    def information(eta, y):
        return derivatives(mean, eta)[1] ** 2 / variance(mean(eta))

    density = log_density and (lambda eta, y, phi: log_density(mean(eta), y, phi))
    return Row(lambda eta, y: nll(mean(eta), y), lambda eta, y: deviance(mean(eta), y), information, density, targets)


def normal(link):
    return _of_mean(
        link,
        lambda m, y: (y - m) ** 2 / 2 + HALF_LOG_2PI,
        lambda m, y: (y - m) ** 2,
        lambda m: D(1),
        lambda m, y, phi: -((y - m) ** 2) / (2 * phi) - log(phi) / 2 - HALF_LOG_2PI,
    )


def binomial(link):
    def nll(eta, y):
        log_p, log_q = PAIRS[link](eta)
        return -y[0] * log_p - y[1] * log_q

    def deviance(eta, y):
        n = y[0] + y[1]
        return 2 * (nll(eta, y) + xlogy(y[0], y[0] / n) + xlogy(y[1], y[1] / n))

    def information(eta, y):  # n p'^2 / (p q)
        log_p, log_q = PAIRS[link](eta)
        return (y[0] + y[1]) * derivatives(lambda e: PAIRS[link](e)[0], eta)[1] ** 2 * (log_p - log_q).exp()

    def log_density(eta, y, phi):
        return log_gamma(y[0] + y[1] + 1) - log_gamma(y[0] + 1) - log_gamma(y[1] + 1) - nll(eta, y)

    return Row(nll, deviance, information, log_density, targets="exact")


def bernoulli(link):
    row = binomial(link)
    nll, deviance, information = ((lambda eta, y, f=f: f(eta, (y, 1 - y))) for f in row[:3])
    return Row(nll, deviance, information, lambda eta, y, phi: -nll(eta, y), targets="exact")


def _poisson_deviance(m, y):
    return 2 * (xlogy(y, y / m) - (y - m))


def poisson(link):
    def log_density(m, y, phi):
        return y * log(m) - m - log_gamma(y + 1)

    return _of_mean(link, lambda m, y: m - y * log(m), _poisson_deviance, lambda m: m, log_density)


def negative_binomial(link, alpha):
    def nll(m, y):
        return (y + 1 / alpha) * log1p(alpha * m) - y * log(m)

    return _of_mean(
        link,
        nll,
        lambda m, y: 2 * (xlogy(y, y / m) - (y + 1 / alpha) * log((1 + alpha * y) / (1 + alpha * m))),
        lambda m: m + alpha * m * m,
        lambda m, y, phi: log_rising(1 / alpha, y) - log_gamma(y + 1) + y * log(alpha) - nll(m, y),
    )


def negative_binomial1(link, alpha):
    def nll(m, y):
        return m * log1p(alpha) / alpha - log_rising(m / alpha, y) - y * log(alpha)

    row = _of_mean(
        link,
        nll,
        lambda m, y: _poisson_deviance(m, y) / (1 + alpha),
        lambda m: m * (1 + alpha),
        lambda m, y, phi: -nll(m, y) - y * log1p(alpha) - log_gamma(y + 1),
        targets="whole",
    )
    return row._replace(information=lambda eta, y: derivatives(lambda e: row.nll(e, y), eta)[2])  # the observed one


def gamma(link):
    return _of_mean(
        link,
        lambda m, y: y / m + log(m),
        lambda m, y: 2 * (y / m - 1 - log(y / m)),
        lambda m: m * m,
        lambda m, y, phi: log(y / (phi * m)) / phi - y / (phi * m) - log(y) - log_gamma(1 / phi),
    )


def inverse_gaussian(link):
    return _of_mean(
        link,
        lambda m, y: y / (2 * m * m) - 1 / m,
        lambda m, y: (y - m) ** 2 / (y * m * m),
        lambda m: m**3,
        lambda m, y, phi: -((y - m) ** 2) / (2 * phi * y * m * m) - log(phi * y**3) / 2 - HALF_LOG_2PI,
    )


def tweedie(link, power):
    def deviance(m, y):  # twice the integral of (y - t) t^-power from the mean to y
        first = xlogy(y, y / m) if power == 1 else y * (power_of(y, 1 - power) - power_of(m, 1 - power)) / (1 - power)
        if power == 2:
            return 2 * (first - log(y / m))
        return 2 * (first - (power_of(y, 2 - power) - power_of(m, 2 - power)) / (2 - power))

    def nll(m, y):
        return box_cox(2 - power, m) - y * box_cox(1 - power, m)

    return _of_mean(link, nll, deviance, lambda m: power_of(m, power))


# derivatives and conditions -------------------------------------------------------------------------------------------


def derivatives(f, x):
    """f, f', f'' by central differences."""
    h = STEP * (abs(x) or 1)
    before, at, after = (f(x + k * h) for k in (-1, 0, 1))
    return at, (after - before) / (2 * h), (after - 2 * at + before) / (h * h)


class Value(NamedTuple):
    """A number, and how far it moves when eta and the target are off by one part in 1: to first and second order."""

    value: float
    first: float
    second: float = 0.0


def values(row: Row, eta, y, phi) -> list[Value]:
    """nll, score, information, deviance and log-likelihood at one point, with their conditions."""
    nll = derivatives(lambda e: row.nll(e, y), eta)
    information = derivatives(lambda e: row.information(e, y), eta)
    deviance = derivatives(lambda e: row.deviance(e, y), eta)
    moved = [D(0)] * 4
    if row.targets != "exact" and y:
        step = y * STEP if row.targets == "real" else 1
        ahead = *derivatives(lambda e: row.nll(e, y + step), eta)[:2], row.information(eta, y + step)
        ahead = *ahead, row.deviance(eta, y + step)
        moved = [y * (p - q) / step for p, q in zip(ahead, (*nll[:2], information[0], deviance[0]), strict=True)]

    def value(f, slope, by_y, bend=0):
        return Value(*(float(v) for v in (f, abs(f) + abs(eta * slope) + abs(by_y), (1 + eta * eta) * abs(bend))))

    found = [value(nll[k], nll[k + 1], moved[k]) for k in range(2)]
    found += [value(information[0], information[1], moved[2]), value(deviance[0], deviance[1], moved[3], deviance[2])]
    if row.log_density is not None:  # what it has beyond the deviance depends on the target alone
        f = row.log_density(eta, y, phi)
        first, second = (0.5 * part / float(phi) for part in found[-1][1:])
        found.append(Value(float(f), float(abs(f)) + 1 + first, second))
    return found
