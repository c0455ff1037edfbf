"""docs/your-data.md, command by command, as it stands: against a server on this machine, with short sessions."""

import csv
import hashlib
import io
import re
import shlex
import shutil
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DATA, START

import emgscribe as es
from emgscribe.cli import main
from emgscribe.data import download, splits
from emgscribe.data.hdf5 import Keystroke, SessionHeader, write_session
from emgscribe.data.windows import WindowConfig
from emgscribe.experiments.recipes import BASELINE, DEMO, EXPERIMENTS
from emgscribe.models.encoders import MlpConfig
from emgscribe.models.model import ModelConfig
from emgscribe.simulation import sessions as simulation

PAGE = (Path(__file__).parents[1] / "docs" / "your-data.md").read_text()
COMMANDS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
USER = "89335547"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def recorded(name: str, user: str, folder: Path, day: int) -> Path:
    """A session of ten seconds of noise, with a key a second."""
    path, start = folder / f"{name}.hdf5", START + 86_400 * day
    keys = tuple(Keystroke("abc"[at % 3], start + at, start + at + 0.1) for at in range(1, 10))
    header = SessionHeader(name, user, "on_keyboard", 10 / 60, keys, ())
    emg = np.random.default_rng(day).normal(size=(20_000, 2, 16)).astype(np.float32)
    write_session(path, header, start + np.arange(20_000) / 2000, emg)
    return path


def publish(folder: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A data set of 18 sessions like that of Borthakur et al., listed as published; returns its archive."""
    names = [row.session for row in splits.listed_sessions().values() if row.user == USER]
    with (splits.PROTOCOLS / "held_out.csv").open() as file:
        held_out = [row for row in csv.DictReader(file) if row["session"] in names]
    paths = [recorded(name, USER, folder / "published", day) for day, name in enumerate(sorted(names))]
    lists = folder / "protocols"
    lists.mkdir()
    with (lists / "sessions.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["user", "session", "bytes", "sha256"])
        for path in paths:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            rows.writerow([USER, path.stem, path.stat().st_size, digest])
    with (lists / "held_out.csv").open("w") as file:
        table = csv.DictWriter(file, held_out[0])
        table.writeheader()
        table.writerows(held_out)
    monkeypatch.setattr(splits, "PROTOCOLS", lists)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        for path in paths:
            tar.add(path, f"emg2qwerty-data-2021-08/{path.name}")
    return packed.getvalue()


def armband(folder: Path) -> None:
    """Three recordings of an armband of eight electrodes at 200 Hz, and their key logs."""
    folder.mkdir()
    for day, name in enumerate(("monday", "tuesday", "wednesday")):
        times = START + 86_400 * day + np.arange(2000) / 200
        emg = np.random.default_rng(day).normal(size=(2000, 8))
        names = ",".join(["time", *(f"e{number}" for number in range(8))])
        np.savetxt(folder / f"{name}.csv", np.column_stack([times, emg]), "%.6f", ",", header=names, comments="")
        keys = "".join(f"{'asd'[at % 3]},{times[200 * at]},{times[200 * at] + 0.1}\n" for at in range(1, 10))
        (folder / f"{name}_keys.csv").write_text(f"key,start,end\n{keys}")


def test_every_command_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "served" / "all.tar.gz").write_bytes(publish(tmp_path, monkeypatch))
    monkeypatch.setattr(download, "ARCHIVE", f"{server}/all.tar.gz")
    simulate = simulation.simulate

    def briefly(out: Path, **options: Any) -> list[Path]:
        return simulate(out, **options | {"sessions": min(options["sessions"], 3), "minutes": 0.1})

    monkeypatch.setattr(es, "simulate", briefly)
    small = {"windows": WindowConfig(4000, 4000, 0, 0), "model": ModelConfig(DEMO.model.features, MlpConfig(4))}
    for recipe in (DEMO, BASELINE):
        brief = replace(recipe, train=replace(recipe.train, epochs=1, warmup_epochs=0), **small)  # type: ignore[arg-type]
        monkeypatch.setitem(EXPERIMENTS, recipe.name, brief)
    desk = tmp_path / "desk"
    desk.mkdir()
    monkeypatch.chdir(desk)
    shutil.copy(DATA / "published_tiny.ckpt", "generic.ckpt")
    armband(desk / "recordings")
    exec(re.search(r"```python\n(import numpy.*?)```", PAGE, re.DOTALL)[1], {})  # type: ignore[index]
    sections = [block.strip().splitlines() for block in COMMANDS]
    assert len(sections) == 6
    for section in sections:
        for line in section:
            if "SESSION" in line:  # one that trained no published model
                recorded("unknown", "user", desk / "emg2qwerty", 99)
            words = shlex.split(line.replace("SESSION", "unknown"))
            assert (words[0], main(words[1:])) == ("emgscribe", 0), line
        shutil.rmtree("data", ignore_errors=True)  # each section is for another reader
        shutil.rmtree("results", ignore_errors=True)
        shutil.rmtree("runs", ignore_errors=True)
    shown = capsys.readouterr().out
    assert "18 sessions, 0 of them here" in shown
    assert "18 of 18 are good" in shown
    assert "monday.hdf5: a left band of 8 electrodes at 200 Hz, 0.17 min, keys: 9" in shown
    assert "CER 100.00 %" in shown
