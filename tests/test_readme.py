"""What README.md and the pages promise: their commands and their Python run in a clone, results are those on file."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import emgscribe as es

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# In full an example takes minutes; EMGSCRIBE_FULL=1 runs them as they stand.
SIZES, SMALLER = r"users=\d+, sessions=\d+, minutes=[\d.]+", "users=1, sessions=3, minutes=0.3"


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [text for named, text in found if named == language]


def run(command: list[str], clone: Path) -> subprocess.CompletedProcess[str]:
    # The commands of this environment first, as after activating it, with the package of the clone.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": path, "PYTHONPATH": str(clone), "EMGSCRIBE_CACHE": str(clone / ".cache")}
    return subprocess.run(command, cwd=clone, capture_output=True, text=True, env=os.environ | own)


def python(parts: list[str], clone: Path) -> subprocess.CompletedProcess[str]:
    code = "\n".join(parts)
    return run(
        [sys.executable, "-c", code if os.environ.get("EMGSCRIBE_FULL") else re.sub(SIZES, SMALLER, code)], clone
    )


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git tracks, in which the README's emgscribe commands, then its Python lines have run."""
    folder = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.splitlines()):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    ours = [line for block in blocks(ROOT / "README.md", "sh") for line in block.splitlines() if "make" not in line]
    assert {line.split()[1] for line in ours} >= {"simulate", "inspect", "train", "evaluate", "transcribe", "report"}
    for line in ours:
        done = run(["bash", "-euc", line], folder)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    done = python(blocks(ROOT / "README.md", "python"), folder)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 2  # the text, and the CER with its interval
    return folder


def test_readme_commands_leave_what_they_promise(clone: Path) -> None:
    assert len(list((clone / "tiny").glob("*.hdf5"))) == 3
    assert (clone / "runs" / "demo-0" / "best" / "beam.json").exists()
    assert [path.name for path in (clone / "results").glob("*.json")] == ["demo-0.json"]
    assert "| demo (train.epochs 2) |" in (clone / "report" / "report.md").read_text()


@pytest.mark.parametrize("page", [page for page in PAGES[1:] if blocks(page, "python")], ids=lambda page: page.stem)
def test_the_python_of_a_page_runs_from_top_to_bottom(clone: Path, page: Path) -> None:
    done = python(blocks(page, "python"), clone)
    assert done.returncode == 0, done.stderr


def test_readme_names_only_targets_of_the_makefile() -> None:
    named = set(re.findall(r"`?make (\w+)", (ROOT / "README.md").read_text()))
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"demo", "test", "check", "bench"} <= named <= targets


def test_readme_lists_every_module_and_explains_every_dependency() -> None:
    page = (ROOT / "README.md").read_text()
    parts = {
        path.name for path in (ROOT / "emgscribe").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert [name for name in sorted(parts) if not name.startswith("__") and name not in page] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [name for extra, names in project["optional-dependencies"].items() if extra != "dev" for name in names]
    names = [re.split(r"\W", name)[0] for name in [*project["dependencies"], *extras]]
    table = re.findall(r"^\| ([a-z0-9, ]+) \|", page, flags=re.MULTILINE)
    assert set(names) == {name for row in table for name in row.split(", ")} - {"package", "page"}


def test_the_page_of_the_api_is_complete_and_up_to_date() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    assert {*re.findall(r"^### (\w+)$", page, flags=re.MULTILINE), "__version__"} == set(es.__all__)
    printed = subprocess.run(
        [sys.executable, ROOT / "scripts" / "api.py", "--print"], capture_output=True, text=True, check=True
    ).stdout
    assert printed == page + "\n", "make api"


def test_measured_tables_are_what_the_results_say() -> None:
    row = re.compile(
        r"^\| `((?:ablation|small|medium)/[^`]+)` \|.*\| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|$", re.MULTILINE
    )
    found = [match for page in PAGES for match in row.findall(page.read_text())]
    assert len(found) >= 18
    for name, *figures in found:
        paths = (ROOT / "docs" / "results" / name).parent.glob("*.json")
        mine = [path for path in paths if path.stem.rpartition("-")[0] == name.rpartition("/")[2]]
        records = [json.loads(path.read_text()) for path in mine]
        assert all(record["data"]["kind"] == "simulated" for record in records)
        scores = [score for record in records for score in record["test"].values()]
        assert figures in [[f"{v:.1f}" for v in (score["cer"], *score["cer_interval"])] for score in scores], name
