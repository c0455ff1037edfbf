"""Whole sessions and data sets: typist, muscles and electrodes together, written block by block."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import numpy as np

from emgscribe.config import require
from emgscribe.data.charset import key_of_symbol
from emgscribe.data.hdf5 import BANDS, SAMPLE_RATE, Keystroke, Prompt, SessionHeader, read_header, writing_session
from emgscribe.files import replacing
from emgscribe.simulation.arrays import Float32, Rng
from emgscribe.simulation.config import SimulationConfig
from emgscribe.simulation.electrodes import SpikeSum, action_potentials
from emgscribe.simulation.motor_units import SpikeTrains
from emgscribe.simulation.muscles import DRIVE_RATE, SAMPLES_PER_FRAME, Drive
from emgscribe.simulation.people import Forearm, draw_person
from emgscribe.simulation.recording import Recorder
from emgscribe.simulation.typist import Press, Typist

Progress = Callable[[float], None]
_BLOCK = 10 * DRIVE_RATE  # frames
_SESSION_STREAM, _DATASET_STREAM, _CALENDAR_STREAM = 0x51, 0xDA, 0xCA
_MOST = 10_000  # users, and sessions of each; the data set has 108 users with 1,135 sessions
_NUMBERS = 100_000_000  # users are numbered with eight digits
_FIRST_DAY = 1_596_240_000  # 2020-08-01 00:00 UTC
_COLUMNS = ("user", "session", "condition", "duration_mins", "num_keystrokes", "num_prompts", "quality_check_tags")


def simulate_session(
    path: Path | str,
    *,
    user: int,
    session: int,
    minutes: float,
    seed: int,
    config: SimulationConfig | None = None,
    progress: Progress | None = None,
) -> None:
    """Write one simulated session to `path`, in the layout of the data set.

    The person depends on `user` and `config` only; text, typing, placement and noise depend on `user`, `session` and
    `seed` too. The same arguments give the same bytes. `progress` gets the fraction done after every block. The file
    has its name only when it is complete. Raises `EmgscribeError` for a number out of range or an unwritable path.
    """
    _check(minutes, user=user, session=session, seed=seed)
    config, path = config or SimulationConfig(), Path(path)
    habits, forearms = draw_person(user, config)
    streams = np.random.default_rng([_SESSION_STREAM, seed, user, session]).spawn(2 + BANDS)
    frames = round(minutes * 60 * DRIVE_RATE)
    presses, prompts = Typist(habits, config, streams[0]).perform(frames / DRIVE_RATE)
    # The session has the clock of the left band; that of the right one is a little off.
    late = (0.0, config.band_offset * config.difficulty * float(streams[-1].standard_normal()))
    by_hand = [[press for press in presses if press.place.hand == hand] for hand in range(BANDS)]
    bands = [_band(*own, frames, config) for own in zip(forearms, by_hand, late, streams[1:-1], strict=True)]
    origin, done = float(_start(user, session)), 0
    header = SessionHeader(
        name=path.stem,
        user=f"{user:08d}",
        condition="on_keyboard",
        duration_mins=frames / DRIVE_RATE / 60,
        keystrokes=tuple(Keystroke(key_of_symbol(p.symbol), origin + p.start, origin + p.end) for p in presses),
        prompts=tuple(Prompt(p.name, origin + p.start, origin + p.end, p.text) for p in prompts),
        simulation=json.dumps({"seed": seed, "session": session, **asdict(config)}),
    )
    with writing_session(path, header, frames * SAMPLES_PER_FRAME) as append:
        for blocks in zip(*bands, strict=True):
            emg = np.stack(blocks, axis=1)
            append(origin + (done + np.arange(len(emg))) / SAMPLE_RATE, emg)
            done += len(emg)
            if progress is not None:
                progress(done / (frames * SAMPLES_PER_FRAME))


def _band(
    forearm: Forearm, presses: Sequence[Press], late: float, rng: Rng, frames: int, config: SimulationConfig
) -> Iterator[Float32]:
    """Blocks of the samples (T, 16) of one band; its clock is `late` s behind that of the session."""
    *rings, gains = forearm.don(rng, config)
    first, last = (action_potentials(forearm.fibres, forearm.units.size, ring) for ring in rings)
    habits = forearm.motor_habits.of_session(rng, config.redonning * config.difficulty)
    drive = Drive(presses, habits, rng, delay=late, variability=config.difficulty)
    trains, spikes = SpikeTrains(forearm.units, rng), SpikeSum()
    recorder = Recorder(config, gains, frames * SAMPLES_PER_FRAME, rng)
    for start in range(0, frames, _BLOCK):
        count = min(_BLOCK, frames - start)
        unit, sample = trains.fire(drive.block(start, count))
        # The band slips steadily; the step between two blocks is far below the noise.
        potentials = first + np.float32(start / frames) * (last - first)
        yield recorder.record(spikes.add(unit, sample, potentials, count * SAMPLES_PER_FRAME))


def _check(minutes: float, **numbers: int) -> None:
    require(0.05 <= minutes <= 600, "minutes", minutes, "0.05 to 600")
    for name, number in numbers.items():
        require(0 <= number < _NUMBERS, name, number, f"0 to {_NUMBERS - 1}")


def _start(user: int, session: int) -> int:
    """The start of a session in unix seconds: one session per day, in office hours."""
    first_day = int(np.random.default_rng([_CALENDAR_STREAM, user, _NUMBERS]).integers(300))
    second = np.random.default_rng([_CALENDAR_STREAM, user, session]).integers(9 * 3600, 17 * 3600)
    return _FIRST_DAY + (first_day + session) * 86_400 + int(second)


def _name(user: int, session: int) -> str:
    """A name like those of the data set: date, unix time, study and an identifier of the user."""
    start = _start(user, session)
    own = UUID(bytes=np.random.default_rng([_CALENDAR_STREAM, user, _NUMBERS + 1]).bytes(16), version=4)
    return f"{datetime.fromtimestamp(start, UTC):%Y-%m-%d}-{start}-keystrokes-sim-study@1-{own}"


def simulate(
    out: Path | str,
    *,
    users: int = 4,
    sessions: int = 6,
    minutes: float = 15.0,
    seed: int = 0,
    config: SimulationConfig | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Write `sessions` simulated sessions of each of `users` people into the folder `out`; returns the session files.

    The same arguments give the same bytes. `metadata.csv` is written last, so where it exists the data set is complete.
    `progress` gets the fraction done of all sessions. Raises `EmgscribeError` for a number out of range and where `out`
    cannot be written.
    """
    require(1 <= users <= _MOST, "users", users, f"1 to {_MOST}")
    require(1 <= sessions <= _MOST, "sessions", sessions, f"1 to {_MOST}")
    _check(minutes, seed=seed)
    paths: list[Path] = []

    def part(fraction: float) -> None:
        if progress is not None:
            progress((len(paths) + fraction) / (users * sessions))

    for user in _user_numbers(users, seed):
        for session in range(sessions):
            path = Path(out) / f"{_name(user, session)}.hdf5"
            simulate_session(path, user=user, session=session, minutes=minutes, seed=seed, config=config, progress=part)
            paths.append(path)
    with replacing(Path(out) / "metadata.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(_COLUMNS)
        for path in paths:
            header = read_header(path)
            counts = len(header.keystrokes), len(header.prompts)
            table.writerow((header.user, header.name, header.condition, header.duration_mins, *counts, "[]"))
    return paths


def _user_numbers(users: int, seed: int) -> list[int]:
    """Distinct numbers of eight digits; a larger data set with the same seed contains the users of a smaller one."""
    rng = np.random.default_rng([_DATASET_STREAM, seed])
    numbers: dict[int, None] = {}
    while len(numbers) < users:
        numbers[int(rng.integers(_NUMBERS // 10, _NUMBERS))] = None
    return list(numbers)
