"""The public names: type checkers read them here, and `__init__.py` takes them from here."""

from emgscribe.attribution import Saliency, saliency
from emgscribe.config import Settings, register
from emgscribe.data.convert import Source, convert
from emgscribe.data.inspect import Inspection, inspect
from emgscribe.data.session import Session, open_session, open_sessions
from emgscribe.data.shape import Shape
from emgscribe.data.splits import DataConfig, split
from emgscribe.data.windows import Batch, WindowConfig, WindowDataset
from emgscribe.decoding.beam import BeamConfig, BeamDecoder
from emgscribe.decoding.decoder import Decoder, Hypothesis
from emgscribe.decoding.greedy import GreedyDecoder
from emgscribe.decoding.language_model import LanguageModel
from emgscribe.errors import EmgscribeError
from emgscribe.evaluation import Evaluation, evaluate, evaluate_all
from emgscribe.experiments import recipes
from emgscribe.experiments.recipes import Experiment
from emgscribe.experiments.results import RunResult
from emgscribe.experiments.run import run_experiment
from emgscribe.models import encoders, features
from emgscribe.models.attention import AttentionConfig
from emgscribe.models.augment import Augmentation
from emgscribe.models.encoders import Encoder, EncoderConfig
from emgscribe.models.ensemble import ensemble
from emgscribe.models.features import Features, FeaturesConfig
from emgscribe.models.model import Model, ModelConfig, load_model, save_model
from emgscribe.models.onnx import OnnxModel, export_onnx
from emgscribe.models.published import export_checkpoint, import_checkpoint
from emgscribe.scoring import Counts
from emgscribe.simulation.config import SimulationConfig
from emgscribe.simulation.sessions import simulate, simulate_key_logs
from emgscribe.streaming import Stream, Update
from emgscribe.training.adapt import adapt
from emgscribe.training.config import Recipe, TrainConfig
from emgscribe.training.losses import ctc_loss
from emgscribe.training.modules import SessionsDataModule, TrainingModule
from emgscribe.training.run import Trained, train
from emgscribe.transcription import Transcript, transcribe

__version__: str
__all__ = ["AttentionConfig", "Augmentation", "Batch", "BeamConfig", "BeamDecoder", "Counts", "DataConfig", "Decoder"]
__all__ += ["EmgscribeError", "Encoder", "EncoderConfig", "Evaluation", "Experiment", "Features", "FeaturesConfig"]
__all__ += ["GreedyDecoder", "Hypothesis", "Inspection", "LanguageModel", "Model", "ModelConfig", "OnnxModel", "Recipe"]
__all__ += ["RunResult", "Saliency", "Session", "SessionsDataModule", "Settings", "Shape", "SimulationConfig"]
__all__ += ["Source", "Stream", "TrainConfig", "Trained", "TrainingModule", "Transcript", "Update", "WindowConfig"]
__all__ += ["WindowDataset", "__version__", "adapt", "convert", "ctc_loss", "encoders", "ensemble", "evaluate"]
__all__ += ["evaluate_all", "export_checkpoint", "export_onnx", "features", "import_checkpoint", "inspect"]
__all__ += ["load_model", "open_session", "open_sessions", "recipes", "register", "run_experiment", "saliency"]
__all__ += ["save_model", "simulate", "simulate_key_logs", "split", "train", "transcribe"]
