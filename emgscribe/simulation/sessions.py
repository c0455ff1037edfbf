"""Whole sessions and data sets: typist, muscles and electrodes put together, block by block, into files."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import numpy as np

from emgscribe.data.hdf5 import BANDS, SAMPLE_RATE, SessionFile, SessionHeader, writing_session
from emgscribe.errors import EmgscribeError
from emgscribe.files import replacing
from emgscribe.simulation.config import SimulationConfig
from emgscribe.simulation.electrodes import SpikeSum, action_potentials
from emgscribe.simulation.motor_units import SpikeTrains
from emgscribe.simulation.muscles import DRIVE_RATE, Drive
from emgscribe.simulation.people import Donning, Forearm, Person
from emgscribe.simulation.recording import Array, Recorder
from emgscribe.simulation.typist import Performance, Press, Typist

Progress = Callable[[float], None]

BLOCK_SECONDS = 10
_BLOCK_FRAMES = BLOCK_SECONDS * DRIVE_RATE
_SAMPLES_PER_FRAME = SAMPLE_RATE // DRIVE_RATE
_SESSION_STREAM, _DATASET_STREAM, _CALENDAR_STREAM = 0x51, 0xDA, 0xCA
_SHORTEST_MINUTES, _LONGEST_MINUTES = 0.05, 600.0
# Users are numbered with eight digits.
_NUMBERS = 100_000_000
_FIRST_DAY = 1_596_240_000  # 2020-08-01 00:00 UTC
_DAY = 86_400
_COLUMNS = ("user", "session", "condition", "duration_mins", "num_keystrokes", "num_prompts", "quality_check_tags")
_CONDITION = "on_keyboard"


class _Band:
    """One forearm with its band through one session of `frames` drive frames."""

    def __init__(
        self,
        forearm: Forearm,
        presses: Sequence[Press],
        frames: int,
        *,
        clock_offset: float,
        rng: np.random.Generator,
        config: SimulationConfig,
    ) -> None:
        donning = Donning.of_session(forearm, rng, config)
        sizes = forearm.units.size
        self._frames = frames
        self._first = action_potentials(forearm.fibres, sizes, donning.first)
        self._slipped = action_potentials(forearm.fibres, sizes, donning.last) - self._first
        habits = forearm.motor_habits.of_session(rng, config.redonning * config.difficulty)
        self._drive = Drive(presses, habits, rng, delay=clock_offset, variability=config.difficulty)
        self._trains, self._sum = SpikeTrains(forearm.units, rng), SpikeSum()
        self._recorder = Recorder(config, donning.gains, frames * _SAMPLES_PER_FRAME, rng)

    def block(self, first_frame: int, frames: int) -> Array:
        """The band's samples (frames x samples a frame, 16) from drive frame `first_frame` on."""
        unit, sample = self._trains.fire(self._drive.block(first_frame, frames))
        # The band slips evenly; a step at the border of two blocks is far below the noise.
        potentials = self._first + np.float32(first_frame / self._frames) * self._slipped
        return self._recorder.record(self._sum.add(unit, sample, potentials, frames * _SAMPLES_PER_FRAME))


def synthesize_session(
    path: Path,
    *,
    user: int,
    session: int,
    minutes: float,
    seed: int,
    config: SimulationConfig | None = None,
    progress: Progress | None = None,
) -> None:
    """Write one session of `minutes` minutes that nobody typed to `path`, in the layout of the data set.

    The person depends on `user` alone; text, typing, placement and noise on `user`, `session` and `seed`. The same
    arguments give the same bytes. `progress` is called with the fraction done after every block. The name `path`
    appears only when the session is whole. Raises `EmgscribeError` for minutes out of range or an unwritable path.
    """
    _check(minutes, user=user, session=session, seed=seed)
    config, path = config or SimulationConfig(), Path(path)
    person = Person.of_user(user, config)
    streams = np.random.default_rng([_SESSION_STREAM, seed, user, session]).spawn(2 + BANDS)
    frames = round(minutes * 60 * DRIVE_RATE)
    performance = Typist(person.habits, config, streams[0]).perform(frames / DRIVE_RATE)
    bands = _bands(person, performance, frames, streams[1:], config)
    origin = float(start_time(user, session))
    with writing_session(path, frames * _SAMPLES_PER_FRAME) as writer:
        for first in range(0, frames, _BLOCK_FRAMES):
            count = min(_BLOCK_FRAMES, frames - first)
            emg = np.stack([band.block(first, count) for band in bands], axis=1)
            samples = first * _SAMPLES_PER_FRAME + np.arange(len(emg))
            writer.append(origin + samples / SAMPLE_RATE, emg)
            if progress is not None:
                progress((first + count) / frames)
        header = SessionHeader(
            name=path.stem,
            user=f"{user:08d}",
            condition=_CONDITION,
            duration_mins=frames / DRIVE_RATE / 60,
            keystrokes=performance.keystrokes(origin),
            prompts=performance.prompts_from(origin),
            simulation=json.dumps({"seed": seed, "session": session, **asdict(config)}),
        )
        writer.finish(header)


