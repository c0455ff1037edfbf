"""Many session files at once: checks against what was published, and sums of what was typed."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from emgscribe.cli import main
from emgscribe.data import survey
from emgscribe.data.hdf5 import REAL_KEYS
from emgscribe.data.splits import Listed
from emgscribe.data.survey import check_all, stats_of

Make = Callable[..., Path]


@pytest.fixture
def folder(make_session: Make, monkeypatch: pytest.MonkeyPatch) -> Path:
    paths = {name: make_session(name, samples=1000 + 500 * place) for place, name in enumerate("abcd")}
    digest = hashlib.sha256(paths["a"].read_bytes()).hexdigest()
    size = paths["a"].stat().st_size
    listed = [Listed("a", "1", size, digest), Listed("b", "1", 17, ""), Listed("c", "1", 0, "")]
    monkeypatch.setattr(survey, "listed_sessions", lambda: {row.session: row for row in listed})
    (paths["a"].parent / "e.hdf5").write_bytes(b"no session")
    return paths["a"].parent


@pytest.mark.parametrize("jobs", [1, 3])
def test_files_are_compared_with_the_published_ones(folder: Path, jobs: int) -> None:
    done: list[float] = []
    found = check_all([folder, folder / "missing.hdf5"], jobs, done.append)
    names = [Path(each.inspection.path).stem for each in found]
    assert names == ["a", "b", "c", "d", "e", "missing"]
    size = (folder / "b.hdf5").stat().st_size
    assert [each.published for each in found] == ["same", f"{size:,} bytes instead of 17", "listed", "", "", ""]
    assert [each.good for each in found] == [True, False, True, True, False, False]
    assert (len(done), done[-1]) == (6, 1.0)


def test_the_command_prints_a_table_or_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(folder)]) == 2
    shown = capsys.readouterr().out
    assert "3 of 5 are good" in shown
    assert shown.count("differs") == 1  # the size is not the published one
    assert "e.hdf5: error: file: not a readable HDF5 file" in shown
    assert main(["data", "check", str(folder / "a.hdf5"), "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["published"], entry["good"], entry["usable"]) == ("same", True, True)
    assert main(["data", "check"]) == 2
    assert main(["data", "check", str(folder / "nowhere")]) == 2


def test_what_was_typed_is_summed_by_user(make_session: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make_session("a", keys=[("h", 0.1), ("Key.backspace", 0.2), ("i", 0.3), ("Key.ctrl", 0.4)])
    make_session("b", samples=4000, keys=[("i", 0.1)])
    make_session("d", keys=[("y", 0.1)], simulation=json.dumps({"about": REAL_KEYS}))
    folder = make_session("c", keys=[("x", 0.1)], simulation="{}").parent
    shutil.copy(folder / "a.hdf5", folder / "a copy.hdf5")
    real, simulated, under_keys = stats_of([folder, folder / "b.hdf5"])
    kinds = [each.cells()[1] for each in (real, simulated, under_keys)]
    assert kinds == ["recorded", "simulated", "simulated EMG, real keys"]
    assert (real.sessions, real.seconds, real.keys) == (2, 3.0, 4)
    assert real.symbols == {"i": 2, "h": 1, "⌫": 1}
    assert real.backspaces == 25.0
    assert main(["data", "stats", str(folder), "--out", str(folder / "stats.png")]) == 0
    assert "i" in capsys.readouterr().out
    assert (folder / "stats.png").read_bytes().startswith(b"\x89PNG")
    assert main(["data", "stats", str(folder), "--json"]) == 0
    assert [entry["symbols"] for entry in json.loads(capsys.readouterr().out)] == [
        {"i": 2, "h": 1, "⌫": 1},
        {"x": 1},
        {"y": 1},
    ]


def test_a_figure_of_sessions_without_keys_is_refused(make_session: Make, tmp_path: Path) -> None:
    path = make_session("a", keys=[])
    assert main(["data", "stats", str(path)]) == 0
    assert main(["data", "stats", str(path), "--out", str(tmp_path / "stats.png")]) == 2
    assert not (tmp_path / "stats.png").exists()
