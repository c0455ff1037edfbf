"""The named experiments. An experiment is a value; a variant is `replace(base, ...)`."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from emgscribe.augment import AlignmentJitter, Augmentation, MagnitudeWarp, SpecAugment
from emgscribe.config import TrainConfig, WindowConfig
from emgscribe.encoders import TdsConfig
from emgscribe.features import SpectrogramConfig
from emgscribe.model import ModelConfig
from emgscribe.train import Recipe


@dataclass(frozen=True)
class Experiment(Recipe):
    """A recipe with a name; `name` is also where its result goes: `results/<name>-<seed>.json`."""

    name: str = "baseline"


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


def _seen_by(base: Experiment, name: str, **features: Any) -> Experiment:
    """`base` under another name, with other settings of its features."""
    model = replace(base.model, features=replace(base.model.features, **features))
    return replace(base, name=name, model=model)


ABLATIONS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        *(
            _seen_by(DEMO, f"ablation/electrodes-{16 // step}", electrodes=tuple(range(0, 16, step)))
            for step in (2, 4, 8)
        ),
        # The frame rate and the length of a frame in time stay as they are.
        *(
            _seen_by(DEMO, f"ablation/rate-{2000 // factor}", decimation=factor, n_fft=64 // factor, hop=32 // factor)
            for factor in (2, 4, 8)
        ),
        *(_seen_by(DEMO, f"ablation/{hand}-hand", bands=(band,)) for band, hand in enumerate(("left", "right"))),
    )
}
"""What the demo's network reads from less: fewer electrodes of each band, a lower sampling rate in Hz, one hand."""


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
