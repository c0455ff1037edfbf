"""Ablations of a small network, at a size for two cores: less data, fewer electrodes, less augmentation."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from emgscribe.data.splits import DataConfig
from emgscribe.experiments.recipes.demo import DEMO
from emgscribe.experiments.recipes.experiment import Curve, Experiment, Suite, by_name
from emgscribe.models.augment import AlignmentJitter, Augmentation, BandRotation, SpecAugment
from emgscribe.models.encoders import RecurrentConfig, ResidualCnnConfig, TdsConfig
from emgscribe.models.features import SpectrogramConfig, StridedConvConfig
from emgscribe.models.model import ModelConfig

_FEATURES = SpectrogramConfig(n_fft=64, hop=48)
_STILL = BandRotation((0,))
_ENCODER = TdsConfig(mlp_features=96, blocks=3, channels=24, kernel=11, lookahead=4)
SMALL = Experiment(
    name="ablation/full",
    model=ModelConfig(_FEATURES, _ENCODER),
    windows=DEMO.windows,
    augment=Augmentation(spec=SpecAugment(2, 6, 1, 4)),
    train=replace(DEMO.train, epochs=15, blank_prior=0.0),
    data=DataConfig(train_users=(0,), test_users=(0,), test_sessions=11),
)
"""The experiment that the ablations change: the demo's kind of network at 42 frames/s, on the first user."""


def _ablations() -> Iterator[Experiment]:
    """`SMALL` with one thing taken away; nothing else changes, and the number of training steps stays near its own."""
    model, augment, data, train = SMALL.model, SMALL.augment, SMALL.data, SMALL.train

    def changed(name: str, **fields: Any) -> Experiment:
        return replace(SMALL, name=f"ablation/{name}", **fields)

    def seen(name: str, **fields: Any) -> Experiment:
        return changed(name, model=replace(model, features=replace(model.features, **fields)))

    yield SMALL
    for step in (2, 4, 8):
        yield seen(f"electrodes-{16 // step}", electrodes=tuple(range(0, 16, step)))
    for factor in (2, 4, 8):  # the frame rate and the length of a frame in time stay as they are
        yield seen(f"rate-{2000 // factor}", decimation=factor, n_fft=64 // factor, hop=48 // factor)
    for band, hand in enumerate(("left", "right")):
        yield seen(f"{hand}-hand", bands=(band,))
    for hop, kernel, lookahead, frames in ((16, 31, 12, 18), (32, 16, 6, 9), (64, 8, 3, 5)):  # in time, the same
        encoder = replace(_ENCODER, kernel=kernel, lookahead=lookahead)
        masks = replace(augment, spec=replace(augment.spec, time_frames=frames))
        yield changed(f"hop-{hop}", model=ModelConfig(replace(_FEATURES, hop=hop), encoder), augment=masks)
    yield from _with_less(SMALL, "ablation/")
    half, quarter = with_fewer_sessions(SMALL, "ablation/", of=12)
    still = replace(quarter, name=f"{quarter.name}-no-rotation", augment=replace(augment, rotation=_STILL))
    yield from (half, quarter, still)
    others = replace(data, train_users=(1, 2, 3, 4))
    yield changed("unseen-user", data=others, train=replace(train, epochs=8))
    for minutes, epochs, every in ((5, 60, 10), (20, 15, 5)):
        tuning = replace(train, epochs=epochs, validate_every=every, lr=5e-4, keypress_weight=0.0)
        start, name = "ablation/unseen-user", f"adapted-{minutes}-minutes"
        yield changed(name, start=start, data=replace(data, minutes=minutes), train=tuning)


def _recurrent() -> Iterator[Experiment]:
    """Convolutions and a BiGRU at 42 and 125 frames/s. What was published for recurrent networks is compared here."""
    slowly = replace(SMALL.train, lr=1e-3, blank_prior=0.9)  # see the budgets: else it stays on the all-blank plateau
    for name, hop, kernel, left, right in (("gru", 48, 3, 35, 1), ("gru-hop-16", 16, 9, 104, 4)):
        cnn = ResidualCnnConfig(mlp_features=96, projection=64, widths=(64, 64), kernel=kernel, lookahead=kernel // 2)
        network = ModelConfig(replace(_FEATURES, hop=hop), RecurrentConfig(cnn, hidden=128, left=left, right=right))
        masks = replace(SMALL.augment, spec=replace(SMALL.augment.spec, time_frames=6 * 48 // hop))
        recurrent = replace(SMALL, name=f"ablation/{name}", model=network, augment=masks, train=slowly)
        yield recurrent
        if hop == _FEATURES.hop:
            yield from _with_less(recurrent, f"ablation/{name}-")


def _with_less(base: Experiment, prefix: str) -> Iterator[Experiment]:
    """`base` without spectra, and without each of its augmentations."""
    yield replace(base, name=f"{prefix}raw-emg", model=replace(base.model, features=StridedConvConfig()))
    yield from with_less_augmentation(base, prefix)


def with_fewer_sessions(base: Experiment, prefix: str, of: int) -> tuple[Experiment, Experiment]:
    """`base` with half and with a quarter of its `of` training sessions, as often validated in as many steps."""

    def part(share: int) -> Experiment:
        train = replace(base.train, epochs=base.train.epochs * share, validate_every=share)
        data = replace(base.data, sessions=of // share)
        return replace(base, name=f"{prefix}sessions-{of // share}", train=train, data=data)

    return part(2), part(4)


def with_less_augmentation(base: Experiment, prefix: str) -> Iterator[Experiment]:
    """`base` without each of its augmentations."""
    less = {
        "no-rotation": replace(base.augment, rotation=_STILL),
        "no-jitter": replace(base.augment, jitter=AlignmentJitter(0)),
        "no-specaugment": replace(base.augment, spec=SpecAugment(0, 0, 0, 0)),
    }
    for name, augment in less.items():
        yield replace(base, name=f"{prefix}{name}", augment=augment)


ABLATIONS = by_name((*_ablations(), *_recurrent()))
"""A small network with fewer electrodes of each band, a lower sampling rate in Hz, one hand, another frame rate, fewer
training sessions or less augmentation; and on an unseen user, before and after fine-tuning on a few minutes.
For a folder of five users with 24 sessions or more of four minutes each, of which eleven test."""

_ABOUT = "fewer electrodes, samples, sessions or augmentations, one hand, a new person; five simulated people"
_CURVES = (
    Curve("electrodes of each band", {16: "full"} | {16 // step: f"electrodes-{16 // step}" for step in (2, 4, 8)}),
    Curve("samples a second", {2000: "full"} | {2000 // step: f"rate-{2000 // step}" for step in (2, 4, 8)}),
    Curve("sessions to train on", {12: "full", 6: "sessions-6", 3: "sessions-3"}),
    Curve("minutes of a new person's typing", {5: "adapted-5-minutes", 20: "adapted-20-minutes", 0: "unseen-user"}),
    Curve("samples from one frame to the next", {48: "full"} | {hop: f"hop-{hop}" for hop in (16, 32, 64)}),
)
# The experiment that all others are compared with has three seeds: between seeds the CER differs by some points.
_FULL = tuple(replace(SMALL, train=replace(SMALL.train, seed=seed)) for seed in (1, 2))
ABLATION_SUITE = Suite("ablation", _ABOUT, (*ABLATIONS.values(), *_FULL), curves=_CURVES)
