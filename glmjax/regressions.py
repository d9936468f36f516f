"""Linear models for scikit-learn: `GLMRegressor` and `GLMClassifier`, and those that choose their penalty."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import is_classifier
from sklearn.model_selection import check_cv

from .auto import fit
from .buckets import Rows, bucket_data, filled, widened
from .distributions import Family
from .folds import cross_validate
from .inputs import check_number
from .learners import Classifier, Learner, Regressor
from .models import glm
from .results import Fit

_LEAST = 512  # rows that a program is for which takes ten seconds to compile
_EVEN = {"cloglog": np.log(np.log(2)), "log": -np.log(2), "identity": 0.5}  # where the probability is 1/2; else 0


class LinearLearner(Learner):
    """A learner by a linear predictor: `coef_`, (d,) of a regressor, (1, d) or (classes, d) of a classifier."""

    @property
    def coef_(self) -> np.ndarray:
        """The weights of the columns."""
        w = self.fit_.params.w.T
        return np.atleast_2d(w) if is_classifier(self) else w

    @property
    def intercept_(self) -> Any:
        """The bias: a number of a regressor, (1,) or (classes,) of a classifier."""
        w, b = self.fit_.params
        b = np.zeros(w.shape[1:]) if b is None else b
        return np.atleast_1d(b) if is_classifier(self) else float(b)

    @property
    def n_iter_(self) -> int:
        """The steps that were taken."""
        return int(self.fit_.steps)


class Penalized(LinearLearner):
    """Trained at the penalty that is given."""

    alpha: float
    l1_ratio: float
    fit_intercept: bool
    tol: float | None
    max_iter: int

    def _train(self, family: Family, rows: Rows) -> Fit:
        check_number(self.alpha, "alpha", at_least=0)
        check_number(self.l1_ratio, "l1_ratio", at_least=0)
        if self.l1_ratio > 1:
            raise ValueError(f"l1_ratio must be 0 to 1, got {self.l1_ratio}; it is the share of the lasso")
        return fit(
            glm(family, self.fit_intercept),
            bucket_data(rows, family),
            l1=self.alpha * self.l1_ratio or None,
            l2=self.alpha * (1 - self.l1_ratio),
            tol=self.tol,
            max_steps=self.max_iter,
        )


class CrossValidated(LinearLearner):
    """Trained at penalties along a path, on all rows and without each fold, as one program."""

    alphas: Any
    l1_ratio: float
    fit_intercept: bool
    cv: Any
    one_se: bool
    tol: float
    max_iter: int

    def _train(self, family: Family, rows: Rows) -> Fit:
        many, (n, d) = np.ndim(self.alphas) == 0, rows.x.shape
        found = cross_validate(
            glm(family, self.fit_intercept),
            bucket_data(rows._replace(x=widened(rows.x)), family, _LEAST),
            None,
            folds=jnp.asarray(filled(self._folds(rows), _LEAST)),
            penalties=None if many else jnp.asarray(np.sort(np.asarray(self.alphas, np.float64))[::-1]),
            n_penalties=self.alphas if many else 1,
            smallest=1e-2 if n < d else 1e-4,
            l1_ratio=self.l1_ratio,
            tol=self.tol,
            max_steps=self.max_iter,
        )
        found = jax.device_get(found)
        if np.isnan(found.mean).all():
            raise ValueError("no alpha has a score: the fit of some fold failed at each of them; give larger alphas")
        chosen = int(found.one_se if self.one_se else found.best)
        self.alphas_, self.alpha_ = found.penalty, float(found.penalty[chosen])
        self.deviance_path_ = found.scores.T
        best = jax.tree.map(lambda leaf: leaf[chosen], found.fit)
        params, infinite = (part._replace(w=part.w[:d]) for part in (best.params, best.infinite))
        return best._replace(params=params, infinite=infinite)

    def _folds(self, rows: Rows) -> np.ndarray:
        """The fold of each row, (n,)."""
        fold, times = np.zeros(len(rows.x), int), np.zeros(len(rows.x), int)
        splits = list(check_cv(self.cv, rows.y, classifier=is_classifier(self)).split(rows.x, rows.y))
        for k, (train, test) in enumerate(splits):
            fold[test] = k
            times[test] += 1
            if len(np.union1d(train, test)) < len(fold):
                times[:] = 0
        if (times != 1).any():
            raise ValueError(
                f"cv={self.cv!r} must put each row into one fold and train on all others, as KFold, "
                "StratifiedKFold and GroupKFold do; for other splits use GridSearchCV"
            )
        return fold


class Margin(Classifier, LinearLearner):
    """A classifier by a linear predictor."""

    def decision_function(self, X: Any, offset: Any = None) -> np.ndarray:
        """Two classes: the linear predictor less where the probability is 1/2, (n,); more: the K logits, (n, k)."""
        eta = self._eta(*self._at(X, offset))
        return eta if eta.ndim == 2 else eta - _EVEN.get(self.link, 0.0)


class GLMRegressor(Penalized, Regressor):
    """Generalized linear model of one number a row: Poisson, gamma, Tweedie, negative binomial and the others.

    Minimizes `sum(w nll) / sum(w) + alpha l1_ratio sum(|coef|) + alpha (1 - l1_ratio) sum(coef^2) / 2`, the intercept
    free, with the nll at dispersion 1. That is the objective of PoissonRegressor, GammaRegressor, TweedieRegressor and
    ElasticNet at the same alpha; Ridge's alpha is `alpha * sum(w)`.

    Args:
        family: "normal", "bernoulli" (proportions, with the trials as `sample_weight`), "poisson", "quasi_poisson",
            "negative_binomial" and "negative_binomial1" (their alpha is estimated), "gamma", "inverse_gaussian",
            "tweedie"; or a `Family`, such as `gj.negative_binomial(0.5)`.
        link: of a family by name; None is its own.
        power: of the Tweedie family by name.
        alpha: penalty, 0 or more; 0 is maximum likelihood.
        l1_ratio: share of the lasso, 0 to 1.
        fit_intercept: whether there is a bias.
        tol: the solver's tolerance; None is its own, near rounding.
        max_iter: steps at most.

    Attributes:
        coef_, intercept_, n_iter_, n_features_in_, feature_names_in_; `fit_`, the `Fit` in float64, without the data:
        `fit_.status` says how it ended, `gj.save(path, est.fit_.model, est.fit_)` keeps it.

    Reference: McCullagh and Nelder, Generalized Linear Models (1989); Friedman, Hastie and Tibshirani (2010).
    """

    def __init__(
        self,
        family: Any = "poisson",
        *,
        link: str | None = None,
        power: float = 1.5,
        alpha: float = 0.0,
        l1_ratio: float = 0.0,
        fit_intercept: bool = True,
        tol: float | None = None,
        max_iter: int = 500,
    ):
        self.family = family
        self.link = link
        self.power = power
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter


class GLMClassifier(Penalized, Margin):
    """Logistic regression, or with another link; of more than two classes multinomial, a logit a class.

    Minimizes the objective of `GLMRegressor`, which is LogisticRegression's at `alpha = 1 / (C sum(w))`. With more than
    two classes there is a logit for each, also where `alpha` is 0, so that `coef_` has one shape and one limit; what
    then means nothing, a constant added to all, is 0 on average.

    Args:
        link: "logit", "probit", "cloglog", "log" or "identity" of two classes; "logit" of more.
        alpha, l1_ratio, fit_intercept, tol, max_iter: as in `GLMRegressor`.
        class_weight: {label: weight}, "balanced" or None; times `sample_weight`.

    Attributes:
        Those of `GLMRegressor`, and `classes_`; `fit_` has classes by their place in it.

    Reference: Agresti, Categorical Data Analysis (2013), chapters 5 and 8.
    """

    def __init__(
        self,
        link: str = "logit",
        *,
        alpha: float = 0.0,
        l1_ratio: float = 0.0,
        fit_intercept: bool = True,
        class_weight: Any = None,
        tol: float | None = None,
        max_iter: int = 500,
    ):
        self.link = link
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter


class GLMRegressorCV(CrossValidated, Regressor):
    """`GLMRegressor` at the alpha whose deviance on held-out rows is the least; all alphas and folds in one program.

    Args:
        family, link, power, l1_ratio, fit_intercept: as in `GLMRegressor`.
        alphas: how many, spaced in the logarithm from the least one that leaves no column down, or (m,) of them.
        cv: folds, as scikit-learn has them: None for 5, a number, a splitter that puts each row into one fold, or its
            splits.
        one_se: take the largest alpha within a standard error of the least deviance.
        tol: as in `fit_path`.
        max_iter: steps at most, for each alpha.

    Attributes:
        Those of `GLMRegressor`, and `alpha_`; `alphas_` (m,), falling; `deviance_path_` (m, folds), the mean deviance
        of held-out rows.

    Reference: Hastie, Tibshirani and Friedman (2009), The Elements of Statistical Learning, section 7.10.
    """

    def __init__(
        self,
        family: Any = "poisson",
        *,
        link: str | None = None,
        power: float = 1.5,
        alphas: Any = 100,
        l1_ratio: float = 0.0,
        fit_intercept: bool = True,
        cv: Any = None,
        one_se: bool = False,
        tol: float = 1e-10,
        max_iter: int = 100,
    ):
        self.family = family
        self.link = link
        self.power = power
        self.alphas = alphas
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.cv = cv
        self.one_se = one_se
        self.tol = tol
        self.max_iter = max_iter


class GLMClassifierCV(CrossValidated, Margin):
    """`GLMClassifier` at the alpha whose deviance on held-out rows is the least; all alphas and folds in one program.

    Args:
        link, class_weight: as in `GLMClassifier`.
        alphas, l1_ratio, fit_intercept, cv, one_se, tol, max_iter: as in `GLMRegressorCV`; folds are stratified.

    Attributes:
        Those of `GLMRegressorCV`, and `classes_`.
    """

    def __init__(
        self,
        link: str = "logit",
        *,
        alphas: Any = 100,
        l1_ratio: float = 0.0,
        fit_intercept: bool = True,
        class_weight: Any = None,
        cv: Any = None,
        one_se: bool = False,
        tol: float = 1e-10,
        max_iter: int = 100,
    ):
        self.link = link
        self.alphas = alphas
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.cv = cv
        self.one_se = one_se
        self.tol = tol
        self.max_iter = max_iter
