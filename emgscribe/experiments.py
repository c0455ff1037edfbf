"""The named experiments. An experiment is a value; a variant is `replace(base, ...)`."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from emgscribe.augment import AlignmentJitter, Augmentation, BandRotation, MagnitudeWarp, SpecAugment
from emgscribe.config import DataConfig, TrainConfig, WindowConfig
from emgscribe.encoders import TdsConfig
from emgscribe.features import SpectrogramConfig
from emgscribe.model import ModelConfig
from emgscribe.train import Recipe


@dataclass(frozen=True)
class Experiment(Recipe):
    """A recipe with a name and its part of the data; the result goes to `results/<name>-<seed>.json`.

    `start` names the experiment whose model of the same seed training begins with (none: random weights).
    """

    name: str = "baseline"
    data: DataConfig = field(default_factory=DataConfig)
    start: str = ""


BASELINE = Experiment()
"""The published baseline: Sivakumar et al. 2024 (arXiv 2410.20081)."""

BASELINE_KEYPRESS = replace(
    BASELINE, name="baseline-keypress", train=replace(BASELINE.train, keypress_weight=1.0, keypress_fraction=0.3)
)
"""The baseline with the key-press loss, which carries it past CTC's all-blank plateau."""

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
        keypress_weight=1.0, keypress_fraction=0.5, seed=0,
    ),
)  # fmt: skip
"""The baseline's pipeline at a size that two cores train in a few minutes on half an hour of simulated typing."""


SMALL = Experiment(
    name="ablation/full",
    model=ModelConfig(
        features=SpectrogramConfig(n_fft=64, hop=48),
        encoder=TdsConfig(mlp_features=96, blocks=3, channels=24, kernel=11, lookahead=4),
    ),
    windows=DEMO.windows,
    augment=Augmentation(spec=SpecAugment(2, 6, 1, 4)),
    train=replace(DEMO.train, epochs=15),
    data=DataConfig(train_users=(0,), test_users=(0,)),
)
"""What the ablations are measured with: the demo's kind of network at 42 frames/s, on the first user of the data."""


def _ablations() -> Iterator[Experiment]:
    """`SMALL` with one thing taken away; nothing else changes, and the number of training steps stays near its own."""
    model, augment, data, train = SMALL.model, SMALL.augment, SMALL.data, SMALL.train
    yield SMALL

    def changed(name: str, **fields: Any) -> Experiment:
        return replace(SMALL, name=f"ablation/{name}", **fields)

    def seen(name: str, **fields: Any) -> Experiment:
        return changed(name, model=replace(model, features=replace(model.features, **fields)))

    for step in (2, 4, 8):
        yield seen(f"electrodes-{16 // step}", electrodes=tuple(range(0, 16, step)))
    for factor in (2, 4, 8):  # the frame rate and the length of a frame in time stay as they are
        yield seen(f"rate-{2000 // factor}", decimation=factor, n_fft=64 // factor, hop=48 // factor)
    for band, hand in enumerate(("left", "right")):
        yield seen(f"{hand}-hand", bands=(band,))
    for hop, kernel, lookahead, frames in ((16, 31, 12, 18), (32, 16, 6, 9), (64, 8, 3, 5)):  # in time all the same
        finer = ModelConfig(
            SpectrogramConfig(n_fft=64, hop=hop),
            TdsConfig(mlp_features=96, blocks=3, channels=24, kernel=kernel, lookahead=lookahead),
        )
        masks = replace(augment, spec=replace(augment.spec, time_frames=frames))
        yield changed(f"hop-{hop}", model=finer, augment=masks)
    for sessions, epochs in ((6, 30), (3, 60)):
        again = replace(train, epochs=epochs, validate_every=epochs // 15)
        few = changed(f"sessions-{sessions}", data=replace(data, sessions=sessions), train=again)
        yield few
    still = replace(augment, rotation=BandRotation((0,)))
    yield replace(few, name=f"{few.name}-no-rotation", augment=still)
    without = {
        "rotation": still,
        "jitter": replace(augment, jitter=AlignmentJitter(0)),
        "specaugment": replace(augment, spec=SpecAugment(0, 0, 0, 0)),
    }
    for name, remaining in without.items():
        yield changed(f"no-{name}", augment=remaining)
    others = replace(data, train_users=(1, 2, 3, 4))
    yield changed("unseen-user", data=others, train=replace(train, epochs=8))
    for minutes in (5, 20):
        yield changed(
            f"adapted-{minutes}-minutes",
            start="ablation/unseen-user",
            data=replace(data, minutes=minutes),
            train=replace(train, epochs=300 // minutes, validate_every=10, lr=5e-4, keypress_weight=0.0),
        )


ABLATIONS: dict[str, Experiment] = {experiment.name: experiment for experiment in _ablations()}
"""What a small network reads from less: fewer electrodes of each band, a lower sampling rate in Hz, one hand, another
frame rate, fewer training sessions, less augmentation; from a person whom it was never trained on, before and after
adapting to so many minutes of theirs. For a folder of five users with 14 sessions or more of four minutes each."""


def _table1() -> Iterator[Experiment]:
    """The rows of the seed paper's Table 1: the baseline at 30 epochs with one change before the encoder."""
    row = replace(BASELINE, name="table1/baseline", train=replace(BASELINE.train, epochs=30))
    yield row
    more, warp = SpecAugment(time_masks=4, frequency_masks=3), MagnitudeWarp(knots=4, sigma=0.2)
    changes = {
        "specaugment-4-3": Augmentation(spec=more),
        "specaugment-2-1": Augmentation(spec=SpecAugment(time_masks=2, frequency_masks=1)),
        "warp-4-0.2": Augmentation(warp=warp),
        "warp-3-0.1": Augmentation(warp=MagnitudeWarp(knots=3, sigma=0.1)),
        "specaugment-4-3-warp-4-0.2": Augmentation(spec=more, warp=warp),
    }
    for name, augment in changes.items():
        yield replace(row, name=f"table1/{name}", augment=augment)
    for name, kernel, back in (
        ("576-kernel-32", 32, False),
        ("576-kernel-16", 16, False),
        ("576-768-kernel-16", 16, True),
    ):
        encoder = TdsConfig(reduction=576, reduction_kernel=kernel, reduction_back=back)
        yield replace(row, name=f"table1/reduction-{name}", model=replace(row.model, encoder=encoder))


TABLE1: dict[str, Experiment] = {experiment.name: experiment for experiment in _table1()}

EXPERIMENTS: dict[str, Experiment] = {
    **{experiment.name: experiment for experiment in (BASELINE, BASELINE_KEYPRESS, DEMO)},
    **TABLE1,
    **ABLATIONS,
}
