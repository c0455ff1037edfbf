"""emgscribe: the text that the wearer of two EMG wristbands types.

Everything public is here, and is loaded when it is first used, so that importing the package is cheap:

    import emgscribe as es

    es.simulate("data", users=1, sessions=10, minutes=4)
    train, val, test = es.split("data")
    run = es.train(es.recipes.DEMO, train, val, out="runs/demo")
    print(es.evaluate(run.model, test))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; what runs is _HOMES
    from emgscribe.config import Settings, register
    from emgscribe.data.inspect import Inspection, inspect
    from emgscribe.data.session import Session, open_session, open_sessions
    from emgscribe.data.splits import DataConfig, split
    from emgscribe.data.windows import Batch, WindowConfig, WindowDataset
    from emgscribe.decoding.beam import BeamConfig, BeamDecoder
    from emgscribe.decoding.greedy import Decoder, GreedyDecoder, Hypothesis
    from emgscribe.decoding.language_model import LanguageModel
    from emgscribe.errors import EmgscribeError
    from emgscribe.evaluation import Evaluation, evaluate, evaluate_all
    from emgscribe.experiments import recipes
    from emgscribe.experiments.recipes import Experiment
    from emgscribe.models import encoders, features
    from emgscribe.models.attention import AttentionConfig
    from emgscribe.models.augment import Augmentation
    from emgscribe.models.encoders import Encoder, EncoderConfig
    from emgscribe.models.features import Features, FeaturesConfig
    from emgscribe.models.model import Model, ModelConfig, load_model, save_model
    from emgscribe.scoring import Counts
    from emgscribe.simulation import SimulationConfig, simulate
    from emgscribe.training.config import Recipe, TrainConfig
    from emgscribe.training.losses import ctc_loss
    from emgscribe.training.modules import SessionsDataModule, TrainingModule
    from emgscribe.training.run import Trained, train
    from emgscribe.transcription import Transcript, transcribe

_HOMES = {
    "errors": "EmgscribeError",
    "config": "Settings register",
    "data.session": "Session open_session open_sessions",
    "data.inspect": "Inspection inspect",
    "data.splits": "DataConfig split",
    "data.windows": "Batch WindowConfig WindowDataset",
    "simulation": "SimulationConfig simulate",
    "models": "encoders features",
    "models.augment": "Augmentation",
    "models.attention": "AttentionConfig",
    "models.encoders": "Encoder EncoderConfig",
    "models.features": "Features FeaturesConfig",
    "models.model": "Model ModelConfig load_model save_model",
    "decoding.greedy": "Decoder GreedyDecoder Hypothesis",
    "decoding.beam": "BeamConfig BeamDecoder",
    "decoding.language_model": "LanguageModel",
    "scoring": "Counts",
    "transcription": "Transcript transcribe",
    "evaluation": "Evaluation evaluate evaluate_all",
    "training.config": "Recipe TrainConfig",
    "training.losses": "ctc_loss",
    "training.modules": "SessionsDataModule TrainingModule",
    "training.run": "Trained train",
    "experiments": "recipes",
    "experiments.recipes": "Experiment",
}
__all__ = ["__version__"]
__all__ += ["AttentionConfig", "Augmentation", "Batch", "BeamConfig", "BeamDecoder", "Counts", "DataConfig"]
__all__ += ["Decoder", "EmgscribeError", "Encoder", "EncoderConfig", "Evaluation", "Experiment", "Features"]
__all__ += ["FeaturesConfig", "GreedyDecoder", "Hypothesis", "Inspection", "LanguageModel", "Model", "ModelConfig"]
__all__ += ["Recipe", "Session", "SessionsDataModule", "Settings", "SimulationConfig", "TrainConfig", "Trained"]
__all__ += ["TrainingModule", "Transcript", "WindowConfig", "WindowDataset"]
__all__ += ["ctc_loss", "encoders", "evaluate", "evaluate_all", "features", "inspect", "load_model", "open_session"]
__all__ += ["open_sessions", "recipes", "register", "save_model", "simulate", "split", "train", "transcribe"]

_MODULES = {"encoders", "features", "recipes"}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("emgscribe")
    if name not in _HOME:
        raise AttributeError(f"module 'emgscribe' has no attribute {name!r}")
    home = f"emgscribe.{_HOME[name]}"
    found = import_module(f"{home}.{name}") if name in _MODULES else getattr(import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
