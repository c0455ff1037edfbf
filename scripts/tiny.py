"""The command line with one more experiment and one more suite, both called tiny: a run takes seconds."""

from dataclasses import replace

from emgscribe import cli
from emgscribe.data.windows import WindowConfig
from emgscribe.experiments.recipes import EXPERIMENTS, SUITES, Experiment, Suite
from emgscribe.models.encoders import TdsConfig
from emgscribe.models.features import SpectrogramConfig
from emgscribe.models.model import ModelConfig
from emgscribe.training.config import TrainConfig

TINY = Experiment(
    name="tiny",
    model=ModelConfig(SpectrogramConfig(n_fft=64, hop=64), TdsConfig(8, 1, 4, 4, 2, dropout=0.1)),
    windows=WindowConfig(length=2000, stride=2000, left=0, right=0),
    train=TrainConfig(epochs=2, seed=0, batch_size=4, warmup_epochs=1, blank_prior=0.5),
)


def add() -> None:
    """Give the command line of this process the experiment and the suite."""
    EXPERIMENTS["tiny"] = TINY
    SUITES["tiny"] = Suite("tiny", "two short runs", (replace(TINY, name="tiny-adapted", start="tiny"), TINY))


if __name__ == "__main__":
    add()
    cli.run()
