"""What the scikit-learn estimators share: rows in, a verdict out, and what a regressor and a classifier are.

A fit is: validate, train in float64, store the `Fit`, and say how it ended. Who trains, and how, is the subclass's.
"""

import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score
from sklearn.utils import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from .buckets import Rows, bucket_data
from .data import Data
from .distributions import Family
from .families import categorical
from .inputs import check_finite, read_array
from .losses import deviance
from .models import glm
from .newton import null_deviance
from .positives import tweedie
from .predictors import Dense
from .programs import quick_jit
from .proportions import bernoulli
from .results import Fit, Status, check
from .scoring import numpy_linear_predictor, numpy_predict
from .storage import FAMILIES

_MORE = ("binomial", "quasi_binomial", "categorical")  # have more than one number a row
_FAMILIES = {name: make for name, make in FAMILIES.items() if name not in _MORE}


def named_family(family: Any, link: str | None, power: float) -> Family:
    """The family of that name, or the one given; raises where it is none, or not one number a row."""
    options: dict[str, Any] = {} if link is None else {"link": link}
    if isinstance(family, str):
        if family not in _FAMILIES:
            trials = "; proportions are bernoulli's, with the trials as sample_weight" if "binomial" in family else ""
            raise ValueError(f"family={family!r} is unknown; known: {', '.join(_FAMILIES)}, or pass a Family{trials}")
        return tweedie(power, **options) if family == "tweedie" else _FAMILIES[family](**options)
    if not isinstance(family, Family):
        raise TypeError(f"family must be a name or a Family, such as 'poisson' or gj.poisson(), got {family!r}")
    if options:
        raise ValueError(f"link={link!r} goes with a family's name; this Family has its own link, {family.link!r}")
    if family.target_shape or family.n_classes:
        raise ValueError(
            f"the {family.name} family here has more than one number a row; use GLMClassifier for classes, and for "
            "proportions 'bernoulli' with the trials as sample_weight"
        )
    return family


def column(value: Any, name: str, n: int) -> np.ndarray | None:
    """A number a row, (n,) float64, checked; None as it is."""
    if value is None:
        return None
    array, _ = read_array(value, name)
    if array.shape != (n,):
        raise ValueError(f"{name} must be ({n},), one number a row of X, got shape {array.shape}")
    check_finite(array, name)
    return np.asarray(array, np.float64)


def whole_offset(family: Family, offset: Any, exposure: Any, n: int) -> np.ndarray | None:
    """The offset, and the log of the exposure, of each row, (n,); None without either."""
    offset, exposure = column(offset, "offset", n), column(exposure, "exposure", n)
    if exposure is None:
        return offset
    if family.link != "log":
        raise ValueError(
            f"exposure is for the log link, and this one is {family.link!r}; give the rate as y, or offset"
        )
    if (exposure <= 0).any():
        i = int(np.argmax(exposure <= 0))
        raise ValueError(f"exposure[{i}] = {exposure[i]}; it must be above 0: drop the row")
    return np.log(exposure) if offset is None else offset + np.log(exposure)


def say(fit: Fit) -> None:
    """Warn where a fit, or a lane of it, did not end well; raise where it has no numbers."""
    try:
        check(fit)
    except RuntimeError as error:
        useful = (Status.MAX_STEPS, Status.SEPARATED)
        if not all(Status(one).usable or one in useful for one in np.ravel(fit.status).tolist()):
            raise ValueError(str(error)) from None
        warnings.warn(str(error), ConvergenceWarning, stacklevel=4)


@quick_jit
def _deviances(family: Family, fitted: Data, null: Data) -> tuple[Array, Array]:
    """The deviance at linear predictors that are the offset of `fitted`, and the null one; for any columns."""
    model = glm(family)
    return deviance(model, Dense(jnp.zeros(0), jnp.zeros(())), fitted), null_deviance(model, null)


class Learner(BaseEstimator):
    """An estimator whose `_train(family, rows)` is a `Fit`, for a `Family` and `Rows`."""

    fit_: Any  # a `Fit` of NumPy arrays
    _train: Callable[[Family, Rows], Fit]  # a method of those who train

    def _read(self, X: Any, *target: Any) -> tuple[np.ndarray, Any]:
        """X as float64, and y where it is given, which makes it a fit's; checked, as scikit-learn wants it."""
        if isinstance(X, np.ma.MaskedArray):
            X, _ = read_array(X, "X")  # scikit-learn would not see the mask
        read = validate_data(self, X, *target, reset=bool(target), dtype="numeric", ensure_all_finite=False)
        X, y = read if target else (read, None)
        X, _ = read_array(X, "X")
        names = getattr(self, "feature_names_in_", None)
        check_finite(X, "X", None if names is None else list(names), squared=np.float64)
        return np.asarray(X, np.float64), y

    def _learn(self, family: Family, x: np.ndarray, y: np.ndarray, weight: Any, offset: np.ndarray | None) -> None:
        """Train, store and say how that ended."""
        weight = column(weight, "sample_weight", len(x))
        weight = np.ones(len(x)) if weight is None else weight
        if not weight.any():
            raise ValueError("sample_weight is zero in every row; at least one row must count")
        with jax.enable_x64(True):  # in here alone: the caller's JAX stays as it is
            fit = jax.device_get(self._train(family, Rows(x, np.asarray(y), weight, offset)))
        say(fit)
        self.fit_, self._offset = fit, offset is not None

    def _ready(self, X: Any, offset: Any) -> np.ndarray:
        """X to predict at; warns where the offset is missing that there was in the fit."""
        check_is_fitted(self)
        x, _ = self._read(X)
        if self._offset and offset is None:
            warnings.warn(
                "the model was fitted with an offset or an exposure; predictions without one are at an offset of 0, an "
                "exposure of 1",
                stacklevel=4,
            )
        return x

    def _mean(self, x: np.ndarray, offset: np.ndarray | None) -> np.ndarray:
        """The mean, (n,) or (n, k)."""
        return numpy_predict(self.fit_.model, self.fit_.params, x, offset)

    def _eta(self, x: np.ndarray, offset: np.ndarray | None) -> np.ndarray:
        """The linear predictor, (n,) or (n, k)."""
        return numpy_linear_predictor(self.fit_.model, self.fit_.params, x, offset)


