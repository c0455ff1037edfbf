"""Whole sessions and data sets: typist, muscles and electrodes together, written block by block."""

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import chain, islice
from pathlib import Path
from uuid import UUID

import numpy as np

from emgscribe.config import require
from emgscribe.data.charset import key_of_symbol, symbol_of_key
from emgscribe.data.hdf5 import (
    REAL_KEYS,
    Keystroke,
    Prompt,
    SessionFile,
    SessionHeader,
    moved,
    read_header,
    writing_session,
)
from emgscribe.errors import EmgscribeError
from emgscribe.files import remove_leftovers, replacing
from emgscribe.simulation.arrays import HANDS, SAMPLE_RATE, Float32, Rng
from emgscribe.simulation.config import SimulationConfig
from emgscribe.simulation.electrodes import SpikeSum, action_potentials
from emgscribe.simulation.key_logs import NUM_USERS, find_key_logs, read_key_log
from emgscribe.simulation.motor_units import SpikeTrains
from emgscribe.simulation.muscles import DRIVE_RATE, SAMPLES_PER_FRAME, Drive
from emgscribe.simulation.people import Forearm, draw_person
from emgscribe.simulation.processes import Progress, run_all
from emgscribe.simulation.recording import Recorder
from emgscribe.simulation.typist import Press, Typist, with_fingers

_BLOCK = 10 * DRIVE_RATE  # frames
_SESSION_STREAM, _DATASET_STREAM, _CALENDAR_STREAM, _LOG_STREAM = 0x51, 0xDA, 0xCA, 0x106
_TICKS, _SLOW_TICK = (0.008, 0.015), 0.925  # steps of the key logger's clock in s, and the share of the longer one
_MAX_COUNT = 10_000  # users, and sessions of each; the data set has 108 users with 1,135 sessions
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
    config, path = config or SimulationConfig(), Path(path)
    made = perform(user=user, session=session, minutes=minutes, seed=seed, config=config)
    header = SessionHeader(
        name=path.stem,
        user=f"{user:08d}",
        condition="on_keyboard",
        duration_mins=made.seconds / 60,
        keystrokes=logged_keys(made.presses, made.start, made.tick),
        prompts=moved(made.prompts, made.start),
        simulation=json.dumps({"seed": seed, "session": session, **asdict(config)}),
    )
    _write_emg(path, header, made, config, progress)


@dataclass(frozen=True)
class Performance:
    """What one person types in one session, and its EMG.

    Times of `presses` and `prompts` are in seconds from `start` (unix s); `tick` is the step of the key logger's clock.
    `blocks` makes the samples (T, B, C) in µV, ten seconds at a time, and can be used once.
    """

    start: float
    seconds: float
    presses: Sequence[Press]
    prompts: Sequence[Prompt]
    tick: float
    blocks: Iterator[Float32]


def perform(*, user: int, session: int, minutes: float, seed: int, config: SimulationConfig) -> Performance:
    """One session of a person; see `simulate_session`, which writes it."""
    _check(minutes, user=user, session=session, seed=seed)
    habits, forearms = draw_person(user, config)
    typing, *streams = np.random.default_rng([_SESSION_STREAM, seed, user, session]).spawn(2 + HANDS)
    seconds = round(minutes * 60 * DRIVE_RATE) / DRIVE_RATE
    presses, prompts = Typist(habits, config, typing).perform(seconds)
    tick = _TICKS[int(typing.random() < _SLOW_TICK)]
    blocks = _emg(presses, forearms, streams, seconds, config)
    return Performance(float(_start(user, session)), seconds, presses, prompts, tick, blocks)


def logged_keys(presses: Sequence[Press], origin: float, tick: float) -> tuple[Keystroke, ...]:
    """Keystrokes as the data set's key logger has them: its clock shows the last of its ticks, `tick` s apart."""
    times = np.floor(np.array([(press.start, press.end) for press in presses]).reshape(-1, 2) / tick)
    times[:, 1] = np.maximum(times[:, 1], times[:, 0] + 1)
    return tuple(
        Keystroke(key_of_symbol(press.symbol), origin + start, origin + end)
        for press, (start, end) in zip(presses, (times * tick).tolist(), strict=True)
    )


