"""EMG from devices: streams of the Lab Streaming Layer, and boards that BrainFlow reads."""

import json
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from emgscribe.config import require
from emgscribe.data.recordings import UNITS
from emgscribe.data.shape import Band, Shape
from emgscribe.data.xdf import UNIT_NAMES
from emgscribe.errors import EmgscribeError, optional
from emgscribe.live.grid import Piece
from emgscribe.live.sources import Source

_SYNTHETIC = -1  # BrainFlow's board without a device
_POLL = 0.005  # s from one poll to the next
_QUIET = 1.0  # s without samples after which a source says so
_LOST = 3.0  # s without samples after which a board is connected again


class Lsl(Source):
    """EMG of one stream with all bands, or of a stream for each band. Needs pylsl (the extra `lsl`).

    `streams` are their names, left band first; without them it is the only stream of type EMG. The search for them
    takes `wait` s. LSL synchronises the clocks of their computers, and waits for a stream that is lost.
    """

    def __init__(self, bands: Sequence[Band], streams: Sequence[str] = (), *, wait: float = 2.0) -> None:
        lsl = self._lsl = optional("pylsl", "lsl")
        found = lsl.resolve_streams(wait)
        infos = [info for name in streams for info in found if info.name() == name] if streams else []
        infos = infos if streams else [info for info in found if info.type() == "EMG"]
        there = ", ".join(sorted(f"{info.name()} ({info.type()})" for info in found)) or "none"
        hint = f"name a stream for each of the bands {', '.join(bands)}, or one for all (--streams); found: {there}"
        if len(infos) != max(1, len(set(streams))) or len(infos) not in (1, len(bands)):
            raise EmgscribeError(f"{len(infos)} streams of EMG were found", where="LSL", hint=hint)
        rates, counts = {info.nominal_srate() for info in infos}, {info.channel_count() for info in infos}
        each, rest = divmod(sum(info.channel_count() for info in infos), len(bands))
        if len(rates) != 1 or min(rates) <= 0 or len(counts) != 1 or rest:
            what = f"rates {sorted(rates)} and channels {sorted(counts)} do not fit {len(bands)} bands at one rate"
            raise EmgscribeError(what, where="LSL", hint=hint)
        self.shape = Shape(tuple(bands), each, float(rates.pop()))
        self.about = f"LSL, {', '.join(info.name() for info in infos)}: {self.shape}"
        self.devices = [slice(None)] if len(infos) == 1 else [slice(band, band + 1) for band in range(len(bands))]
        self._inlets = [lsl.StreamInlet(info, max_buflen=10, processing_flags=lsl.proc_clocksync) for info in infos]
        self._scales = [UNITS[self._unit(inlet)] for inlet in self._inlets]
        self._offset: float = time.monotonic() - lsl.local_clock()

    def _unit(self, inlet: Any) -> str:
        """The unit in the stream's description, µV where it says none."""
        try:
            channel = inlet.info(timeout=2.0).desc().child("channels").child("channel")
        except Exception:  # its computer does not answer; samples may come all the same
            return "uV"
        return UNIT_NAMES.get(channel.child_value("unit").lower(), "uV")

    def pieces(self) -> Iterator[Piece | None]:
        last = time.monotonic()
        while True:
            came = False
            for device, (inlet, scale) in enumerate(zip(self._inlets, self._scales, strict=True)):
                try:
                    samples, times = inlet.pull_chunk(timeout=0.0, max_samples=1 << 14)
                except RuntimeError as error:  # pylsl's own errors are of this type
                    raise EmgscribeError(f"the stream is lost ({error})", where="LSL", hint="start again") from error
                if times:
                    came = True
                    emg = np.asarray(samples, np.float32).reshape(len(times), -1, self.shape.electrodes)
                    yield Piece(emg * np.float32(scale), np.asarray(times, np.float64), device)
            if came:
                last = time.monotonic()
            elif time.monotonic() - last > _QUIET:
                yield None
                last = time.monotonic()
            time.sleep(_POLL)

    def when(self, time: float) -> float:
        return time + self._offset

    def close(self) -> None:
        for inlet in self._inlets:
            inlet.close_stream()


class Board(Source):
    """EMG of a board that BrainFlow knows, by its id. Needs brainflow (the extra `brainflow`).

    `settings` are those of BrainFlow for the board, such as `serial_port` or `mac_address`. A board that is lost is
    connected again.
    """

    def __init__(self, board: int, bands: Sequence[Band], settings: dict[str, str] | None = None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # BrainFlow's about how it finds its own library
            shim = optional("brainflow.board_shim", "brainflow")
            self._error, self._shim = shim.BrainFlowError, shim.BoardShim
            parameters = shim.BrainFlowInputParams()
            for name, value in (settings or {}).items():
                known = [field for field in vars(parameters) if not field.startswith("_")]
                require(name in known, "setting", name, ", ".join(known))
                kind = type(getattr(parameters, name))
                try:
                    setattr(parameters, name, kind(value))
                except ValueError as error:
                    raise EmgscribeError(f"{name} is {value!r}, not {kind.__name__}", where="--board") from error
            self._shim.disable_board_logger()
            try:
                about = self._shim.get_board_descr(board)
                self._board = self._shim(board, parameters)
            except self._error as error:
                hint = "BrainFlow's documentation lists the ids of boards"
                raise EmgscribeError(f"no board has the id {board} ({error})", where="BrainFlow", hint=hint) from error
        self._rows = about.get("emg_channels") or about.get("exg_channels") or []
        if not self._rows or len(self._rows) % len(bands):
            what = f"{about['name']} has {len(self._rows)} channels of EMG, for {len(bands)} bands"
            raise EmgscribeError(what, where="BrainFlow", hint="name the bands that are worn (--bands)")
        self._times = about["timestamp_channel"]
        self.shape = Shape(tuple(bands), len(self._rows) // len(bands), float(about["sampling_rate"]))
        self.about = f"BrainFlow, {about['name']}: {self.shape}"
        self.simulation = json.dumps({"about": about["name"]}) * (board == _SYNTHETIC)
        self._offset = time.monotonic() - time.time()
        try:
            self._connect()
        except self._error as error:
            hint = "is it switched on, and not used by another program?"
            raise EmgscribeError(f"{about['name']} does not answer ({error})", where="BrainFlow", hint=hint) from error

    def _connect(self) -> None:
        if self._board.is_prepared():
            self._board.release_session()
        self._board.prepare_session()
        self._board.start_stream(45_000)

    def pieces(self) -> Iterator[Piece | None]:
        last = quiet = time.monotonic()
        while True:
            try:
                data = self._board.get_board_data()
            except self._error:  # it is not connected
                data = np.empty((self._times + 1, 0))
            if not data.shape[1] and time.monotonic() - last > _LOST:
                last = time.monotonic()
                with suppress(self._error):
                    self._connect()
                    self.reconnected += 1
            if data.shape[1]:
                last = quiet = time.monotonic()
                emg = data[self._rows].T.astype(np.float32).reshape(-1, *self.shape.sample)
                yield Piece(emg, data[self._times])
            elif time.monotonic() - quiet > _QUIET:
                quiet = time.monotonic()
                yield None
            time.sleep(_POLL)

    def when(self, time: float) -> float:
        return time + self._offset

    def close(self) -> None:
        if self._board.is_prepared():
            self._board.release_session()
