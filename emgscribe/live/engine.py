"""A source, a model and a decoder at work: one thread takes samples, another reads them."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from emgscribe.data.hdf5 import Emg, Times
from emgscribe.decoding.decoder import Decoder
from emgscribe.errors import EmgscribeError
from emgscribe.live.grid import Grid
from emgscribe.live.meter import Meter, Scored
from emgscribe.live.sources import Source, Typed
from emgscribe.models.model import Model
from emgscribe.models.onnx import OnnxModel
from emgscribe.streaming import Stream, Update

_STEP = 0.015  # s between neighbouring samples, at most, whatever the sampling rate
_MIN_SECONDS = 0.06  # s of samples that are read at a time: fewer cost as much, since the caches are cold each time
_MAX_WAITING, _LEFT = 2.0, 0.3  # s of samples that may wait for the network; s that are left when more do


@dataclass(frozen=True)
class Received:
    """Samples (T, B, C) that came, their times (T,), and the keys that are known to have gone down."""

    emg: Emg
    times: Times
    typed: list[Typed] = field(default_factory=list)


@dataclass(frozen=True)
class Ended:
    """The source has ended and all of it is read, or `error` ended it."""

    error: EmgscribeError | None = None


class Engine:
    """Reads a source until it ends or `stop` is called. Without a model it only takes what comes. `window` is that of
    a `Stream`.

    `on_event` is called by the engine's threads, with what came, what was read, what was scored, and the end. Taking
    samples never waits for the network, unless the source can wait. Where the network is too slow for a live source,
    old samples are left out: `late` counts them, and no more than two seconds wait.
    """

    def __init__(
        self,
        source: Source,
        model: Model | OnnxModel | None,
        decoder: Decoder | None = None,
        *,
        on_event: Callable[[Received | Update | Scored | Ended], None],
        settle_after: float = 2.0,
        window: float | None = None,
    ) -> None:
        if model is not None and source.shape != model.shape:
            what = f"has {source.shape}, but the model reads {model.shape}"
            raise EmgscribeError(what, where=source.about, hint="choose a model of this shape, or train one")
        self.source = source
        self.stream = Stream(model, decoder, settle_after=settle_after, window=window) if model is not None else None
        self.grid, self.late = Grid(source.shape, source.devices), 0
        self.meter = Meter(None if source.waits else source.when)
        self._on_event, self._changed = on_event, threading.Condition()
        self._waiting: deque[tuple[Emg, Times]] = deque()
        self._stopped = self._taken = False
        self._heard = time.monotonic()  # the last samples
        self._error: EmgscribeError | None = None
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._take, self._read)]

    def start(self) -> None:
        """Begin; returns at once."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End both threads, and release the source."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self.join()

    def join(self) -> None:
        """Wait until the source has ended and all of it is read."""
        for thread in self._threads:
            thread.join()
        self.source.close()

    def follow(self, on: bool) -> None:
        """Compare what is read with the keys that `pressed` is given, from now on or no longer."""
        if on:
            self.meter.expect()
            return
        for piece in self.meter.finish(all_read=False):
            self._on_event(piece)

    def pressed(self, keys: list[Typed]) -> None:
        """Keys that went down, from where they are known a little later than the samples."""
        if self.stream is not None:
            self.meter.typed(keys, late=True)

    @property
    def waiting(self) -> float:
        """Seconds of samples that wait for the network."""
        return sum(len(emg) for emg, _ in list(self._waiting)) / self.source.shape.rate

    @property
    def quiet(self) -> float:
        """Seconds since the last samples came."""
        return time.monotonic() - self._heard

    def _take(self) -> None:
        try:
            for piece in self.source.pieces():
                if self._stopped:
                    break
                if piece is not None:
                    self.grid.add(piece)
                    self._heard = time.monotonic()
                emg, times = self.grid.take()
                typed = self.source.typed()
                if self.stream is not None:
                    self.meter.typed(typed)
                self._on_event(Received(emg, times, typed))
                if len(emg):
                    self._put(emg, times)
        except Exception as error:
            self._error = _ours(error)
        finally:
            with self._changed:
                self._taken = True
                self._changed.notify_all()

    def _put(self, emg: Emg, times: Times) -> None:
        with self._changed:
            self._waiting.append((emg, times))
            if self.source.waits:
                self._changed.wait_for(lambda: self._stopped or self.waiting < _MAX_WAITING)
            elif self.waiting > _MAX_WAITING:
                while self.waiting > _LEFT and len(self._waiting) > 1:
                    self.late += len(self._waiting.popleft()[0])
            if self.waiting >= _MIN_SECONDS:
                self._changed.notify_all()

    def _read(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.waiting >= _MIN_SECONDS or self._taken or self._stopped)
                if self._stopped:
                    return
                ended = not self._waiting
                parts = [self._waiting.popleft() for _ in range(len(self._waiting))]
                self._changed.notify_all()
            try:
                if self.stream is not None:
                    self._feed(self.stream, parts, ended)
            except Exception as error:
                self._error, ended = _ours(error), True
            if ended:
                with self._changed:
                    self._stopped = True
                    self._changed.notify_all()
                self._threads[0].join()  # so that nothing comes after the end
                self.source.close()
                self._on_event(Ended(self._error))
                return

    def _feed(self, stream: Stream, parts: list[tuple[Emg, Times]], ended: bool) -> None:
        for emg, times in _runs(parts):
            self._publish(partial(stream.feed, emg, times))
        if ended:
            self._publish(stream.flush)
            for piece in self.meter.finish():
                self._on_event(piece)

    def _publish(self, read: Callable[[], Update]) -> None:
        begun = time.perf_counter()
        update = read()
        scored = self.meter.read(update, time.perf_counter() - begun)
        self._on_event(update)
        for piece in scored:
            self._on_event(piece)


def _ours(error: Exception) -> EmgscribeError:
    """The error itself, or one that says that it was not expected."""
    if isinstance(error, EmgscribeError):
        return error
    what = f"unexpected {type(error).__name__}: {error}"
    return EmgscribeError(what, hint="this is a bug in emgscribe: please report it, with what you did")


def _runs(parts: list[tuple[Emg, Times]]) -> Iterator[tuple[Emg, Times]]:
    """Neighbouring parts together, up to where samples are missing between them or the time jumps."""
    run: list[tuple[Emg, Times]] = []
    for part in parts:
        if run and not 0 < part[1][0] - run[-1][1][-1] < _STEP:
            yield np.concatenate([emg for emg, _ in run]), np.concatenate([times for _, times in run])
            run = []
        run.append(part)
    if run:
        yield np.concatenate([emg for emg, _ in run]), np.concatenate([times for _, times in run])
