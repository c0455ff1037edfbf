"""Streams of LSL on this machine, and BrainFlow's synthetic board: in order, in time, with gaps and jumps counted."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from emgscribe.errors import EmgscribeError
from emgscribe.live.devices import Board, Lsl
from emgscribe.live.grid import Faults, Grid
from emgscribe.live.sources import Source

RATE = 500
OWN = os.getpid()  # keeps names unique: any process can see the streams


def heard(source: Source, seconds: float) -> tuple[Grid, np.ndarray, np.ndarray, list[float]]:
    """What a source sends in some seconds: the grid, samples, times, and how late each piece was."""
    grid, found, late = Grid(source.shape, source.devices), [], []
    until = time.monotonic() + seconds
    for piece in source.pieces():
        if piece is not None:
            late.append(time.monotonic() - source.when(float(piece.times[-1])))
            grid.add(piece)
            found.append(grid.take())
        if time.monotonic() > until:
            break
    source.close()
    return grid, np.concatenate([emg for emg, _ in found]), np.concatenate([times for _, times in found]), late


@contextmanager
def outlet(name: str, channels: int, *, lost: bool = False, jump: float = 0.0, ends: bool = False) -> Iterator[Any]:
    """A stream that counts: every sample of channel c is its number plus c / 100, in mV.

    With `lost`, what is recorded from 1 to 2 s is not sent, and with `ends` the stream ends meanwhile; from 3 s on the
    clock is `jump` s off.
    """
    lsl = pytest.importorskip("pylsl", reason="pip install 'emgscribe[lsl]'")
    info = lsl.StreamInfo(name, "EMG", channels, RATE, "float32", f"{name}-{time.monotonic()}")
    channel = info.desc().append_child("channels").append_child("channel")
    channel.append_child_value("unit", "millivolts")
    stream, ended, begun = lsl.StreamOutlet(info), threading.Event(), lsl.local_clock()

    def send() -> None:
        nonlocal stream
        sent = 0
        while not ended.wait(0.02):
            count = int((lsl.local_clock() - begun) * RATE) - sent
            if ends and stream is not None and RATE < sent + count < 2 * RATE:
                stream = None
            if stream is None and sent + count >= 2 * RATE:
                stream = lsl.StreamOutlet(info)
            if count and not (lost and sent + count >= RATE and sent < 2 * RATE):
                numbers = np.arange(sent + 1, sent + count + 1)[:, None] + np.arange(channels) / 100
                at = begun + (sent + count) / RATE + (jump if sent > 3 * RATE else 0.0)
                stream.push_chunk(numbers.tolist(), at)  # the time of the last one
            sent += count

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield info
    finally:
        ended.set()
        thread.join()  # with it the stream ends


def test_a_stream_of_lsl_arrives_in_order_and_in_microvolts() -> None:
    with outlet(f"one-{OWN}", 6):
        source = Lsl(("left", "right"), [f"one-{OWN}"], wait=0.5)
        grid, emg, times, late = heard(source, 2.5)
    assert (source.shape.electrodes, source.shape.rate) == (3, RATE)
    numbers = emg[:, 0, 0] / 1000
    assert len(numbers) > 700
    np.testing.assert_allclose(np.diff(numbers), 1, atol=1e-2)
    np.testing.assert_allclose(emg[:, 1, 2] - emg[:, 0, 0], 50, atol=2)  # channel 5
    np.testing.assert_allclose(np.diff(times), 1 / RATE, atol=1e-9)
    assert grid.faults == Faults()
    assert np.median(late) < 0.1


@pytest.mark.parametrize("jump", [0.0, 3600.0, -3600.0])
def test_a_lost_second_and_a_jump_of_the_clock_are_counted(jump: float) -> None:
    with outlet(f"lossy-{OWN}", 4, lost=True, jump=jump):
        grid, emg, _, _ = heard(Lsl(("left", "right"), [f"lossy-{OWN}"], wait=0.4), 4.5)
    numbers = emg[:, 0, 0] / 1000
    assert grid.faults.gaps == 1
    assert grid.faults.missing == pytest.approx(RATE, abs=30)
    assert grid.faults.jumps == (jump != 0)
    assert (numbers == 0).sum() == grid.faults.missing
    sent = numbers[numbers > 0]
    np.testing.assert_allclose(np.diff(sent)[np.diff(sent) < 100], 1, atol=1e-2)  # nothing else is lost
    assert sent[-1] > 4 * RATE


def test_a_stream_that_ends_and_comes_back_is_read_again() -> None:
    with outlet(f"again-{OWN}", 4, lost=True, ends=True):
        source, seen, begun = Lsl(("left", "right"), [f"again-{OWN}"], wait=0.4), 0.0, time.monotonic()
        for piece in source.pieces():
            if piece is not None:
                seen = float(piece.samples[-1, 0, 0]) / 1000
            if seen > 2 * RATE or time.monotonic() > begun + 30:
                break
        source.close()
    assert seen > 2 * RATE


def test_each_band_can_have_its_own_stream() -> None:
    with outlet(f"left-{OWN}", 4), outlet(f"right-{OWN}", 4):
        source = Lsl(("left", "right"), [f"left-{OWN}", f"right-{OWN}"], wait=0.5)
        grid, emg, _, _ = heard(source, 2.5)
    assert source.shape.electrodes == 4
    both = emg[-500:] / 1000  # the second stream is opened a little later
    assert (both > 0).all()
    assert np.ptp(both[:, 0, 0] - both[:, 1, 0]) <= 2.5  # they share one clock
    assert grid.faults.jumps == 0


def test_a_missing_or_unfit_stream_gives_one_error() -> None:
    pytest.importorskip("pylsl", reason="pip install 'emgscribe[lsl]'")
    with outlet(f"there-{OWN}", 4), pytest.raises(EmgscribeError, match=r"0 streams(?s:.*)there-"):
        Lsl(("left", "right"), [f"nowhere-{OWN}"], wait=0.5)
    with outlet(f"odd-{OWN}", 5), pytest.raises(EmgscribeError, match=r"channels \[5\] do not fit 2 bands"):
        Lsl(("left", "right"), [f"odd-{OWN}"], wait=0.5)


def test_the_synthetic_board_sends_on_time() -> None:
    pytest.importorskip("brainflow", reason="pip install 'emgscribe[brainflow]'")
    source = Board(-1, ("left", "right"))
    assert (source.shape.electrodes, source.shape.rate) == (8, 250)
    grid, emg, times, late = heard(source, 3)
    assert len(emg) == pytest.approx(750, abs=80)
    # The board is a thread of this process, and skips samples while other tests keep it from running.
    assert replace(grid.faults, missing=0, gaps=0) == Faults()
    assert grid.faults.missing < 75
    assert emg.std() > 1
    np.testing.assert_allclose(np.diff(times), 1 / 250, atol=1e-6)  # unix seconds leave few digits
    assert np.median(late) < 0.2


def test_a_lost_second_and_a_clock_jump_of_a_board_are_counted() -> None:
    pytest.importorskip("brainflow", reason="pip install 'emgscribe[brainflow]'")
    source, begun = Board(-1, ("left", "right")), time.time()
    get = source._board.get_board_data

    def get_less() -> np.ndarray:
        data = get()
        times = data[source._times]
        data = data[:, (times < begun + 1) | (times > begun + 2)]
        data[source._times] -= 600.0 * (data[source._times] > begun + 3)
        return data

    source._board.get_board_data = get_less
    grid, emg, times, late = heard(source, 4.5)
    assert (grid.faults.gaps, grid.faults.jumps) == (1, 1), (grid.faults, len(emg), times[-1] - begun, late[-1])
    assert grid.faults.missing == pytest.approx(250, abs=15)
    assert (emg == 0).all(axis=(1, 2)).sum() == pytest.approx(250, abs=15)


def test_a_lost_board_is_connected_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("brainflow", reason="pip install 'emgscribe[brainflow]'")
    monkeypatch.setattr("emgscribe.live.devices._LOST", 0.3)
    source, lost, tried = Board(-1, ("left", "right")), False, 0
    get, connect = source._board.get_board_data, source._connect

    def get_nothing() -> np.ndarray:
        return get()[:, :0] if lost else get()

    def connect_again() -> None:
        nonlocal lost, tried
        tried += 1
        if tried == 1:
            raise source._error("the port is busy", 2)
        connect()
        lost = False

    source._board.get_board_data, source._connect = get_nothing, connect_again
    grid, begun = Grid(source.shape), time.monotonic()
    for piece in source.pieces():
        if piece is not None:
            grid.add(piece)
            grid.take()
            if source.reconnected:
                break
            lost = True
        assert time.monotonic() < begun + 20
    source.close()
    assert (tried, source.reconnected) == (2, 1)
    assert grid.faults.missing == pytest.approx(150, abs=75)  # of what the board did not send for 0.6 s


def test_a_board_that_does_not_exist_gives_one_error() -> None:
    pytest.importorskip("brainflow", reason="pip install 'emgscribe[brainflow]'")
    with pytest.raises(EmgscribeError, match="no board has the id 98765"):
        Board(98765, ("left",))
    with pytest.raises(EmgscribeError, match="setting is 'cable'"):
        Board(-1, ("left",), {"cable": "red"})
    with pytest.raises(EmgscribeError, match="does not answer"):
        Board(0, ("left",), {"serial_port": "/dev/null"})
