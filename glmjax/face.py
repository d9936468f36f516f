"""The public names; `glmjax` has them when the first of them is asked for."""

from .approximation import relu_approximation, ridge_approximation, sigmoid_approximation
from .auto import fit
from .batches import fit_many
from .caching import cache_compilation
from .checks import Calibration, DispersionTest, calibration, dispersion_test
from .counts import poisson, quasi_poisson
from .covariance import bayesian, clustered, fisher, hc0, hc1, hc2, hc3, observed
from .data import Data, make_data
from .deletion import InfluenceMeasures, influence_measures
from .distributions import Distribution, Family, Masses
from .effects import Average, average
from .export import export_numpy, export_onnx
from .families import categorical, normal
from .firth import fit_firth
from .folds import CrossValidation, cross_validate, mean_deviance
from .hypotheses import HypothesisTest, likelihood_ratio, score_test, wald
from .inferences import (
    Goodness,
    Inference,
    Names,
    deviance_dispersion,
    inference,
    likelihood_dispersion,
    pearson_dispersion,
)
from .influence import Jackknife, jackknife
from .information import fisher_information, observed_information
from .intervals import Interval, mean_interval, prediction_interval
from .lbfgs import fit_lbfgs
from .losses import deviance, log_likelihood, loss, pearson_chi2
from .many import fit_seeds
from .mixtures import negative_binomial, negative_binomial1
from .models import Model, glm, init, linear_predictor, mlp, predict, sample
from .multiplicity import benjamini_hochberg, holm
from .nested import DevianceTable, analysis_of_deviance
from .newton import fit_newton, null_deviance
from .optima import Optimum
from .paths import Path, fit_path
from .penalized import FirthIntervals, firth_intervals
from .positives import gamma, inverse_gaussian, tweedie
from .predictors import MLP, Dense, Linear
from .profiles import ProfileIntervals, profile_intervals
from .proportions import bernoulli, binomial, quasi_binomial
from .proximal import fit_elastic_net
from .pseudo import cox_snell_r2, deviance_r2, mcfadden_r2
from .reports import summary, summary_frame, summary_html, summary_markdown
from .resampling import Bootstrap, bca_interval, bootstrap, percentile_interval
from .residuals import (
    deviance_residuals,
    pearson_residuals,
    quantile_residuals,
    response_residuals,
    working_residuals,
)
from .results import Fit, History, Status, check
from .separation import Separation, check_separation
from .sgd import SGDState, fit_sgd, sgd_epochs, sgd_finish, sgd_init, sgd_step
from .sharding import shard
from .storage import Saved, load, load_state, save, save_state
from .training import train

__all__ = [
    "MLP",
    "Average",
    "Bootstrap",
    "Calibration",
    "CrossValidation",
    "Data",
    "Dense",
    "DevianceTable",
    "DispersionTest",
    "Distribution",
    "Family",
    "FirthIntervals",
    "Fit",
    "Goodness",
    "History",
    "HypothesisTest",
    "Inference",
    "InfluenceMeasures",
    "Interval",
    "Jackknife",
    "Linear",
    "Masses",
    "Model",
    "Names",
    "Optimum",
    "Path",
    "ProfileIntervals",
    "SGDState",
    "Saved",
    "Separation",
    "Status",
    "analysis_of_deviance",
    "average",
    "bayesian",
    "bca_interval",
    "benjamini_hochberg",
    "bernoulli",
    "binomial",
    "bootstrap",
    "cache_compilation",
    "calibration",
    "categorical",
    "check",
    "check_separation",
    "clustered",
    "cox_snell_r2",
    "cross_validate",
    "deviance",
    "deviance_dispersion",
    "deviance_r2",
    "deviance_residuals",
    "dispersion_test",
    "export_numpy",
    "export_onnx",
    "firth_intervals",
    "fisher",
    "fisher_information",
    "fit",
    "fit_elastic_net",
    "fit_firth",
    "fit_lbfgs",
    "fit_many",
    "fit_newton",
    "fit_path",
    "fit_seeds",
    "fit_sgd",
    "gamma",
    "glm",
    "hc0",
    "hc1",
    "hc2",
    "hc3",
    "holm",
    "inference",
    "influence_measures",
    "init",
    "inverse_gaussian",
    "jackknife",
    "likelihood_dispersion",
    "likelihood_ratio",
    "linear_predictor",
    "load",
    "load_state",
    "log_likelihood",
    "loss",
    "make_data",
    "mcfadden_r2",
    "mean_deviance",
    "mean_interval",
    "mlp",
    "negative_binomial",
    "negative_binomial1",
    "normal",
    "null_deviance",
    "observed",
    "observed_information",
    "pearson_chi2",
    "pearson_dispersion",
    "pearson_residuals",
    "percentile_interval",
    "poisson",
    "predict",
    "prediction_interval",
    "profile_intervals",
    "quantile_residuals",
    "quasi_binomial",
    "quasi_poisson",
    "relu_approximation",
    "response_residuals",
    "ridge_approximation",
    "sample",
    "save",
    "save_state",
    "score_test",
    "sgd_epochs",
    "sgd_finish",
    "sgd_init",
    "sgd_step",
    "shard",
    "sigmoid_approximation",
    "summary",
    "summary_frame",
    "summary_html",
    "summary_markdown",
    "train",
    "tweedie",
    "wald",
    "working_residuals",
]