def _check(minutes: float, **numbers: int) -> None:
    if not _SHORTEST_MINUTES <= minutes <= _LONGEST_MINUTES:
        raise EmgscribeError(
            f"minutes is {minutes}, allowed is {_SHORTEST_MINUTES:g} to {_LONGEST_MINUTES:g}",
            where="synthetic session",
            hint="a session of the data set has about 18 minutes",
        )
    for name, number in numbers.items():
        if not 0 <= number < _NUMBERS:
            raise EmgscribeError(
                f"{name} is {number}, allowed is 0 to {_NUMBERS - 1}",
                where="synthetic session",
                hint=f"choose another {name}",
            )


def _bands(
    person: Person,
    performance: Performance,
    frames: int,
    streams: Sequence[np.random.Generator],
    config: SimulationConfig,
) -> list[_Band]:
    """Both bands; the left one's clock is the session's, the right one's is a little off."""
    clocks = (0.0, config.band_offset * config.difficulty * float(streams[-1].standard_normal()))
    return [
        _Band(
            person.forearms[hand],
            [press for press in performance.presses if press.place.hand == hand],
            frames,
            clock_offset=clocks[hand],
            rng=streams[hand],
            config=config,
        )
        for hand in range(BANDS)
    ]


def start_time(user: int, session: int) -> int:
    """Unix seconds at which a user's session starts: one session a day, in office hours."""
    rng = np.random.default_rng([_CALENDAR_STREAM, user, _NUMBERS])
    first_day = int(rng.integers(300))
    hour = np.random.default_rng([_CALENDAR_STREAM, user, session]).integers(9 * 3600, 17 * 3600)
    return _FIRST_DAY + (first_day + session) * _DAY + int(hour)


def session_name(user: int, session: int) -> str:
    """A name like those of the data set: date, unix time, study and the user's own identifier."""
    start = start_time(user, session)
    own = UUID(bytes=np.random.default_rng([_CALENDAR_STREAM, user, _NUMBERS + 1]).bytes(16), version=4)
    date = datetime.fromtimestamp(start, UTC).strftime("%Y-%m-%d")
    return f"{date}-{start}-keystrokes-sim-study@1-{own}"


def synthesize_dataset(
    out: Path,
    *,
    users: int = 4,
    sessions: int = 6,
    minutes: float = 15.0,
    seed: int = 0,
    config: SimulationConfig | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Write `users` x `sessions` sessions and their `metadata.csv` into the folder `out`; returns the session files.

    User numbers (8 digits) are drawn from `seed`. Every session is made anew, `metadata.csv` last, so its presence
    says that the data set is whole. `progress` gets the fraction done of the whole.
    """
    if users < 1 or sessions < 1:
        raise EmgscribeError(
            f"{users} users with {sessions} sessions make no data set",
            where="synthetic data set",
            hint="ask for at least one of each",
        )
    _check(minutes, seed=seed)
    out = Path(out)
    planned = [(user, session) for user in _user_numbers(users, seed) for session in range(sessions)]
    paths: list[Path] = []
    for done, (user, session) in enumerate(planned):
        path = out / f"{session_name(user, session)}.hdf5"
        synthesize_session(
            path,
            user=user,
            session=session,
            minutes=minutes,
            seed=seed,
            config=config,
            progress=_part(progress, done, len(planned)),
        )
        paths.append(path)
    _write_metadata(out / "metadata.csv", paths)
    return paths


def _user_numbers(users: int, seed: int) -> list[int]:
    """Distinct numbers of eight digits; a larger data set of the same seed has the users of a smaller one, and more."""
    rng = np.random.default_rng([_DATASET_STREAM, seed])
    numbers: dict[int, None] = {}
    while len(numbers) < users:
        numbers[int(rng.integers(_NUMBERS // 10, _NUMBERS))] = None
    return list(numbers)


def _part(progress: Progress | None, done: int, total: int) -> Progress | None:
    """Progress of one session -> progress of the data set."""
    return None if progress is None else lambda fraction: progress((done + fraction) / total)


def _write_metadata(path: Path, sessions: list[Path]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(_COLUMNS)
        for session in sessions:
            with SessionFile(session) as opened:
                header = opened.header
            counts = len(header.keystrokes), len(header.prompts)
            rows.writerow((header.user, header.name, header.condition, header.duration_mins, *counts, "[]"))
