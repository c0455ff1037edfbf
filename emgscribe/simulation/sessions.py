"""Whole sessions and data sets: typist, muscles and electrodes together, written block by block."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import numpy as np

from emgscribe.config import require
from emgscribe.data.hdf5 import BANDS, SAMPLE_RATE, SessionHeader, read_header, writing_session
from emgscribe.files import replacing
from emgscribe.simulation.arrays import Float32, Rng
from emgscribe.simulation.config import SimulationConfig
from emgscribe.simulation.electrodes import SpikeSum, action_potentials
from emgscribe.simulation.motor_units import SpikeTrains
from emgscribe.simulation.muscles import DRIVE_RATE, Drive
from emgscribe.simulation.people import Donning, Forearm, Person
from emgscribe.simulation.recording import Recorder
from emgscribe.simulation.typist import Press, Typist

Progress = Callable[[float], None]

BLOCK_SECONDS = 10
_BLOCK_FRAMES = BLOCK_SECONDS * DRIVE_RATE
_SAMPLES_PER_FRAME = SAMPLE_RATE // DRIVE_RATE
_SESSION_STREAM, _DATASET_STREAM, _CALENDAR_STREAM = 0x51, 0xDA, 0xCA
_SHORTEST_MINUTES, _LONGEST_MINUTES = 0.05, 600.0
_MOST = 10_000  # users, and sessions of each; the data set has 108 users with 1,135 sessions
_NUMBERS = 100_000_000  # users are numbered with eight digits
_FIRST_DAY = 1_596_240_000  # 2020-08-01 00:00 UTC
_COLUMNS = ("user", "session", "condition", "duration_mins", "num_keystrokes", "num_prompts", "quality_check_tags")


class _Band:
    """One forearm and its band in a session; the clock of the band is `late` s behind that of the session."""

    def __init__(
        self, forearm: Forearm, presses: Sequence[Press], late: float, rng: Rng, frames: int, config: SimulationConfig
    ) -> None:
        donning = Donning.of_session(forearm, rng, config)
        sizes = forearm.units.size
        self._frames = frames
        self._first = action_potentials(forearm.fibres, sizes, donning.first)
        self._slipped = action_potentials(forearm.fibres, sizes, donning.last) - self._first
        habits = forearm.motor_habits.of_session(rng, config.redonning * config.difficulty)
        self._drive = Drive(presses, habits, rng, delay=late, variability=config.difficulty)
        self._trains, self._sum = SpikeTrains(forearm.units, rng), SpikeSum()
        self._recorder = Recorder(config, donning.gains, frames * _SAMPLES_PER_FRAME, rng)

    def block(self, first_frame: int, frames: int) -> Float32:
        """The samples (T, 16) of `frames` frames from `first_frame` on."""
        unit, sample = self._trains.fire(self._drive.block(first_frame, frames))
        # The band slips steadily; the step between two blocks is far below the noise.
        potentials = self._first + np.float32(first_frame / self._frames) * self._slipped
        return self._recorder.record(self._sum.add(unit, sample, potentials, frames * _SAMPLES_PER_FRAME))


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
    person = Person.of_user(user, config)
    streams = np.random.default_rng([_SESSION_STREAM, seed, user, session]).spawn(2 + BANDS)
    frames = round(minutes * 60 * DRIVE_RATE)
    performance = Typist(person.habits, config, streams[0]).perform(frames / DRIVE_RATE)
    # The session has the clock of the left band; that of the right one is a little off.
    late = (0.0, config.band_offset * config.difficulty * float(streams[-1].standard_normal()))
    presses = [[press for press in performance.presses if press.place.hand == hand] for hand in range(BANDS)]
    bands = [_Band(*own, frames, config) for own in zip(person.forearms, presses, late, streams[1:-1], strict=True)]
    origin = float(start_time(user, session))
    header = SessionHeader(
        name=path.stem,
        user=f"{user:08d}",
        condition="on_keyboard",
        duration_mins=frames / DRIVE_RATE / 60,
        keystrokes=performance.keystrokes(origin),
        prompts=performance.prompts_from(origin),
        simulation=json.dumps({"seed": seed, "session": session, **asdict(config)}),
    )
    with writing_session(path, header, frames * _SAMPLES_PER_FRAME) as append:
        for first in range(0, frames, _BLOCK_FRAMES):
            count = min(_BLOCK_FRAMES, frames - first)
            emg = np.stack([band.block(first, count) for band in bands], axis=1)
            samples = first * _SAMPLES_PER_FRAME + np.arange(len(emg))
            append(origin + samples / SAMPLE_RATE, emg)
            if progress is not None:
                progress((first + count) / frames)


def _check(minutes: float, **numbers: int) -> None:
    allowed = f"{_SHORTEST_MINUTES:g} to {_LONGEST_MINUTES:g}"
    require(_SHORTEST_MINUTES <= minutes <= _LONGEST_MINUTES, "minutes", minutes, allowed)
    for name, number in numbers.items():
        require(0 <= number < _NUMBERS, name, number, f"0 to {_NUMBERS - 1}")


def start_time(user: int, session: int) -> int:
    """The start of a session in unix seconds: one session per day, in office hours."""
    first_day = int(np.random.default_rng([_CALENDAR_STREAM, user, _NUMBERS]).integers(300))
    second = np.random.default_rng([_CALENDAR_STREAM, user, session]).integers(9 * 3600, 17 * 3600)
    return _FIRST_DAY + (first_day + session) * 86_400 + int(second)


def session_name(user: int, session: int) -> str:
    """A name like those of the data set: date, unix time, study and an identifier of the user."""
    start = start_time(user, session)
    own = UUID(bytes=np.random.default_rng([_CALENDAR_STREAM, user, _NUMBERS + 1]).bytes(16), version=4)
    date = datetime.fromtimestamp(start, UTC).strftime("%Y-%m-%d")
    return f"{date}-{start}-keystrokes-sim-study@1-{own}"


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
    planned = [(user, session) for user in _user_numbers(users, seed) for session in range(sessions)]
    paths: list[Path] = []
    for done, (user, session) in enumerate(planned):
        path = Path(out) / f"{session_name(user, session)}.hdf5"
        part = progress and _part(progress, done, len(planned))
        simulate_session(path, user=user, session=session, minutes=minutes, seed=seed, config=config, progress=part)
        paths.append(path)
    _write_metadata(Path(out) / "metadata.csv", paths)
    return paths


def _user_numbers(users: int, seed: int) -> list[int]:
    """Distinct numbers of eight digits; a larger data set with the same seed contains the users of a smaller one."""
    rng = np.random.default_rng([_DATASET_STREAM, seed])
    numbers: dict[int, None] = {}
    while len(numbers) < users:
        numbers[int(rng.integers(_NUMBERS // 10, _NUMBERS))] = None
    return list(numbers)


def _part(progress: Progress, done: int, total: int) -> Progress:
    """The progress of one session -> the progress of the data set."""
    return lambda fraction: progress((done + fraction) / total)


def _write_metadata(path: Path, sessions: list[Path]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(_COLUMNS)
        for session in sessions:
            header = read_header(session)
            counts = len(header.keystrokes), len(header.prompts)
            rows.writerow((header.user, header.name, header.condition, header.duration_mins, *counts, "[]"))
