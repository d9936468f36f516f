"""Networks under a GLM head for scikit-learn: `MLPRegressor` and `MLPClassifier`, one or an ensemble of seeds."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from sklearn.base import is_classifier
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state

from .buckets import Rows, bucket_data
from .data import Data
from .distributions import Family, link_of_target
from .inputs import check_count, check_number
from .learners import Classifier, Learner, Regressor
from .many import fit_seeds
from .models import Model, mlp
from .programs import quick_jit
from .results import Fit

_SOLVERS: dict[str, Callable[..., Any]] = {"adam": optax.adam, "sgd": optax.sgd}


@partial(quick_jit, static_argnums=(3, 5, 6))
def _fit_seeds(
    model: Model,
    data: Data,
    keys: Array,
    optimizer: Callable[..., Any],
    rate: float,
    batch: int,
    epochs: int,
    l2: float,
    validation: Data | None,
    patience: int | None,
) -> Fit:
    """`fit_seeds`, compiled in half the time."""
    return fit_seeds(
        model,
        data,
        keys,
        optimizer=optimizer,
        learning_rate=rate,
        batch_size=batch,
        epochs=epochs,
        l2=l2,
        validation=validation,
        patience=patience,
    )


class Network(Learner):
    """Trained by minibatches from every seed, as one program; `fit_` has the seeds first, and the mean is over them."""

    hidden_layer_sizes: Any
    activation: Any
    solver: Any
    alpha: float
    batch_size: Any
    learning_rate_init: float
    max_iter: int
    early_stopping: bool
    validation_fraction: float
    n_iter_no_change: int
    n_seeds: int
    random_state: Any

    @property
    def n_iter_(self) -> int:
        """The epochs that the longest run took."""
        return int(np.isfinite(self.fit_.history.loss).sum(axis=-1).max())

    def _train(self, family: Family, rows: Rows) -> Fit:
        if isinstance(self.solver, str) and self.solver not in _SOLVERS:
            raise ValueError(f"solver={self.solver!r} is unknown; known: {', '.join(_SOLVERS)}, or an optax factory")
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        rows, held = self._split(rows, seed) if self.early_stopping else (rows, None)
        n = len(rows.x)
        batch = min(200, n) if self.batch_size == "auto" else check_count(self.batch_size, "batch_size")
        check_number(self.learning_rate_init, "learning_rate_init", above=0)
        check_number(self.alpha, "alpha", at_least=0)
        data = bucket_data(rows, family)
        with jax.numpy_dtype_promotion("standard"):  # optax.adam has to have it
            return _fit_seeds(
                mlp(family, tuple(np.atleast_1d(self.hidden_layer_sizes).tolist()), _own_name(self.activation)),
                data,
                jax.random.split(jax.random.key(seed), check_count(self.n_seeds, "n_seeds")),
                _SOLVERS[self.solver] if isinstance(self.solver, str) else self.solver,
                self.learning_rate_init,
                len(data.x) if batch >= n else batch,
                check_count(self.max_iter, "max_iter"),
                self.alpha,
                None if held is None else bucket_data(held, family),
                check_count(self.n_iter_no_change, "n_iter_no_change") if self.early_stopping else None,
            )

    def _split(self, rows: Rows, seed: int) -> tuple[Rows, Rows]:
        """The rows to train on, and those to watch the loss of."""
        classes = rows.y if is_classifier(self) else None
        parts = train_test_split(
            np.arange(len(rows.x)), test_size=self.validation_fraction, random_state=seed, stratify=classes
        )
        train, held = (jax.tree.map(lambda array, part=part: array[part], rows) for part in parts)
        return train, held

    def _mean(self, x: np.ndarray, offset: np.ndarray | None) -> np.ndarray:
        return super()._mean(x, offset).mean(axis=0)

    def _spread(self, x: np.ndarray, offset: np.ndarray | None) -> np.ndarray:
        """The standard deviation of the mean over the seeds."""
        return super()._mean(x, offset).std(axis=0)


def _own_name(activation: Any) -> Any:
    """What glmjax calls scikit-learn's activations."""
    return "sigmoid" if activation == "logistic" else activation


class MLPRegressor(Network, Regressor):
    """A multilayer perceptron under a GLM's head: squared error, or Poisson, gamma and the other families.

    Minimizes `sum(w nll) / sum(w) + alpha sum(weights^2) / 2` by minibatches (scikit-learn divides its alpha by their
    rows). With `n_seeds` it is an ensemble: `predict` is the mean over the seeds, `predict_spread` their standard
    deviation. A row of `sample_weight` k counts k times in its minibatch.

    Args:
        family, link, power: as in `GLMRegressor`.
        hidden_layer_sizes: of the hidden layers; give X scaled.
        activation: "relu", "tanh", "logistic" or "identity".
        solver: "adam", "sgd", or a module-level function from a learning rate to an optax transformation.
        alpha: ridge penalty, 0 or more.
        batch_size: rows a minibatch at most; "auto" is 200. n or more is all rows in each step.
        learning_rate_init: above 0.
        max_iter: epochs.
        early_stopping: hold out `validation_fraction` of the rows, stop after `n_iter_no_change` epochs without a lower
            loss on them, and keep the best parameters. Else all epochs are run.
        n_seeds: networks, each of initial weights and minibatches of its own.
        random_state: as scikit-learn has it.

    Attributes:
        n_iter_, n_features_in_, feature_names_in_; `fit_`, the `Fit` in float64, without the data, the seeds first in
        every field: `fit_.params`, `fit_.history`, `fit_.status`.

    Reference: Bottou, Curtis and Nocedal (2018), Optimization methods for large-scale machine learning.
    """

    def __init__(
        self,
        family: Any = "normal",
        *,
        link: str | None = None,
        power: float = 1.5,
        hidden_layer_sizes: Any = (50,),
        activation: Any = "relu",
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate_init: float = 0.001,
        max_iter: int = 200,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        n_seeds: int = 1,
        random_state: Any = None,
    ):
        self.family = family
        self.link = link
        self.power = power
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.n_seeds = n_seeds
        self.random_state = random_state

    def predict_spread(self, X: Any, offset: Any = None, exposure: Any = None) -> np.ndarray:
        """The standard deviation of the seeds' predictions, (n,): what is left to chance in training."""
        return self._spread(*self._at(X, offset, exposure))

    def _eta(self, x: np.ndarray, offset: np.ndarray | None) -> np.ndarray:
        with jax.enable_x64(True):
            return np.asarray(link_of_target(self.fit_.model.family, jnp.asarray(self._mean(x, offset))))


class MLPClassifier(Network, Classifier):
    """A multilayer perceptron under a Bernoulli's head, by `link`, or a softmax; with `n_seeds` an ensemble.

    Args:
        link, class_weight: as in `GLMClassifier`.
        Others as in `MLPRegressor`; rows are held out class by class.

    Attributes:
        Those of `MLPRegressor`, and `classes_`.
    """

    def __init__(
        self,
        link: str = "logit",
        *,
        hidden_layer_sizes: Any = (50,),
        activation: Any = "relu",
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate_init: float = 0.001,
        max_iter: int = 200,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        n_seeds: int = 1,
        random_state: Any = None,
        class_weight: Any = None,
    ):
        self.link = link
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.n_seeds = n_seeds
        self.random_state = random_state
        self.class_weight = class_weight

    def predict_spread(self, X: Any, offset: Any = None) -> np.ndarray:
        """The standard deviation of the seeds' probability of the second class, (n,); of more, (n, k)."""
        return self._spread(*self._at(X, offset))