def _write_emg(
    path: Path, header: SessionHeader, made: Performance, config: SimulationConfig, progress: Progress | None
) -> None:
    frames = round(made.seconds * DRIVE_RATE)
    done, samples = 0, -(-frames * SAMPLES_PER_FRAME * config.sample_rate // SAMPLE_RATE)
    begun = list(islice(made.blocks, int(os.path.exists(path))))  # False for a name that no file can have
    if begun and _holds(path, header, samples, begun[0]):
        if progress is not None:
            progress(1.0)
        return
    with writing_session(path, header, samples, config.shape) as append:
        for emg in chain(begun, made.blocks):
            append(made.start + (done + np.arange(len(emg))) / config.sample_rate, emg)
            done += len(emg)
            if progress is not None:
                progress(done / samples)


def _holds(path: Path, header: SessionHeader, samples: int, first: Float32) -> bool:
    """Whether the session is there already, with the same keys and the same beginning.

    It is kept, so that an interrupted simulation can resume. The beginning shows whether the simulator has changed.
    """
    with suppress(EmgscribeError), SessionFile(path) as file:
        return len(file) == samples and file.header == header and np.array_equal(file.read(0, len(first))[1], first)
    return False


def _emg(
    presses: Sequence[Press],
    forearms: Sequence[Forearm],
    streams: Sequence[Rng],
    seconds: float,
    config: SimulationConfig,
) -> Iterator[Float32]:
    """Blocks of the EMG (T, B, C) of `presses`.

    `streams` are the random generators of both bands, and of the offset between their clocks.
    """
    frames = round(seconds * DRIVE_RATE)
    # The session has the clock of the left band; that of the right one is a little off.
    late = (0.0, config.band_offset * config.difficulty * float(streams[-1].standard_normal()))
    by_hand = [[press for press in presses if press.place.hand == hand] for hand in range(HANDS)]
    hands = [_band(*own, frames, config) for own in zip(forearms, by_hand, late, streams[:-1], strict=True)]
    bands = [hands[("left", "right").index(band)] for band in config.bands]
    return (np.stack(blocks, axis=1) for blocks in zip(*bands, strict=True))


def _band(
    forearm: Forearm, presses: Sequence[Press], late: float, rng: Rng, frames: int, config: SimulationConfig
) -> Iterator[Float32]:
    """Blocks of the samples (T, electrodes) of one band; its clock is `late` s behind that of the session."""
    *rings, gains = forearm.don(rng, config)
    first, last = (action_potentials(forearm.fibres, forearm.units.size, ring) for ring in rings)
    habits = forearm.motor_habits.of_session(rng, config.redonning * config.difficulty)
    drive = Drive(presses, habits, rng, delay=late, variability=config.difficulty)
    trains, spikes = SpikeTrains(forearm.units, rng), SpikeSum(config.electrodes)
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
        require(0 <= number < NUM_USERS, name, number, f"0 to {NUM_USERS - 1}")


def _start(user: int, session: int) -> int:
    """The start of a session in unix seconds: one session per day, in office hours."""
    first_day = int(np.random.default_rng([_CALENDAR_STREAM, user, NUM_USERS]).integers(300))
    second = np.random.default_rng([_CALENDAR_STREAM, user, session]).integers(9 * 3600, 17 * 3600)
    return _FIRST_DAY + (first_day + session) * 86_400 + int(second)


def _name(user: int, session: int) -> str:
    """A name like those of the data set: date, unix time, study and an identifier of the user."""
    start = _start(user, session)
    own = UUID(bytes=np.random.default_rng([_CALENDAR_STREAM, user, NUM_USERS + 1]).bytes(16), version=4)
    return f"{datetime.fromtimestamp(start, UTC):%Y-%m-%d}-{start}-keystrokes-sim-study@1-{own}"


def simulate(
    out: Path | str,
    *,
    users: int = 4,
    sessions: int = 6,
    minutes: float = 15.0,
    seed: int = 0,
    config: SimulationConfig | None = None,
    processes: int = 1,
    progress: Progress | None = None,
) -> list[Path]:
    """Write `sessions` simulated sessions of each of `users` people into the folder `out`; returns the session files.

    The same arguments give the same bytes, however many `processes` make them; 0 means one for each core. A script that
    asks for more than one needs `if __name__ == "__main__":`, as Python's processes do. Sessions that are there already
    are kept, so after an interruption the same call resumes. `metadata.csv` is written last, so where it exists the
    data set is complete. `progress` gets the fraction done of all sessions. Raises `EmgscribeError` for a number out of
    range and where `out` cannot be written.
    """
    require(1 <= users <= _MAX_COUNT, "users", users, f"1 to {_MAX_COUNT}")
    require(1 <= sessions <= _MAX_COUNT, "sessions", sessions, f"1 to {_MAX_COUNT}")
    _check(minutes, seed=seed)
    write = partial(simulate_session, minutes=minutes, seed=seed, config=config)
    made = [(user, session) for user in _user_numbers(users, seed) for session in range(sessions)]
    jobs = {_name(*each): partial(write, user=each[0], session=each[1]) for each in made}
    return _write_all(Path(out), jobs, processes, progress)


def simulate_key_logs(
    folder: Path | str,
    out: Path | str,
    *,
    seed: int = 0,
    config: SimulationConfig | None = None,
    processes: int = 1,
    progress: Progress | None = None,
) -> list[Path]:
    """Simulate EMG for the key logs of a folder (`key_logs`) into the folder `out`; returns the session files.

    There is a session for each log, with its keys, times and prompts, and a person for each user id. The headers say
    "simulated EMG, real keys". Otherwise as `simulate`. Raises `EmgscribeError` also for logs that cannot be used,
    before anything is written.
    """
    _check(1.0, seed=seed)
    jobs: dict[str, Callable[..., None]] = {}
    for path in find_key_logs(Path(folder)):
        log = read_key_log(path)
        name = f"{datetime.fromtimestamp(log.start, UTC):%Y-%m-%d}-{int(log.start)}-simulated-emg-{log.person:08d}"
        if name in jobs:
            what = f"is a second log of user {log.user} that starts at {int(log.start)}"
            raise EmgscribeError(what, where=str(path), hint="take it out of the folder")
        jobs[name] = partial(_simulate_log, log=path, seed=seed, config=config or SimulationConfig())
    return _write_all(Path(out), jobs, processes, progress)


def _simulate_log(path: Path, *, log: Path, seed: int, config: SimulationConfig, progress: Progress) -> None:
    keys = read_key_log(log)
    habits, forearms = draw_person(keys.person, config)
    clock, *streams = np.random.default_rng([_LOG_STREAM, seed, keys.person, int(keys.start)]).spawn(2 + HANDS)
    strokes = [(s, k.start, k.end) for k in keys.keystrokes if (s := symbol_of_key(k.key)) and k.end > k.start]
    # The logger's clock showed its last tick: each key was pressed up to a tick later than the log says.
    later = max(_TICKS) * clock.random(len(strokes))
    strokes = [(s, start + t, end + t) for (s, start, end), t in zip(strokes, later.tolist(), strict=True)]
    header = SessionHeader(
        name=path.stem,
        user=keys.user,
        condition="on_keyboard",
        duration_mins=keys.duration / 60,
        keystrokes=moved(keys.keystrokes, keys.start),
        prompts=moved(keys.prompts, keys.start),
        simulation=json.dumps({"about": REAL_KEYS if keys.real else "", "seed": seed, **asdict(config)}),
    )
    presses = with_fingers(sorted(strokes, key=lambda stroke: stroke[1]), habits)
    blocks = _emg(presses, forearms, streams, keys.duration, config)
    made = Performance(keys.start, keys.duration, presses, keys.prompts, max(_TICKS), blocks)
    _write_emg(path, header, made, config, progress)


def _write_all(
    out: Path, jobs: Mapping[str, Callable[..., None]], processes: int, progress: Progress | None
) -> list[Path]:
    """Write the sessions under their names, then `metadata.csv`."""
    require(0 <= processes <= _MAX_COUNT, "processes", processes, f"0 to {_MAX_COUNT}")
    paths = [out / f"{name}.hdf5" for name in jobs]
    try:
        run_all([partial(job, path) for path, job in zip(paths, jobs.values(), strict=True)], processes, progress)
    except BaseException:
        with suppress(OSError):
            remove_leftovers(out)  # of processes that were ended
        raise
    with replacing(out / "metadata.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
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
        numbers[int(rng.integers(NUM_USERS // 10, NUM_USERS))] = None
    return list(numbers)
