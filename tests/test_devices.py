"""One run on two devices: the run that one device makes, as far as arithmetic allows."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny_suite import TINY

from emgscribe.data.session import Session, open_sessions
from emgscribe.data.windows import Store, Windows
from emgscribe.errors import EmgscribeError
from emgscribe.files import read_json
from emgscribe.models.augment import AlignmentJitter, Augmentation, BandRotation, SpecAugment
from emgscribe.simulation import simulate_session
from emgscribe.training import Recipe, Trained, fit
from emgscribe.training.devices import spread

# Nothing that each device draws or normalises by itself, so that the two must agree.
EXACT = replace(
    TINY,
    model=replace(TINY.model, encoder=replace(TINY.model.encoder, dropout=0.0, rolling=5)),
    augment=Augmentation(BandRotation(probability=0), AlignmentJitter(0), spec=SpecAugment(0, 0, 0, 0)),
    train=replace(TINY.train, epochs=2, keypress_weight=0.0, warmup_epochs=0.0, lr=1e-3),
)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> list[Session]:
    folder = tmp_path_factory.mktemp("sessions")
    for number, minutes in enumerate((0.15, 0.1)):
        simulate_session(folder / f"{number}.hdf5", user=1, session=number, minutes=minutes, seed=0)
    return open_sessions(sorted(folder.glob("*.hdf5")), folder / "cache")


def run(recipe: Recipe, sessions: list[Session], folder: Path) -> Trained:
    train, val = sessions
    return fit(recipe, train_sessions=[train], val_sessions=[val], folder=folder, console=Console(quiet=True))


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


def test_two_devices_train_as_one_does_and_say_that_they_were_two(sessions: list[Session], tmp_path: Path) -> None:
    one = run(EXACT, sessions, tmp_path / "one")
    two = run(replace(EXACT, train=replace(EXACT.train, devices=2)), sessions, tmp_path / "two")
    assert (one.device, two.device.split()[:2]) == ("cpu", ["2", "x"])
    assert len(one.curves) == len(two.curves) == 2
    for ours, theirs in zip(one.curves, two.curves, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    for ours, theirs in zip(one.model.parameters(), two.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert read_json(tmp_path / "two" / "settings.json")["train"]["devices"] == 2
    with pytest.raises(EmgscribeError, match=r"other settings \(train\)"):
        run(EXACT, sessions, tmp_path / "two")


def fails(device: torch.device, console: Console) -> None:
    """The work of two processes, of which the second finds a fault and the first would wait for it."""
    if os.environ["LOCAL_RANK"] == "1":
        raise EmgscribeError("no luck", where="there")
    time.sleep(600)


def test_what_stops_one_device_stops_all_and_is_told_once() -> None:
    with pytest.raises(EmgscribeError, match="there: no luck"):
        spread(fails, torch.device("cpu"), 2, None)
