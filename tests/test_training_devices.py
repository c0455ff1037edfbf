"""A run on two devices equals a run on one, up to rounding."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from emgscribe.data.session import Session, open_sessions
from emgscribe.data.windows import Store, WindowConfig, Windows
from emgscribe.errors import EmgscribeError
from emgscribe.files import read_json
from emgscribe.models.augment import AlignmentJitter, Augmentation, BandRotation, SpecAugment
from emgscribe.models.encoders import TdsConfig
from emgscribe.models.features import SpectrogramConfig
from emgscribe.models.model import ModelConfig
from emgscribe.simulation import simulate_session
from emgscribe.training import Recipe, TrainConfig, Trained, fit

# Nothing that each device draws or normalises for itself, so that the two must agree.
EXACT = Recipe(
    model=ModelConfig(SpectrogramConfig(n_fft=64, hop=64), TdsConfig(24, 1, 4, 4, 2, rolling=5)),
    windows=WindowConfig(2000, 2000, 0, 0),
    augment=Augmentation(BandRotation(probability=0), AlignmentJitter(0), spec=SpecAugment(0, 0, 0, 0)),
    train=TrainConfig(epochs=2, batch_size=4, lr=1e-3, warmup_epochs=0, ema=0.5, seed=5),
)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> list[Session]:
    folder = tmp_path_factory.mktemp("sessions")
    for number, minutes in enumerate((0.15, 0.1)):
        simulate_session(folder / f"{number}.hdf5", user=1, session=number, minutes=minutes, seed=0)
    return open_sessions(sorted(folder.glob("*.hdf5")), folder / "cache")


def run(sessions: list[Session], folder: Path, devices: int = 1) -> Trained:
    recipe = replace(EXACT, train=replace(EXACT.train, devices=devices))
    quiet, (train, val) = Console(quiet=True), sessions
    return fit(recipe, train_sessions=[train], val_sessions=[val], folder=folder, console=quiet)


def test_the_parts_of_a_batch_are_the_batch(sessions: list[Session]) -> None:
    windows = Windows(Store(sessions), 2000, 2000, 0, 0)
    places = windows.tiling()[:9]
    whole = list(windows.batches(places, 4))
    parts = [list(windows.batches(places, 4, part=part, parts=2)) for part in range(2)]
    assert [len(batch) for batch in whole] == [4, 4, 1]
    for batch, first, second in zip(whole, *parts, strict=True):
        emg = torch.cat([part.emg for part in (first, second) if part.share])
        torch.testing.assert_close(emg.sum((1, 2, 3)).sort()[0], batch.emg.sum((1, 2, 3)).sort()[0])
        assert first.share + second.share == 2
        assert batch.share == 1
    assert [(part[-1].share, len(part[-1])) for part in parts] == [(2.0, 1), (0.0, 1)]


def test_two_devices_train_as_one_does_and_report_that_they_were_two(sessions: list[Session], tmp_path: Path) -> None:
    one, two = run(sessions, tmp_path / "one"), run(sessions, tmp_path / "two", devices=2)
    assert (one.device, two.device) == ("cpu", "2 x cpu")
    assert len(one.curves) == len(two.curves) == 2
    for ours, theirs in zip(one.curves, two.curves, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    for ours, theirs in zip(one.model.parameters(), two.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert read_json(tmp_path / "two" / "settings.json")["train"]["devices"] == 2
    with pytest.raises(EmgscribeError, match=r"other settings: train\.devices is 2 there, 1 here"):
        run(sessions, tmp_path / "two")


def test_what_stops_one_device_stops_all_and_is_reported_once(
    make_stored: Callable[..., Session], tmp_path: Path
) -> None:
    session = make_stored(9000, [(5, 100), (6, 3000), (7, 7500)])
    spoiled = replace(session, emg=np.full_like(session.emg, np.nan))
    with pytest.raises(EmgscribeError, match="training loss is nan at epoch 1, step 1") as caught:
        run([spoiled, session], tmp_path, devices=2)
    assert "--train.lr" in caught.value.hint
    assert not (tmp_path / "last.ckpt").exists()
