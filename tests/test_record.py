"""Recording, and adapting a model to what was recorded."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import conftest
import numpy as np
import pytest
import torch
from rich.console import Console

from emgscribe.data.charset import SYMBOLS
from emgscribe.data.hdf5 import Keystroke, Prompt, SessionFile, find_sessions, read_header
from emgscribe.data.inspect import inspect
from emgscribe.data.session import Session, open_session
from emgscribe.data.shape import Shape
from emgscribe.errors import EmgscribeError
from emgscribe.live import hub
from emgscribe.live.adapting import Adapting
from emgscribe.live.contact import Contact
from emgscribe.live.engine import Received
from emgscribe.live.grid import Piece
from emgscribe.live.hub import Choice, Live, Recordings
from emgscribe.live.recorder import Recorder, finish
from emgscribe.live.sources import Replay, Simulated, Source, Typed
from emgscribe.live.take import Take, from_file, made_up_prompts
from emgscribe.models.model import load_model, save_model
from emgscribe.simulation.config import SimulationConfig
from emgscribe.training import adapt as adapting
from emgscribe.training.adapt import adapt

SHAPE = Shape(("left",), 4, 200.0)


def signal(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(samples, *SHAPE.sample)).astype(np.float32)


def recorded(out: Path, samples: int = 300, **settings: Any) -> Recorder:
    """A recording of `samples` samples, two keys and a prompt."""
    recorder = Recorder(out, SHAPE, user="me", origin=1e9, **settings)
    emg, times = signal(samples), 5 + np.arange(samples) / 200
    for at in range(0, samples, 70):
        recorder.add(emg[at : at + 70], times[at : at + 70])
    recorder.add_key(Keystroke("b", 5.75, 5.8))
    recorder.add_key(Keystroke("Key.shift", 5.5, 5.9))  # released after the key that went down later
    recorder.add_prompt(Prompt("p", 5.2, 5.9, "B"))
    recorder.note_clock(0.002)
    recorder.note_clock(0.001)
    return recorder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_a_recording_is_a_session_like_any_other(out: Path) -> None:
    path = recorded(out).finish()
    assert path is not None
    assert [inspection.findings for inspection in inspect(path)] == [[]]
    session, header = open_session(path), read_header(path)
    assert (session.text, session.user, session.shape, session.simulated) == ("⇧b", "me", SHAPE, False)
    np.testing.assert_array_equal(session.emg, signal(300))
    assert session.onsets.tolist() == [100, 150]
    assert header.prompts == (Prompt("p", 1e9 + 5.2, 1e9 + 5.9, "B"),)
    assert header.clock_error == 0.002
    with SessionFile(path) as file:
        assert file.layout.start == 1e9 + 5
    assert [found.name for found in out.iterdir()] == [path.name]
    assert finish(out) == []


def test_a_simulated_recording_says_so(out: Path) -> None:
    path = recorded(out, simulation='{"seed": 1}').finish()
    assert path is not None
    assert open_session(path).simulated


def test_a_recording_cut_off_by_a_kill_becomes_a_session(out: Path) -> None:
    recorder = recorded(out)
    recorder.close()
    with (recorder.folder / "rows").open("ab") as rows, (recorder.folder / "events.jsonl").open("ab") as events:
        rows.write(bytes(SHAPE.row.itemsize - 1))  # half of a sample, half of a key
        events.write(b'{"key": {"key": "c", "sta')
    (path,) = finish(out)
    assert open_session(path).text == "⇧b"
    assert len(open_session(path)) == 300
    assert not recorder.folder.exists()


def test_who_looks_for_the_session_of_a_recording_learns_how_to_get_it(out: Path) -> None:
    recorded(out).close()
    with pytest.raises(EmgscribeError) as caught:
        find_sessions(out)
    assert f"emgscribe record --out {out} --finish-only" in caught.value.hint


def test_a_recording_killed_before_its_first_sample_leaves_nothing(out: Path) -> None:
    Recorder(out, SHAPE, user="me", origin=0.0).close()
    (out / "x.recording").mkdir()
    assert finish(out) == []
    assert list(out.iterdir()) == []


def test_a_recording_in_progress_is_left_alone(out: Path) -> None:
    recorder = recorded(out)
    assert finish(out) == []
    assert recorder.finish()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("about.json", "{}"),
        ("about.json", "[]"),
        ("about.json", '{"name": "a\\u0007", "user": "", "origin": 0, "simulation": "", "shape": {}}'),
        ("events.jsonl", "{]\n"),
        ("events.jsonl", '{"key": {"key": "a"}}\n'),
        ("events.jsonl", '{"clock_error": "x"}\n'),
        ("events.jsonl", "[3]\n"),
        ("events.jsonl", '{"key": {"key": "a", "start": 1%s, "end": 0}}\n' % ("0" * 400)),
    ],
)
def test_a_damaged_recording_gives_one_error_and_is_kept(out: Path, file: str, content: str) -> None:
    recorder = recorded(out)
    recorder.close()
    (recorder.folder / file).write_text(content)
    with pytest.raises(EmgscribeError) as error:
        finish(out)
    assert recorder.folder.name in str(error.value)
    assert (recorder.folder / "rows").exists()
    assert not list(out.glob("*.hdf5"))


def test_a_place_that_cannot_be_written_gives_one_error(out: Path) -> None:
    (out / "file").touch()
    with pytest.raises(EmgscribeError, match="file"):
        Recorder(out / "file", SHAPE, user="me", origin=0.0)


class Muscles(Source):
    """Noise in time, without any keys."""

    shape, about = SHAPE, "noise"

    def __init__(self, *, end: int = 10**6) -> None:
        self.end = end

    def pieces(self) -> Iterator[Piece]:
        begun = time.monotonic()
        for at in range(0, self.end, 10):
            time.sleep(max(0.0, begun + (at + 10) / 200 - time.monotonic()))
            yield Piece(signal(10, at), begun + (at + np.arange(10)) / 200)


class Noise(Muscles):
    """What a model can read."""

    shape = Shape()

    def pieces(self) -> Iterator[Piece]:
        begun, noise = time.monotonic(), np.random.default_rng(0).normal(0, 20, (80, 2, 16)).astype(np.float32)
        for at in range(0, 10**6, 80):
            time.sleep(max(0.0, begun + (at + 80) / 2000 - time.monotonic()))
            yield Piece(noise, begun + (at + np.arange(80)) / 2000)


def test_keys_typed_in_the_page_end_prompts(out: Path) -> None:
    take = Take(Muscles(), out, user="me", prompts=iter(["one", "two"]))
    now = time.monotonic()
    take.add(Received(signal(400), now - 1 + np.arange(400) / 200))
    assert take.prompt == "one"
    first = take.press([["Shift", now - 0.9, now - 0.7], ["O", now - 0.8, now - 0.75]], 0.001)
    assert [(SYMBOLS[key.label], key.time) for key in first] == [("⇧", now - 0.9), ("O", now - 0.8)]
    assert (take.prompt, take.prompts) == ("one", 0)
    (enter,) = take.press([["Enter", now - 0.5, now - 0.4], ["F13", now - 0.3, now - 0.2]], 0.003)
    assert SYMBOLS[enter.label] == "⏎"
    assert (take.prompt, take.prompts, take.recorder.keys) == ("two", 1, 3)
    path = take.recorder.finish()
    assert path is not None
    header = read_header(path)
    assert (header.text, [prompt.text for prompt in header.prompts]) == ("⇧O⏎", ["one"])
    assert header.clock_error == 0.003
    assert abs(header.keystrokes[-1].start - time.time()) < 60


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ("abc", 0.0),
        ([["a", 1.0]], 0.0),
        ([["a", 1.0, 2.0]], 0.0),  # long ago
        ([["a", float("nan"), 2.0]], 0.0),
        ([["a", 2e9, 3e9]], 0.0),
        ([["a" * 30, 0.0, 0.0]], 0.0),
        ([["\x1b", 0.0, 0.0]], 0.0),
        ([[]] * 100, 0.0),
        ([], "x"),
        ([], True),
        (None, 0.0),
    ],
)
def test_malformed_lists_of_keys_are_refused(out: Path, keys: Any, error: Any) -> None:
    take = Take(Muscles(), out, user="me", prompts=repeat("x"))
    with pytest.raises(EmgscribeError):
        take.press(keys, error)
    assert take.recorder.keys == 0
    take.recorder.close()


def test_the_keys_of_a_source_that_knows_them_are_taken_from_it(out: Path) -> None:
    source = Muscles()
    source.knows_keys, source.simulation = True, '{"about": "test"}'
    take = Take(source, out, user="me", prompts=repeat("x"))
    take.add(Received(signal(400), np.arange(400) / 200, [Typed(0, 0.5), Typed(95, 0.7)]))
    now = time.monotonic()
    assert not take.press([["z", now, now]], 0.0)
    path = take.recorder.finish()
    assert path is not None
    assert (open_session(path).text, open_session(path).simulated, take.prompt) == ("a⏎", True, "")


def test_prompts_are_generated_or_read_from_a_file(out: Path) -> None:
    prompts = made_up_prompts()
    assert all(len(next(prompts)) > 5 for _ in range(20))
    (out / "p.txt").write_text("Café\n\ntwo\n", encoding="utf-8")
    again = from_file(out / "p.txt")()
    assert [next(again) for _ in range(3)] == ["Cafe", "two", "Cafe"]
    (out / "p.txt").write_text("\n→")
    with pytest.raises(EmgscribeError, match="line 2"):
        from_file(out / "p.txt")


def test_contact_is_good_flat_humming_or_clipped() -> None:
    shape = Shape(("left", "right"), 3, 1000.0)
    contact, rng, seconds = Contact(shape), np.random.default_rng(0), np.arange(1000) / 1000
    emg = rng.normal(size=(1000, 6), scale=20)
    emg[:, 1] = 0.01 * emg[:, 1]
    emg[:, 2] += 200 * np.sin(2 * np.pi * 50 * seconds)
    emg[:, 3] = np.clip(5 * emg[:, 3], -100, 100)
    emg[:, 4] += 150 * np.sin(2 * np.pi * 180.5 * seconds + 1)  # of 60 Hz
    emg[:, 5] = np.rint(emg[:, 5] / 20)  # a quiet electrode of a converter with few bits
    samples = emg.reshape(1000, 2, 3).astype(np.float32)
    assert not contact.feed(samples[:999])
    assert contact.feed(samples[999:])
    assert contact.states == ["good", "flat", "hum", "clipped", "hum", "good"]
    np.testing.assert_allclose(contact.amplitude, emg.std(axis=0), rtol=1e-4)
    for _ in range(2):
        assert contact.feed(np.zeros((1000, 2, 3), np.float32))
    assert contact.states == ["flat"] * 6
    assert not contact.feed(samples[:999])


def test_a_recorded_simulated_person_returns_for_the_next_model() -> None:
    def person(source: Simulated, pieces: int) -> tuple[int, int] | None:
        for _, piece in zip(range(pieces), (piece for piece in source.pieces() if piece is not None), strict=False):
            assert piece is not None
        source.close()
        return source.person

    first = Simulated(SimulationConfig(difficulty=0.0), seed=5, minutes=0.05)
    first.stay()
    user = person(first, 200)  # 3 s are 150 pieces
    assert user is not None
    assert user[1] > 0  # in the person's second session
    later = Simulated(SimulationConfig(difficulty=0.0), seed=6, minutes=0.05)
    later.follow(first)
    again = person(later, 1)
    assert again is not None
    assert (again[0], again[1] > user[1]) == (user[0], True)
    other = Simulated(SimulationConfig(difficulty=0.0), seed=6, minutes=0.05)
    other.follow(Simulated(seed=5))  # who was not recorded
    assert (person(other, 1) or user)[0] != user[0]


class Heard(Live):
    """A `Live` that keeps what it sends."""

    def __init__(self, *given: Any, **settings: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        super().__init__(*given, **settings)
        self.clients.send = self.keep

    def keep(self, *messages: Any, before: Callable[[], object] = lambda: None) -> None:
        before()
        self.sent += [json.loads(one) for one in messages if isinstance(one, str)]


def until(live: Heard, kind: str, **content: Any) -> dict[str, Any]:
    """The first message of a kind that has the content."""

    def found() -> list[dict[str, Any]]:
        return [one for one in live.sent if one["type"] == kind and content.items() <= one.items()]

    conftest.until(found, seconds=20)
    return found()[0]


def test_a_source_is_recorded_without_a_model(out: Path) -> None:
    live = Heard({"noise": lambda shape: Muscles()}, {}, Choice("noise"), shape=SHAPE, recordings=Recordings(out))
    notices = list[str]()
    live.on_notice = notices.append
    live.begin(live.check(live.choice))
    try:
        assert until(live, "ready")["model"] is None
        live.record(True)
        live.record(True)  # the recording continues
        assert until(live, "recording", on=True)["prompt"]
        now = time.monotonic()
        live.press([["a", now, now]], 0.001)
        assert len(until(live, "electrodes")["states"]) == 4
        live.record(False)
        (name,) = until(live, "recording", on=False, adaptable=False, files=[live.recorded[0].name])["files"]
        session = open_session(out / name)
        assert session.text == "a"
        assert len(session) > 100
        with pytest.raises(EmgscribeError, match="nothing to adapt"):
            live.adapt()
    finally:
        live.end()
    (path,) = out.iterdir()
    assert notices == [f"Recording me: {path.with_suffix('.recording')}", f"Recorded: {path}"]


def test_what_is_typed_while_recording_is_scored(live_folder: Path, out: Path) -> None:
    models = {"m": live_folder / "m"}
    live = Heard({"noise": lambda shape: Noise()}, models, Choice("noise", "m"), recordings=Recordings(out))
    live.begin(live.check(live.choice))
    try:
        assert live.engine is not None
        live.record(True)
        now = time.monotonic()
        live.press([["a", now, now], ["Enter", now + 0.1, now + 0.2]], 0.001)
        meter = live.engine.meter
        assert until(live, "scored", length=2)["lines"][0].replace("·", "").startswith("a⏎")  # after a pause
        assert (meter.measured().shown, meter.measured().committed) == ((), ())  # keys came late: that is no latency
        now = time.monotonic()
        live.press([["b", now, now]], 0.001)
        conftest.until(lambda: meter._horizon > now, seconds=20)
        live.record(False)
        assert "b" in until(live, "scored", length=1)["lines"][0]
        scored = meter.measured().counts
        time.sleep(0.5)
        assert meter.measured().counts == scored  # what is decoded now is not compared with anything
    finally:
        live.end()


def test_stopping_makes_a_session_too(out: Path) -> None:
    live = Heard({"noise": lambda shape: Muscles()}, {}, Choice("noise"), shape=SHAPE, recordings=Recordings(out))
    live.begin(live.choice)
    live.record(True)
    until(live, "electrodes")
    live.end()
    (path,) = out.iterdir()
    assert inspect(path)[0].usable


def test_a_full_disk_ends_the_recording_and_nothing_else(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live = Heard({"noise": lambda shape: Muscles()}, {}, Choice("noise"), shape=SHAPE, recordings=Recordings(out))
    live.begin(live.choice)
    live.record(True)

    def full(*_: Any) -> None:
        raise EmgscribeError("cannot be written (No space left on device)", hint="free some disk space")

    monkeypatch.setattr(Recorder, "add", full)
    assert "No space left" in until(live, "error")["what"]
    assert until(live, "recording", on=False)
    assert live.engine is not None
    live.end()
    assert len(list(out.glob("*.recording"))) == 1  # to be finished the next time


@pytest.mark.parametrize("why", ["too long", "the source ends"])
def test_a_recording_ends_by_itself(why: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emgscribe.live.hub.LONGEST", 0.5 if why == "too long" else 3600.0)
    source = Muscles(end=10**6 if why == "too long" else 300)
    live = Live({"noise": lambda shape: source}, {}, Choice("noise"), shape=SHAPE, recordings=Recordings(out))

    async def watch() -> None:
        running = asyncio.create_task(live.run())
        await asyncio.sleep(0)  # it knows its loop now
        live.begin(live.choice)
        live.record(True)
        for _ in range(200):
            await asyncio.sleep(0.1)
            if live.recorded:
                break
        running.cancel()

    asyncio.run(watch())
    live.end()
    (path,) = live.recorded
    assert 0.4 < open_session(path).minutes * 60 < 20


def test_a_replay_is_not_recorded_again(out: Path) -> None:
    source = Muscles()
    source.recorded = True
    live = Heard({"noise": lambda shape: source}, {}, Choice("noise"), shape=SHAPE, recordings=Recordings(out))
    with pytest.raises(EmgscribeError, match="nothing is running"):
        live.record(True)
    live.begin(live.choice)
    with pytest.raises(EmgscribeError, match="not a recording already"):
        live.record(True)
    live.end()


@pytest.fixture(scope="module")
def minute(live_folder: Path) -> Session:
    return open_session(live_folder / "s.hdf5")


def test_a_model_adapts_to_a_person(live_folder: Path, minute: Session, tmp_path: Path) -> None:

    printed = Console(record=True, file=StringIO())
    done = adapt(
        live_folder / "m", [minute.first(70_000), minute.part(70_000, len(minute))], tmp_path / "run", console=printed
    )
    losses = [line["train_loss"] for line in done.curves]
    assert losses[-1] < 0.6 * losses[0]
    assert len(losses) == 60
    assert load_model(tmp_path / "run" / "best").ancestry.trained_on[-1].content.startswith(minute.content)
    text = printed.export_text()
    assert text.startswith("before: CER ")
    assert "after: CER " in text.splitlines()[-1]


def test_an_adaptation_that_does_not_help_keeps_the_old_model(
    live_folder: Path, minute: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapting, "_STEPS", 5)
    monkeypatch.setattr(adapting, "evaluate", lambda *_, **__: SimpleNamespace(cer=0.0))
    printed = Console(record=True, file=StringIO(), width=200)
    done = adapt(live_folder / "m", [minute], tmp_path / "run", console=printed)
    assert "no better, so the model stays as it was. More minutes of typing may help." in printed.export_text()
    kept = load_model(tmp_path / "run" / "best")
    for name, value in load_model(live_folder / "m").state_dict().items():
        assert torch.equal(kept.state_dict()[name], value)
        assert torch.equal(done.model.state_dict()[name], value)
    assert kept.ancestry == load_model(live_folder / "m").ancestry
    kept.ancestry = kept.ancestry.after([minute.first(20_000)], [])
    save_model(kept, tmp_path / "personal")
    adapt(tmp_path / "personal", [minute], tmp_path / "again", console=printed)
    assert "stays as it was. It was already trained on this person." in printed.export_text()


def test_the_adapted_model_takes_over(live_folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {"replay": lambda shape: Replay(live_folder / "s.hdf5", speed=0.1)}
    live = Heard(sources, {"m": live_folder / "m"}, Choice("replay", "m"), recordings=Recordings(out))
    live.begin(live.choice)
    live.recorded = [live_folder / "s.hdf5"]
    live.adapt()
    with pytest.raises(EmgscribeError, match="already"):
        live.adapt()
    conftest.until(lambda: live.choice.model != "m" and live.engine, seconds=120)
    folder = live.models.folder(live.choice.model)
    assert folder is not None
    assert live.check(live.choice) == Choice("replay", "adapted s-1")
    assert folder == out / "models" / "s-1" / "best"
    assert until(live, "adapting", line="starting")
    lines = [one["line"] for one in live.sent if one["type"] == "adapting"]
    assert lines[1].startswith("before: CER ")
    assert any(line.startswith("epoch 60/60") for line in lines)
    assert live.engine is not None
    assert live.engine.stream is not None
    assert live.engine.stream.model.folder == folder
    started = list[tuple[Path, Any]]()
    monkeypatch.setattr(hub, "Adapting", lambda folder, *_, on_end, **__: started.append((folder, on_end)))
    live.adapt()  # again: from the model that has not seen these recordings
    assert started[0][0] == live_folder / "m"
    monkeypatch.setattr(live.engine.source, "recorded", False)
    live.record(True)
    started[0][1](folder, "")
    assert live.engine.stream.model.folder == folder  # a recording is not cut off by what was adapted meanwhile
    assert live._take is not None
    live.record(False)
    live.end()


def test_sessions_unfit_for_adaptation_are_refused(live_folder: Path, minute: Session, tmp_path: Path) -> None:
    with pytest.raises(EmgscribeError, match=r"0\.5 or more"):
        adapt(live_folder / "m", [minute.first(2000 * 29)], tmp_path / "run")
    silent = replace(minute, labels=minute.labels[:1], onsets=minute.onsets[:1])
    with pytest.raises(EmgscribeError, match="last fifth"):
        adapt(live_folder / "m", [silent], tmp_path / "run")
    other = replace(minute, emg=minute.emg[:, :1], shape=Shape(("left",)))
    with pytest.raises(EmgscribeError, match="the model reads"):
        adapt(live_folder / "m", [other], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_part_cuts_samples_and_keys_from_a_session(minute: Session) -> None:
    part = minute.part(20_000, 50_000)
    assert len(part) == 30_000
    np.testing.assert_array_equal(part.emg, minute.emg[20_000:50_000])
    assert part.text in minute.text
    assert part.onsets.min() >= 0
    assert part.onsets.max() < 30_000
    assert part.content == f"{minute.content}:20000-50000"
    assert minute.part(0, 50_000).content == minute.first(50_000).content


def test_an_adaptation_that_fails_is_reported(tmp_path: Path) -> None:
    lines, ends = list[str](), list[Any]()
    work = Adapting(
        tmp_path / "none", [tmp_path / "s.hdf5"], tmp_path / "out",
        on_line=lines.append, on_end=lambda folder, printed: ends.append((folder, printed)),
    )  # fmt: skip
    conftest.until(lambda: ends, seconds=60)
    assert ends[0][0] is None
    assert "no such file" in ends[0][1]
    conftest.until(lambda: not work.runs, seconds=5)


def test_keys_are_typed_only_while_typing_is_switched_on(live_folder: Path) -> None:
    typed, printed = list[str](), list[str]()
    sources = {"replay": lambda shape: Replay(live_folder / "s.hdf5", speed=8)}
    models, choice = {"m": live_folder / "m"}, Choice("replay", "m")
    live = Heard(sources, models, choice, on_text=printed.append, on_keys=typed.append)
    live.begin(live.choice)
    assert until(live, "ready")["choices"]["types"] is False
    conftest.until(lambda: printed, seconds=20)
    assert not typed
    live.type_keys(True)
    conftest.until(lambda: typed, seconds=20)
    live.type_keys(False)
    live.end()
    assert "".join(typed) in "".join(printed)
    with pytest.raises(EmgscribeError, match="into other windows is off"):
        Live({}, {}, Choice("x")).type_keys(True)
