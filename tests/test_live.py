"""Live use without a page: sources, the engine, the meter, and the messages for clients."""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import FEATURES, GRU, TDS, scrambled

from emgscribe.cli.live import SourceOptions
from emgscribe.data.charset import labels_of_text
from emgscribe.data.session import Session, open_session
from emgscribe.data.shape import Shape
from emgscribe.errors import EmgscribeError
from emgscribe.evaluation import evaluate
from emgscribe.live.engine import Ended, Engine, Received
from emgscribe.live.grid import Faults, Piece
from emgscribe.live.hub import Choice, Live
from emgscribe.live.meter import Meter, Scored
from emgscribe.live.show import UNIT, Scope, shown
from emgscribe.live.sources import Pipe, Replay, Simulated, Source, Typed
from emgscribe.models.model import Model, ModelConfig, load_model, model_folder, save_model
from emgscribe.simulation.config import SimulationConfig
from emgscribe.simulation.sessions import simulate, simulate_session
from emgscribe.streaming import Update
from emgscribe.transcription import Transcript

Event = Received | Update | Scored | Ended


@pytest.fixture
def model() -> Model:
    model = Model(ModelConfig(FEATURES, TDS))
    scrambled(model)
    return model


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Six simulated seconds."""
    (path,) = simulate(tmp_path_factory.mktemp("live"), users=1, sessions=1, minutes=0.1)
    return open_session(path)


def run(source: Source, model: Model | None, seconds: float = 0.0) -> tuple[Engine, list[Event]]:
    """The events of an engine until its source ends, or for some seconds."""
    events: list[Event] = []
    engine = Engine(source, model, on_event=events.append)
    engine.start()
    if seconds:
        time.sleep(seconds)
        engine.stop()
    else:
        engine.join()
    return engine, events


def committed(events: list[Event]) -> str:
    return "".join(event.committed.text for event in events if isinstance(event, Update))


def test_live_decoding_gives_the_text_of_an_offline_transcription(session: Session, model: Model) -> None:
    engine, events = run(Replay(session.path, speed=0), model)
    assert committed(events) == model.transcribe(session).text
    assert np.concatenate([event.emg for event in events if isinstance(event, Received)]).shape == session.emg.shape
    typed = [key for event in events if isinstance(event, Received) for key in event.typed]
    assert [key.label for key in typed] == session.labels.tolist()
    np.testing.assert_allclose([key.time for key in typed], session.onsets / 2000, atol=1e-9)
    assert events[-1] == Ended()
    assert (engine.late, engine.grid.faults.missing) == (0, 0)


def test_a_replay_runs_at_its_speed(session: Session, model: Model) -> None:
    begun = time.monotonic()
    engine, events = run(Replay(session.path, speed=4), model)
    assert time.monotonic() - begun > 1.4
    assert committed(events) == model.transcribe(session).text or engine.late  # this machine may be busy


def test_a_simulated_typist_never_stops_typing(model: Model) -> None:
    source = Simulated(SimulationConfig(difficulty=0.0), seed=5, minutes=0.05)
    heard: list[Piece] = []
    keys: list[Typed] = []
    for piece in source.pieces():
        if piece is not None:
            heard.append(piece)
            keys += source.typed()
        if len(heard) > 200:
            break
    source.close()
    times = np.concatenate([piece.times for piece in heard])
    np.testing.assert_allclose(np.diff(times), 1 / 2000, atol=1e-9)  # across people too, each of whom types 3 s
    assert keys
    assert all(0 <= key.time <= times[-1] for key in keys)
    loud = np.concatenate([piece.samples for piece in heard]).std()
    assert 1 < loud < 1000


def test_the_same_seed_types_the_same(model: Model) -> None:
    def first(seed: int) -> np.ndarray:
        source = Simulated(seed=seed, minutes=0.05)
        piece = next(piece for piece in source.pieces() if piece is not None)
        source.close()
        return piece.samples

    np.testing.assert_array_equal(first(7), first(7))
    assert not np.array_equal(first(7), first(8))


def test_rows_of_a_pipe_are_read_in_chunks_of_any_size(session: Session, model: Model) -> None:
    data = np.asarray(session.emg, "<f4").tobytes()
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb", buffering=0) as file:
            for at in range(0, len(data), 30_001):
                file.write(data[at : at + 30_001])

    threading.Thread(target=write).start()
    with open(reading, "rb") as file:
        _, events = run(Pipe(model.shape, file, waits=True), model)
    assert committed(events) == model.transcribe(session).text


def test_a_truncated_row_gives_one_error_after_the_complete_rows(session: Session, model: Model) -> None:
    reading, writing = os.pipe()
    os.write(writing, bytes(128 * 100 + 7))
    os.close(writing)
    with open(reading, "rb") as file:
        _, events = run(Pipe(model.shape, file, waits=True), model)
    ended = events[-1]
    assert isinstance(ended, Ended)
    assert "7 of 128 bytes" in str(ended.error)
    assert sum(len(event.emg) for event in events if isinstance(event, Received)) == 100


def test_a_silent_pipe_can_be_stopped(model: Model) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as file:
        engine, events = run(Pipe(model.shape, file), model, seconds=0.3)
    os.close(writing)
    assert not any(isinstance(event, Ended) for event in events)
    assert not any(thread.is_alive() for thread in engine._threads)


def piped(write: Callable[[int], None]) -> tuple[Engine, list[Event]]:
    """An engine without a model, until `write` has written to its pipe."""
    reading, writing = os.pipe()

    def then_close() -> None:
        write(writing)
        os.close(writing)

    thread = threading.Thread(target=then_close)
    with open(reading, "rb") as file:
        thread.start()
        done = run(Pipe(Shape(("left",), 4, 200.0), file), None)
    thread.join()
    return done


def as_recorded(writing: int, seconds: float, *, lost: tuple[float, float] = (9, 9), late: float = 0.0) -> None:
    """Write samples as they are recorded, but those that are lost; those that are late come after a pause."""
    begun, sent = time.monotonic(), 0
    while (now := time.monotonic() - begun) < seconds:
        if not 1 < now < 1 + late:
            rows = int(now * 200) - sent
            if not lost[0] < now < lost[1]:
                os.write(writing, np.ones((rows, 4), "<f4").tobytes())
            sent += rows
        time.sleep(0.02)


def test_a_pipe_that_loses_samples_keeps_the_time() -> None:
    begun = time.monotonic()
    engine, events = piped(lambda writing: as_recorded(writing, 4.0, lost=(1, 2)))
    times = np.concatenate([event.times for event in events if isinstance(event, Received)])
    assert engine.source.when(times[-1]) - begun == pytest.approx(4.0, abs=0.2)
    assert (engine.grid.faults.gaps, engine.grid.faults.missing) == (1, pytest.approx(200, abs=20))


def test_a_pipe_that_pauses_loses_nothing() -> None:
    engine, events = piped(lambda writing: as_recorded(writing, 4.0, late=1.0))
    assert engine.grid.faults == Faults()
    assert sum(len(event.emg) for event in events if isinstance(event, Received)) == pytest.approx(800, abs=20)


class Broken(Source):
    """A source whose library raises something of its own."""

    shape, about, closed = Shape(), "broken", False

    def pieces(self):
        yield Piece(np.zeros((200, 2, 16), np.float32), np.arange(200) / 2000)
        raise RuntimeError("cable")

    def close(self) -> None:
        self.closed = True


def test_an_exception_in_a_source_is_reported_and_ends_the_engine(model: Model) -> None:
    _, events = run(source := Broken(), model)
    assert isinstance(ended := events[-1], Ended)
    assert "unexpected RuntimeError: cable" in str(ended.error)
    assert source.closed
    assert sum(len(event.emissions) for event in events if isinstance(event, Update)) == 13  # all that came


def test_an_exception_in_the_network_is_reported_and_ends_the_engine(session: Session) -> None:
    class Failing(Model):
        def classify(self, frames: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("memory")

    for speed in (0, 100):  # whether the source waits or not
        _, events = run(Replay(session.path, speed=speed), Failing(ModelConfig(FEATURES, TDS)))
        assert isinstance(ended := events[-1], Ended)
        assert "memory" in str(ended.error)


class Slow(Model):
    """A network that takes longer than its signal lasts."""

    seconds = 0.3

    def classify(self, frames: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return super().classify(frames)


class Fast(Source):
    """Half a minute of samples that come at twenty times their rate and do not wait."""

    shape, about = Shape(), "fast"

    def pieces(self):
        for at in range(300):
            time.sleep(0.005)
            yield Piece(np.zeros((200, 2, 16), np.float32), (200 * at + np.arange(200)) / 2000)


def test_where_the_network_is_too_slow_samples_are_left_out_and_counted() -> None:
    model = Slow(ModelConfig(FEATURES, TDS))
    waited: list[float] = []
    events: list[Event] = []
    engine = Engine(Fast(), model, on_event=lambda event: (events.append(event), waited.append(engine.waiting)))
    engine.start()
    engine.join()
    read = [event for event in events if isinstance(event, Update)]
    assert sum(len(event.emg) for event in events if isinstance(event, Received)) == 60_000  # taking did not wait
    assert engine.late > 10_000
    assert sum(len(event.emissions) for event in read) == pytest.approx((60_000 - engine.late) / 16, abs=2)
    assert max(waited) <= 2.3
    assert read[-1].seconds == pytest.approx(30, abs=0.1)  # its clock knows what was left out


def test_a_pipe_does_not_wait_for_a_slow_network(session: Session) -> None:
    reading, writing = os.pipe()
    events = list[Event]()
    slow = Slow(ModelConfig(FEATURES, TDS))
    slow.seconds = 3.0
    with open(reading, "rb") as file:
        engine = Engine(Pipe(session.shape, file), slow, on_event=events.append)
        engine.start()
        begun = time.monotonic()
        while time.monotonic() < begun + 5:
            os.write(writing, np.asarray(session.emg[:400], "<f4").tobytes())
            time.sleep(0.2)
        assert engine.waiting < 2.5
        assert engine.late > 0
        os.close(writing)
        engine.join()


def test_a_source_of_another_shape_is_refused(session: Session) -> None:
    model = Model(ModelConfig(FEATURES, TDS), Shape(("left", "right"), 8, 200.0))
    with pytest.raises(EmgscribeError, match=r"16 electrodes.* 8 electrodes"):
        Engine(Replay(session.path), model, on_event=print)


def decoded(text: str, *onsets: float) -> Transcript:
    return Transcript(tuple(labels_of_text(text)), onsets)


def reading(committed: Transcript, tentative: Transcript, seconds: float) -> Update:
    return Update(committed, tentative, np.zeros((0, 99), np.float32), seconds, 0.1)


def test_latencies_count_from_the_key_to_its_first_appearance(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("emgscribe.live.meter.time.monotonic", lambda: now)
    meter = Meter(lambda time: time + 100)
    meter.typed([Typed(label, at) for label, at in zip(labels_of_text("aba"), (1.0, 1.2, 1.4), strict=True)])
    for now, done, doubt in (
        (101.15, decoded(""), decoded("a", 1.02)),
        (101.4, decoded("a", 1.02), decoded("b", 1.2)),
        (101.6, decoded(""), decoded("xa", 1.2, 1.41)),
        (102.0, decoded("ba", 1.21, 1.41), decoded("")),
    ):
        meter.read(reading(done, doubt, now - 100), 0.01)
    found = meter.measured()
    assert sorted([0.15, 0.2, 0.2]) == pytest.approx(sorted(meter._shown))
    assert sorted(meter._committed) == pytest.approx([0.4, 0.6, 0.8])
    assert found.shown[0] == pytest.approx(0.2)
    assert found.computing == pytest.approx((0.01,) * 3)


def test_a_letter_on_the_screen_is_not_taken_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("emgscribe.live.meter.time.monotonic", lambda: now)
    meter = Meter(lambda time: time + 100)
    meter.typed([Typed(label, at) for label, at in zip(labels_of_text("ll"), (1.0, 1.2), strict=True)])
    for now, doubt in ((101.1, decoded("l", 1.0)), (101.25, decoded("l", 1.0)), (101.5, decoded("ll", 1.0, 1.2))):
        meter.read(reading(decoded(""), doubt, now - 100), 0.01)
    assert list(meter._shown) == pytest.approx([0.1, 0.3])


def test_keys_that_come_late_and_out_of_order_are_scored_in_order() -> None:
    meter = Meter(None)
    meter.expect()
    meter.read(reading(decoded("xab", 0.5, 1.0, 1.2), decoded(""), 1.3), 0.0)
    meter.typed([Typed(*labels_of_text("b"), 1.2), Typed(*labels_of_text("a"), 1.0)], late=True)
    (piece,) = meter.read(reading(decoded(""), decoded(""), 2.9), 0.0)
    assert piece.typed == tuple(labels_of_text("ab"))
    assert (piece.counts.insertions, piece.counts.edits) == (1, 1)
    meter.typed([Typed(*labels_of_text("c"), 2.8)], late=True)
    assert meter.finish(all_read=False) == []  # it may still be read
    meter.read(reading(decoded("zz", 2.9, 3.0), decoded(""), 3.5), 0.0)
    assert meter.measured().counts == piece.counts


def test_errors_are_counted_once_and_nothing_is_kept() -> None:
    meter, scored = Meter(None), []
    for line in range(200):
        begun = 3.0 * line
        meter.typed([Typed(label, begun + 0.2 * at) for at, label in enumerate(labels_of_text("abcde"))])
        committed = decoded("abxde" if line % 2 else "abde", *(begun + 0.2 * at for at in range(4 + line % 2)))
        scored += meter.read(reading(committed, decoded(""), begun + 2.9), 0.0)
    assert [len(piece.typed) for piece in scored] == [5] * 200
    assert meter.measured().counts.cer == pytest.approx(20)
    assert (meter.measured().counts.deletions, meter.measured().counts.substitutions) == (100, 100)
    assert len(meter._keys) + len(meter._read) == 0


def test_typing_without_a_pause_is_scored_too() -> None:
    meter, scored = Meter(None), []
    for at in range(3000):
        meter.typed([Typed(3, 0.2 * at)])
        scored += meter.read(reading(decoded("d", 0.2 * at), decoded(""), 0.2 * at + 0.5), 0.0)
    assert sum(len(piece.typed) for piece in scored) > 2000
    assert len(meter._keys) <= 402
    assert meter.measured().counts.cer == 0


def test_the_scope_shows_the_extremes_of_all_samples() -> None:
    emg = np.random.default_rng(0).normal(0, 50, (2003, 2, 16)).astype(np.float32)
    scope, made = Scope(Shape()), []
    for at in range(0, len(emg), 37):
        if data := scope.columns(emg[at : at + 37]):
            head = np.frombuffer(data[:8], "<u4")
            assert head.tolist() == [1, sum(map(len, made))]
            made.append(np.frombuffer(data[8:], "<i2").reshape(-1, 32, 2))
    columns = np.concatenate(made) * UNIT
    blocks = emg[:2000].reshape(200, 10, 32)
    np.testing.assert_allclose(columns[:, :, 0], blocks.min(axis=1), atol=UNIT / 2 + 1e-5)
    np.testing.assert_allclose(columns[:, :, 1], blocks.max(axis=1), atol=UNIT / 2 + 1e-5)
    loud = Scope(Shape()).columns(np.full((10, 2, 16), 1e9, np.float32))
    assert np.frombuffer(loud[8:], "<i2").max() == 32767


def test_events_become_messages(session: Session, model: Model) -> None:
    _, events = run(Replay(session.path, speed=0), model)
    scope = Scope(session.shape)
    messages = [one for event in events for one in shown(event, scope)]
    parsed = [json.loads(one) for one in messages if isinstance(one, str)]
    assert {one["type"] for one in parsed} >= {"typed", "final", "partial", "scored", "ended"}
    assert all(one["version"] == 1 for one in parsed)
    assert "".join(one["text"] for one in parsed if one["type"] == "final") == committed(events)
    typed = "".join(key for one in parsed if one["type"] == "typed" for key, _ in one["keys"])
    assert typed == session.text
    lines = [one["lines"] for one in parsed if one["type"] == "scored"]
    assert all(len(set(map(len, three))) == 1 for three in lines)
    assert sum(len(one) for one in messages if isinstance(one, bytes)) >= 128 * len(session) // 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": "replay"}, "replay needs a session"),
        ({"file": Path("x")}, "--file is for --source replay, not simulated"),
        ({"speed": 0.0}, "--speed is for --source replay or stdin, not simulated"),
        (
            {"source": "replay", "file": Path("x"), "board_settings": ("a=b",)},
            "--board-settings is for --source brainflow",
        ),
        ({"source": "stdin", "speed": 2.0}, "--speed is 2.0"),
    ],
)
def test_options_that_a_source_does_not_have_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(EmgscribeError, match=words):
        SourceOptions(**options).makers()


def test_a_setting_of_a_board_needs_a_value() -> None:
    board = SourceOptions(source="brainflow", board_settings=("serial_port",)).makers()["brainflow"]
    with pytest.raises(EmgscribeError, match="'serial_port' is not a setting"):
        board(Shape())


def test_a_model_that_cannot_stream_decodes_live_in_windows(live_folder: Path) -> None:
    path, session = live_folder / "s.hdf5", open_session(live_folder / "s.hdf5")
    model = Model(ModelConfig(FEATURES, GRU))
    scrambled(model)
    with pytest.raises(EmgscribeError, match="--window 4"):
        Engine(Replay(path, speed=0), model, on_event=print)
    events = list[Event]()
    engine = Engine(Replay(path, speed=0), model, window=2.0, on_event=events.append)
    engine.start()
    engine.join()
    frames = sum(len(event.emissions) for event in events if isinstance(event, Update))
    assert frames == pytest.approx(len(session) / model.samples_per_frame, abs=1)
    assert engine.stream is not None
    assert 0.5 < engine.stream.delay < 1


def test_a_model_that_can_stream_needs_no_windows(live_folder: Path) -> None:
    live = Live(
        {"replay": lambda _: Replay(live_folder / "s.hdf5", speed=0)},
        {"m": live_folder / "m"},
        Choice("replay", "m", window=4.0),
    )
    live.begin(live.choice)
    assert live.engine is not None
    assert live.engine.stream is not None
    assert live.engine.stream.delay < 0.2
    live.end()


def test_only_what_was_given_can_be_chosen(session: Session, model: Model, tmp_path: Path) -> None:
    save_model(model, tmp_path / "m")
    live = Live({"replay": lambda _: Replay(session.path)}, {"m": tmp_path / "m"}, Choice("replay", "m"))
    for field, value in (("source", "lsl"), ("model", "../m"), ("model", str(tmp_path / "m")), ("decoder", "exec")):
        with pytest.raises(EmgscribeError, match=f"{field} is"):
            live.check(Choice(**{"source": "replay", "model": "m", field: value}))
    for weight in (-1, 11, "heavy", float("nan"), [1]):
        with pytest.raises(EmgscribeError, match="lm_weight is"):
            live.check(Choice("replay", "m", lm_weight=weight))  # type: ignore[arg-type]


def test_the_bundled_model_decodes_an_unseen_simulated_person(tmp_path: Path) -> None:
    folder = model_folder("live")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3.1e6
    model = load_model("live")
    np.testing.assert_allclose(list(model.lookaheads), [0.04, 0.08, 0.12, 0.24])
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters" in card
    assert "simulated" in card
    simulate_session(tmp_path / "s.hdf5", user=91_000_000, session=0, minutes=0.7, seed=91)
    read = model.with_lookahead(0.08)
    assert read.context[1] == 0.08 * 2000 + 12
    assert evaluate(read, [open_session(tmp_path / "s.hdf5")]).cer < 75
