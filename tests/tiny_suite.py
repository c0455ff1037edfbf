"""One more suite: two short runs, the second of which starts from the first's model. As a script, it runs them."""

import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from emgscribe.data.splits import DataConfig
from emgscribe.data.windows import WindowConfig
from emgscribe.experiments.launch import Workers, run_suite
from emgscribe.experiments.recipes import Experiment, Suite
from emgscribe.models.augment import AlignmentJitter, Augmentation, SpecAugment
from emgscribe.models.encoders import TdsConfig
from emgscribe.models.features import SpectrogramConfig
from emgscribe.models.model import ModelConfig
from emgscribe.training.config import TrainConfig

TINY = Experiment(
    name="tiny",
    model=ModelConfig(SpectrogramConfig(n_fft=64, hop=64), TdsConfig(24, 1, 4, 4, 2, dropout=0.1)),
    windows=WindowConfig(length=2000, stride=2000, left=0, right=0),
    augment=Augmentation(jitter=AlignmentJitter(20), spec=SpecAugment(1, 3, 1, 4)),
    train=TrainConfig(
        epochs=16, batch_size=4, lr=1e-2, warmup_epochs=1, keypress_weight=1.0, keypress_fraction=1.0, seed=5
    ),
    data=DataConfig(train_users=(0,), test_users=(0,)),
)
SUITE = Suite("tiny", "two short runs", (replace(TINY, name="tiny-adapted", start="tiny"), TINY))


def brief(experiment: Experiment, **changes: object) -> Experiment:
    """The experiment with two epochs, and with other changes to its training."""
    return replace(experiment, train=replace(experiment.train, **{"epochs": 2, **changes}))


def main(on: str, folder: str, data: str) -> int:
    places = {"runs": Path(folder, "runs"), "results": Path(folder, "results")}
    workers = Workers(on=on, cores=1)
    console = Console(highlight=False)
    return len(run_suite(SUITE.experiments, Path(data), **places, workers=workers, console=console))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
