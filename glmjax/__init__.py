"""glmjax: generalized linear models and multilayer perceptrons as pure JAX functions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import files as files
    from . import frames as frames
    from . import plots as plots
    from . import sharding as sharding
    from . import streaming as streaming
    from .face import *  # noqa: F403
else:
    # The command line needs a part of the rooms, and reads its file before it has JAX.
    def __getattr__(name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # what the import system and others look for
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        for room in ("files", "frames", "plots", "sharding", "streaming"):
            import_module(f".{room}", __name__)
        face = import_module(".face", __name__)
        globals().update({public: getattr(face, public) for public in ("__all__", *face.__all__)})
        if name not in globals():
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
