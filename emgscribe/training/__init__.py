"""Training: settings, losses, a Lightning module and data module for any Trainer, and runs that can be resumed.

Names are loaded when they are first used: lightning takes seconds to import, and settings do not need it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emgscribe.training.config import Recipe, TrainConfig
    from emgscribe.training.data import SessionsDataModule, cut
    from emgscribe.training.losses import attention_loss, ctc_loss, keypress_loss
    from emgscribe.training.module import TrainingModule, training_loss
    from emgscribe.training.run import Trained, current_commit, estimate_seconds, fit, resolve_precision, train

__all__ = ["Recipe", "SessionsDataModule", "TrainConfig", "Trained", "TrainingModule", "attention_loss", "ctc_loss"]
__all__ += ["current_commit", "cut", "estimate_seconds", "fit", "keypress_loss", "resolve_precision", "train"]
__all__ += ["training_loss"]


def __getattr__(name: str) -> Any:
    for home in ("config", "losses", "data", "module", "run") if name in __all__ else ():
        module = import_module(f"{__name__}.{home}")
        if name in vars(module):
            return vars(module)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
