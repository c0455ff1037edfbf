"""Where EMG comes from: a simulated typist, a session file, or a program that writes samples to a pipe."""

import json
import os
import select
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import BinaryIO

import numpy as np

from emgscribe.config import require
from emgscribe.data.charset import labels_of_text
from emgscribe.data.hdf5 import Emg, read_header
from emgscribe.data.session import open_session
from emgscribe.data.shape import Shape
from emgscribe.errors import EmgscribeError
from emgscribe.live.grid import Piece
from emgscribe.simulation.config import SimulationConfig
from emgscribe.simulation.key_logs import NUM_USERS
from emgscribe.simulation.processes import processes, without_interrupts
from emgscribe.simulation.sessions import perform

PIECE_SECONDS = 0.04  # twice as many pieces cost 4 % of a core more
_POLL = 0.1  # s from one poll to the next where nothing comes
_OFF, _SETTLED = 0.25, 1.0  # s by which samples of a pipe may be late or early; s of it after which the times jump


@dataclass(frozen=True)
class Typed:
    """A key that went down: its label, and when, in s on the source's clock."""

    label: int
    time: float


class Source:
    """EMG as it comes. `shape` is that of the recording, `about` says in words what it is.

    `simulation` holds the simulator's settings as JSON where no muscle made the EMG, else nothing. With
    `knows_keys`, `typed` returns every key; with `recorded` it is already a recording; with `waits` samples need not be
    taken in time. `devices` are the bands of each device that sends pieces of its own. `reconnected` counts how often a
    device that was lost came back, where the source can say so.
    """

    shape: Shape
    about: str
    simulation: str = ""
    knows_keys: bool = False
    recorded: bool = False
    waits: bool = False
    reconnected: int = 0
    devices: Sequence[slice] = (slice(None),)

    def pieces(self) -> Iterator[Piece | None]:
        """Pieces as they come, None where none has come for a while. It ends where the source does.

        A device that is lost and comes back resumes; one that is lost for good raises `EmgscribeError`.
        """
        raise NotImplementedError  # each source has its own

    def typed(self) -> list[Typed]:
        """The keys that went down since the last call, as far as they are known."""
        return []

    def when(self, time: float) -> float:
        """A time of the source's clock on that of `time.monotonic`; by default the two are the same."""
        return time

    def stay(self) -> None:
        """Keep the person who types now, who is being recorded. Only a simulation could switch."""

    def follow(self, before: "Source") -> None:
        """Before it begins: continue with the person that the source `before` kept."""

    def close(self) -> None:
        """Release devices and processes."""


class _Paced(Source):
    """A source that has its samples beforehand, and hands them out on time. Its clock begins at 0.

    `speed` 1 is real time, 2 twice as fast; 0 is as fast as they are taken.
    """

    def __init__(self, shape: Shape, speed: float = 1.0) -> None:
        require(speed == 0 or 0.1 <= speed <= 1000, "speed", speed, "0, or 0.1 to 1000")
        self.shape, self.speed, self.waits = shape, speed, speed == 0
        self._begun: float | None = None
        self._given = 0  # samples
        self._keys = deque[Typed]()  # that have not gone down yet

    @property
    def _seconds(self) -> float:
        return self._given / self.shape.rate

    def when(self, time: float) -> float:
        return (self._begun or 0.0) + time / (self.speed or 1.0)

    def typed(self) -> list[Typed]:
        now = []
        while self._keys and self._keys[0].time <= self._seconds:
            now.append(self._keys.popleft())
        return now

    def _give(self, emg: Emg) -> Iterator[Piece]:
        """Pieces of samples (T, B, C), each when its last sample has been recorded."""
        if self._begun is None:
            self._begun = time.monotonic()
        size = max(1, self.shape.samples(PIECE_SECONDS))
        for at in range(0, len(emg), size):
            samples = np.array(emg[at : at + size])
            times = (self._given + np.arange(len(samples))) / self.shape.rate
            self._given += len(samples)
            if self.speed:
                time.sleep(max(0.0, self.when(self._seconds) - time.monotonic()))
            yield Piece(samples, times)


class Replay(_Paced):
    """A session file, as if it were being recorded, `speed` times as fast."""

    knows_keys = recorded = True

    def __init__(self, path: Path | str, *, speed: float = 1.0) -> None:
        self.session = open_session(path)
        super().__init__(self.session.shape, speed)
        self.simulation = read_header(path).simulation
        self.about = f"{self.session.name}, {self.session.kind}"

    def pieces(self) -> Iterator[Piece | None]:
        onsets = (self.session.onsets / self.shape.rate).tolist()
        self._keys.extend(Typed(*key) for key in zip(self.session.labels.tolist(), onsets, strict=True))
        yield from self._give(self.session.emg)


