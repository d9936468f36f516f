"""Estimators for scikit-learn: `from glmjax.estimators import GLMRegressor`, and `pip install 'glmjax[sklearn]'`.

`fit` and `predict` take and give NumPy; fits are in float64, whatever JAX's default is, and leave that as it is.
"""

try:
    from .networks import MLPClassifier, MLPRegressor
    from .regressions import GLMClassifier, GLMClassifierCV, GLMRegressor, GLMRegressorCV
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "sklearn":
        raise
    raise ImportError("glmjax.estimators needs scikit-learn; pip install 'glmjax[sklearn]'") from None

__all__ = ["GLMClassifier", "GLMClassifierCV", "GLMRegressor", "GLMRegressorCV", "MLPClassifier", "MLPRegressor"]
