"""What README and docs promise: their shell commands run, their Python runs, their links lead somewhere."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [text for named, text in found if named == language]


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    # The commands of this environment first, as after activating it; a cache of its own; thread counts as a user has.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "EMGSCRIBE_CACHE": str(folder / "cache")}
    return subprocess.run(["bash", "-euc", command], cwd=folder, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's emgscribe commands have run, in their order."""
    folder = tmp_path_factory.mktemp("readme")
    commands = [line for block in blocks(ROOT / "README.md", "sh") for line in block.splitlines()]
    ours = [line for line in commands if line.startswith("emgscribe ")]
    assert {line.split()[1] for line in ours} >= {"synthesize", "inspect", "train", "evaluate", "transcribe"}
    for line in ours:
        done = shell(line, folder)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return folder


def test_readme_commands_leave_what_they_promise(workplace: Path) -> None:
    assert len(list((workplace / "data").glob("*.hdf5"))) == 3
    assert (workplace / "runs" / "demo-0" / "best" / "config.json").exists()
    assert (workplace / "results" / "demo-0.json").exists()


def test_readme_names_only_targets_of_the_makefile() -> None:
    commands = [line for block in blocks(ROOT / "README.md", "sh") for line in block.splitlines()]
    named = {line.split()[1] for line in commands if line.startswith("make ")}
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"demo", "test", "check", "bench"} <= named <= targets


@pytest.mark.parametrize(
    ("page", "number"),
    [(page, number) for page in PAGES for number in range(len(blocks(page, "python")))],
    ids=lambda value: value.name if isinstance(value, Path) else str(value),
)
def test_python_blocks_run(workplace: Path, page: Path, number: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", blocks(page, "python")[number]],
        cwd=workplace,
        capture_output=True,
        text=True,
        env=os.environ | {"EMGSCRIBE_CACHE": str(workplace / "cache")},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert [target for target in targets if "://" not in target and not (page.parent / target).exists()] == []


def test_readme_lists_every_module() -> None:
    listed = blocks(ROOT / "README.md", "")[0]
    modules = {path.name for path in (ROOT / "emgscribe").glob("*.py")} - {"__init__.py"}
    assert [name for name in sorted(modules) if name not in listed] == []


def test_readme_explains_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [name for extra, names in project["optional-dependencies"].items() if extra != "dev" for name in names]
    names = [re.split(r"\W", name)[0] for name in [*project["dependencies"], *extras]]
    table = re.findall(r"^\| ([a-z0-9, ]+) \|", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    explained = {name for row in table for name in row.split(", ")} - {"package"}
    assert set(names) == explained


def test_measured_tables_are_what_the_results_say() -> None:
    row = re.compile(
        r"^\| `((?:ablation|small|medium)/[^`]+)` \|.*\| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|$", flags=re.MULTILINE
    )
    found = [match for page in PAGES for match in row.findall(page.read_text())]
    assert len(found) >= 18
    for name, *figures in found:
        paths = [
            path for path in (ROOT / "results").rglob("*.json") if path.stem.rpartition("-")[0] == name.split("/")[-1]
        ]
        records = [json.loads(path.read_text()) for path in paths if path.parent == (ROOT / "results" / name).parent]
        scores = [score for record in records for score in record["test"].values()]
        assert all(record["data"]["kind"] == "simulated" for record in records)
        shown = [score for score in scores if [f"{v:.1f}" for v in (score["cer"], *score["cer_interval"])] == figures]
        assert shown, f"{name}: {figures} is in no result"