class Simulated(_Paced):
    """A simulated typist, and after `minutes` another one, without end. A process of its own makes the EMG.

    `seed` decides who types what; by default it is another one every time.
    """

    about = "a simulated typist"
    knows_keys = True

    def __init__(
        self, config: SimulationConfig | None = None, *, seed: int | None = None, minutes: float = 5.0
    ) -> None:
        self.config, self.minutes = config or SimulationConfig(), minutes
        self.seed = int.from_bytes(os.urandom(3), "big") if seed is None else seed
        require(0.05 <= minutes <= 600, "minutes", minutes, "0.05 to 600")
        require(0 <= self.seed < NUM_USERS, "seed", self.seed, f"0 to {NUM_USERS - 1}")
        super().__init__(self.config.shape)
        self.simulation = json.dumps({"about": "live", "seed": self.seed, **asdict(self.config)})
        self.person: tuple[int, int] | None = None  # who types now: the numbers of the user and of the session
        self._processes = processes()
        self._stays = self._processes.Event()
        self._process: BaseProcess | None = None

    def stay(self) -> None:
        self._stays.set()

    def follow(self, before: Source) -> None:
        if isinstance(before, Simulated) and before._stays.is_set():
            self.person = before.person
            self.stay()

    def pieces(self) -> Iterator[Piece | None]:
        ours, theirs = self._processes.Pipe(duplex=False)
        given = (theirs, self._stays, self.config, self.seed, self.minutes, self.person)
        self._process = self._processes.Process(target=_type, args=given, daemon=True)
        with without_interrupts():  # Ctrl-C ends this process, which ends that one
            self._process.start()
        theirs.close()
        expected = 0.0  # s of the blocks that have been received
        while True:
            while not ours.poll(_POLL):
                yield None
            try:
                self.person, keys, block = ours.recv()
            except (EOFError, OSError) as error:
                raise EmgscribeError("the simulated typist has stopped", hint="start again") from error
            self._keys.extend(Typed(label, expected + time) for label, time in keys)
            expected += len(block) / self.shape.rate
            if self._begun is not None:  # where the simulator was late, the typist waited
                self._begun += max(0.0, time.monotonic() - self.when(self._seconds) - _POLL)
            yield from self._give(block)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()


def prepare_typist() -> None:
    """Begin to load what a simulated typist needs, where another process can do so meanwhile."""
    if processes().get_start_method() == "forkserver":
        from multiprocessing import forkserver

        with without_interrupts():
            forkserver.ensure_running()


def _type(
    out: Connection, stays: Event, config: SimulationConfig, seed: int, minutes: float, before: tuple[int, int] | None
) -> None:
    """Send (person, keys, block) repeatedly: who types, the labels and times of keys from the block's start on,
    samples (T, B, C). The pipe is full with one block, so only one is made ahead.
    """
    rng, person = np.random.default_rng(seed), before
    with suppress(BrokenPipeError, KeyboardInterrupt):
        while True:
            stranger = int(rng.integers(NUM_USERS)), 0
            person = (person[0], person[1] + 1) if person and stays.is_set() else stranger
            user, session = person
            made = perform(user=user, session=session, minutes=minutes, seed=seed, config=config)
            keys = [(labels_of_text(press.symbol)[0], press.start) for press in made.presses]
            for block in made.blocks:
                out.send((person, keys, block))
                keys = []


class Pipe(_Paced):
    """Samples that a program writes: rows of float32, little-endian, in µV, all electrodes of the left band first.

    They are taken as the program records them. Where for a second all of them come too late, or too early, some were
    lost or had been waiting, and the times jump. With `waits` they come from a file, and the program waits instead.
    """

    def __init__(self, shape: Shape, file: BinaryIO, *, waits: bool = False) -> None:
        super().__init__(shape, speed=0)
        self.file, self.about, self.waits = file, f"samples from a pipe, {shape}", waits
        self._rest = b""  # of a row; reading may go on later
        self._heard = self._since = -np.inf  # when samples came last, and since when the lag has been watched
        self._lag = np.inf  # the smallest since then, in s

    def _keep_time(self, samples: int) -> None:
        """Compare the time of samples that come now with the clock."""
        now, seconds = time.monotonic(), samples / self.shape.rate
        if self._begun is None:
            self._begun = now - seconds
        if now > self._heard + _OFF:  # after a pause, what has been waiting comes first
            self._since, self._lag = now, np.inf
        self._heard, self._lag = now, min(self._lag, now - self.when(self._seconds + seconds))
        if now > self._since + _SETTLED:
            if abs(self._lag) > _OFF:
                self._given += round(self._lag * self.shape.rate)
            self._since, self._lag = now, np.inf

    def pieces(self) -> Iterator[Piece | None]:
        row = 4 * len(self.shape.bands) * self.shape.electrodes
        while True:
            if os.name == "posix" and not select.select([self.file], [], [], _POLL)[0]:
                yield None
                continue
            if not (data := os.read(self.file.fileno(), 1 << 16)):
                break
            data = self._rest + data
            self._rest = data[len(data) // row * row :]
            samples = np.frombuffer(data[: len(data) - len(self._rest)], "<f4").reshape(-1, *self.shape.sample)
            if not self.waits:
                self._keep_time(len(samples))
            yield from self._give(samples)
        if self._rest:
            what = f"ends within a row: {len(self._rest)} of {row} bytes"
            raise EmgscribeError(what, where="stdin", hint=f"write rows of {row // 4} float32 numbers")
