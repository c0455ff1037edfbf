"""The demo: small enough for two cores and a few minutes."""

from emgscribe.data.windows import WindowConfig
from emgscribe.experiments.recipes.experiment import Experiment
from emgscribe.models.augment import AlignmentJitter, Augmentation, SpecAugment
from emgscribe.models.encoders import TdsConfig
from emgscribe.models.features import SpectrogramConfig
from emgscribe.models.model import ModelConfig
from emgscribe.training.config import TrainConfig

DEMO = Experiment(
    name="demo",
    model=ModelConfig(
        features=SpectrogramConfig(n_fft=64, hop=32),
        encoder=TdsConfig(mlp_features=96, blocks=3, channels=24, kernel=16, lookahead=6),
    ),
    windows=WindowConfig(length=8000, stride=8000, left=0, right=0),
    augment=Augmentation(jitter=AlignmentJitter(40), spec=SpecAugment(2, 8, 1, 4)),
    train=TrainConfig(
        epochs=20, batch_size=8, lr=2e-3, lr_start=1e-5, lr_end=1e-5, warmup_epochs=1, clip_norm=1.0,
        keypress_weight=1.0, keypress_fraction=0.5, blank_prior=0.9, seed=0,
    ),
)  # fmt: skip
"""The baseline's pipeline at a size that two cores train in a few minutes on half an hour of simulated typing."""
