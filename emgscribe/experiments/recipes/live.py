"""The network of `emgscribe live`: small, causal, with four lookaheads, trained on many simulated people."""

from emgscribe.data.splits import DataConfig
from emgscribe.data.windows import WindowConfig
from emgscribe.experiments.recipes.experiment import Experiment, Simulated, Suite
from emgscribe.models.augment import AlignmentJitter, Augmentation, SpecAugment
from emgscribe.models.encoders import LookaheadsConfig, MlpConfig, RecurrentConfig
from emgscribe.models.features import SpectrogramConfig
from emgscribe.models.model import ModelConfig
from emgscribe.training.config import TrainConfig

_TRAIN, _VAL, _TEST = range(100), range(100, 110), range(110, 120)  # people
_EDGES = (0, 1, 2, 3, 4, 6, 8, 12, 16, 22, 33)  # of 31 Hz each; wider bands further up, where people differ in detail

# A frame lasts 20 ms, so the lookaheads are 40, 80, 120 and 240 ms. The norm is over the last 5 s.
LIVE = Experiment(
    name="live",
    model=ModelConfig(
        features=SpectrogramConfig(n_fft=64, hop=40, edges=_EDGES),
        encoder=LookaheadsConfig(
            base=RecurrentConfig(
                base=MlpConfig(mlp_features=96, rolling=250),
                bidirectional=False, hidden=224, layers=2, dropout=0.2, left=25, right=0,
            ),
            output=128, known=(2, 4, 6, 12), lookahead=12,
        ),
    ),
    windows=WindowConfig(length=12000, stride=12000, left=0, right=0),
    augment=Augmentation(jitter=AlignmentJitter(80), spec=SpecAugment(2, 8, 1, 2)),
    # The key-press loss stays to the end: CTC alone would put keys on later frames, and spend what a lookahead saves.
    train=TrainConfig(
        epochs=16, batch_size=12, optimizer="adamw", lr=2e-3, lr_start=1e-5, lr_end=1e-5, warmup_epochs=0.5,
        weight_decay=1e-2, clip_norm=1.0, keypress_weight=1.0, keypress_fraction=1.0, blank_prior=0.9, seed=0,
    ),
    data=DataConfig(train_users=tuple(_TRAIN), val_users=tuple(_VAL), test_users=tuple(_TEST)),
)  # fmt: skip
"""For a folder of 120 people with two sessions each: 100 train, ten validate, ten test."""

MANY_PEOPLE = Simulated("simulated-sessions-many", users=120, sessions=2, minutes=2.5)
LIVE_SUITE = Suite(
    "live",
    "the network of emgscribe live: trained on 100 simulated people, tested on ten others",
    (LIVE,),
    simulated=MANY_PEOPLE,
)