class Regressor(RegressorMixin, Learner):
    """A learner of one number a row, by a family with `family`, `link` and `power`."""

    family: Any
    link: str | None
    power: float

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        with suppress(TypeError, ValueError):  # what is wrong is for `fit` to say
            tags.target_tags.positive_only = not named_family(self.family, self.link, self.power).support(-1.0)
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None, exposure: Any = None) -> Any:
        """Fit to rows, each `sample_weight` copies of itself.

        Args:
            X: (n, d).
            y: (n,), in the family's support.
            sample_weight: (n,), 0 or more; None is 1.
            offset: (n,), added to the linear predictor.
            exposure: (n,), above 0; its log is added to the linear predictor. For the log link.

        Raises:
            ValueError, TypeError: naming what is out of range, and where; a fit without numbers.

        Warns `ConvergenceWarning` where the fit did not end well.
        """
        family = named_family(self.family, self.link, self.power)
        x, y = self._read(X, y)
        self._learn(family, x, y, sample_weight, whole_offset(family, offset, exposure, len(x)))
        return self

    def predict(self, X: Any, offset: Any = None, exposure: Any = None) -> np.ndarray:
        """The mean at each row, (n,), in the units of y; times the exposure, if any."""
        return self._mean(*self._at(X, offset, exposure))

    def score(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None, exposure: Any = None) -> float:
        """D2, the share of the deviance explained: `1 - deviance / that of the best constant and the offset`."""
        x, offset = self._at(X, offset, exposure)
        weight = column(sample_weight, "sample_weight", len(x))
        rows = Rows(x[:, :0], np.asarray(column(y, "y", len(x))), np.ones(len(x)) if weight is None else weight)
        family = self.fit_.model.family
        parts = (rows._replace(offset=self._eta(x, offset)), rows._replace(offset=offset))
        with jax.enable_x64(True):
            left, null = map(float, _deviances(family, *(bucket_data(part, family) for part in parts)))
        return 1 - left / null if null else float(left == 0)  # as scikit-learn has it where y is constant

    def _at(self, X: Any, offset: Any, exposure: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Where to predict: the rows, and the whole of their offset."""
        x = self._ready(X, offset if exposure is None else exposure)
        return x, whole_offset(self.fit_.model.family, offset, exposure, len(x))


class Classifier(ClassifierMixin, Learner):
    """A learner of labels: two are Bernoulli, by `link`; more categorical, a logit a class. `classes_` are sorted."""

    link: str
    class_weight: Any

    def fit(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None) -> Any:
        """Fit to rows, each `sample_weight` copies of itself, times its class's weight.

        Args:
            X: (n, d).
            y: (n,), labels of two classes or more, of any kind.
            sample_weight: (n,), 0 or more; None is 1.
            offset: (n,), added to the linear predictor; for two classes.

        Raises:
            ValueError, TypeError: naming what is out of range, and where; one class; a fit without numbers.

        Warns `ConvergenceWarning` where the fit did not end well, as where a column tells the classes apart.
        """
        x, y = self._read(X, y)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        k = len(self.classes_)
        if k == 1:
            raise ValueError(f"y has one class, {self.classes_[0]!r}; a classifier wants rows of two classes or more")
        if k > 2 and (self.link != "logit" or offset is not None):
            found = "an offset" if self.link == "logit" else f"link={self.link!r}"
            raise ValueError(f"{found} is for two classes, and y has {k}; more have a softmax")
        weight = column(sample_weight, "sample_weight", len(x))
        if self.class_weight is not None:
            balance = compute_sample_weight(self.class_weight, y)
            weight = balance if weight is None else balance * weight
        family = bernoulli(self.link) if k == 2 else categorical(k)
        self._learn(family, x, codes, weight, column(offset, "offset", len(x)))
        return self

    def predict_proba(self, X: Any, offset: Any = None) -> np.ndarray:
        """Probabilities of the classes, (n, k)."""
        mean = self._mean(*self._at(X, offset))
        return np.stack([1 - mean, mean], axis=1) if mean.ndim == 1 else mean

    def predict_log_proba(self, X: Any, offset: Any = None) -> np.ndarray:
        """Logarithms of `predict_proba`, (n, k)."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X, offset))

    def predict(self, X: Any, offset: Any = None) -> np.ndarray:
        """The most probable class of each row, (n,)."""
        best = np.argmax(self.predict_proba(X, offset), axis=1)
        return self.classes_[best]

    def score(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None) -> float:
        """The share of rows that `predict` is right about."""
        return accuracy_score(y, self.predict(X, offset), sample_weight=sample_weight)

    def _at(self, X: Any, offset: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Where to predict: the rows, and their offset."""
        x = self._ready(X, offset)
        return x, column(offset, "offset", len(x))
