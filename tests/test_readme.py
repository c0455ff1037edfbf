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
from emgscribe.experiments.results import read_results
from emgscribe.experiments.tables import tables

ROOT = Path(__file__).parent.parent
START = ROOT / "docs" / "start.md"
PAGES = [ROOT / "README.md", START, *sorted({*(ROOT / "docs").rglob("*.md")} - {START})]  # START first: others need it
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# In full an example takes minutes; EMGSCRIBE_FULL=1 runs them as they stand.
FULL = bool(os.environ.get("EMGSCRIBE_FULL"))
SIZES, SMALLER = r"users=\d+, sessions=\d+, minutes=[\d.]+", "users=1, sessions=3, minutes=0.3"


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [text for named, text in found if named == language]


# Each line and each page in a process of its own, forked from one that has loaded everything: loading is the slow part,
# and so is the clearing up at the end of a process, which is skipped.
WALK = """
import json, os, subprocess, sys, traceback
import emgscribe as es
import emgscribe.cli.experiments, emgscribe.cli.language, emgscribe.cli.models, lightning
from dataclasses import replace
from emgscribe.cli import run
from emgscribe.decoding import language_model
from emgscribe.training import adapt

es.simulate(".warm", users=1, sessions=1, minutes=0.1)  # what it loads is kept
if len(sys.argv) > 1:  # shorter
    adapt._STEPS, language_model._PROMPTS = 20, 2000
    es.recipes.DEMO = replace(es.recipes.DEMO, train=replace(es.recipes.DEMO.train, epochs=2))

def end(status):
    sys.stdout.flush()
    os._exit(status)

for name, line, code in json.load(sys.stdin):
    if os.fork() == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if code:
            try:
                exec(compile(code, name, "exec"), {"__name__": "__main__"})
            except BaseException:
                traceback.print_exc()
                end(1)
            end(0)
        words = subprocess.run(["bash", "-euc", f"printf '%s\\\\0' {line}"], check=True, capture_output=True, text=True)
        sys.argv = words.stdout.split("\\0")[:-1]
        try:
            run()
        except SystemExit as left:
            end(left.code)
    status = os.waitstatus_to_exitcode(os.wait()[1])
    if status:
        sys.exit(f"{name}: {line} ended with status {status}")
    print(f"done: {name} {line}", flush=True)
"""


def walk(steps: list[tuple[str, str, str]], folder: Path) -> list[str]:
    """Run the steps (name, command line, else Python) in `folder`, one after the other; returns what each printed."""
    own = {"PYTHONPATH": str(folder), "EMGSCRIBE_CACHE": str(folder / ".cache"), "MPLBACKEND": "agg"}
    command = [sys.executable, "-c", WALK, *["shorter"] * (not FULL)]
    done = subprocess.run(
        command, cwd=folder, input=json.dumps(steps), capture_output=True, text=True, env=os.environ | own
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *printed, after = re.split(r"^done: .*\n", done.stdout, flags=re.MULTILINE)
    assert (len(printed), after) == (len(steps), "")
    return printed


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.\d+", text)]


def check_quotes(printed: dict[str, str]) -> None:
    """Compare what the Python of a page printed with the block of output on that page."""
    quoted = [line.removesuffix(" ...") for line in blocks(PAGES[0], "text")[0].splitlines()]
    found = printed[PAGES[0].name].splitlines()
    assert [line[: len(wanted)] for line, wanted in zip(found, quoted, strict=True)] == quoted
    # Training with another number of threads, or on other hardware, differs slightly.
    cer, wanted = (numbers(text.splitlines()[-1]) for text in (printed[START.name], blocks(START, "text")[1]))
    assert cer == pytest.approx(wanted, abs=3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_notebooks_run(tmp_path: Path) -> None:
    assert len(NOTEBOOKS) == 5, "README.md says five"
    steps = []
    for path in NOTEBOOKS:
        cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        code = "\n".join("".join(cell["source"]) for cell in cells)
        if not FULL:
            code = re.sub(r" sessions=(8|10), minutes=\d", " sessions=4, minutes=.3", code)
            code = re.sub(r"(?<=minutes=)\d", "0.6", code)
            code = re.sub(r"epochs=\d+", "epochs=2", code)
        steps.append((path.name, "", code))
    walk(steps, tmp_path)


def test_notebooks_are_kept_with_their_pictures() -> None:
    for path in NOTEBOOKS:
        content = path.read_text()
        cells = [cell for cell in json.loads(content)["cells"] if cell["cell_type"] == "code"]
        outputs = [output for cell in cells for output in cell["outputs"]]
        assert all(cell["execution_count"] for cell in cells), f"{path.name} was not run to its end"
        assert [cell["execution_count"] for cell in cells] == [*range(1, 1 + len(cells))]
        assert any("image/png" in output.get("data", {}) for output in outputs), path.name
        assert {output["output_type"] for output in outputs} <= {"display_data", "execute_result", "stream"}
        assert len(content) < 2_000_000, f"{path.name} is too large to be looked at on the web"


def test_notebooks_begin_by_installing_the_package_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [json.loads(path.read_text())["cells"] for path in NOTEBOOKS]
    codes = [["".join(cell["source"]) for cell in each if cell["cell_type"] == "code"] for each in cells]
    (first,) = {code for code, *_ in codes}
    ran: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: ran.append(command))
    exec(first, {})
    assert ran == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec(first, {})
    ((*pip, package),) = ran
    assert pip == [sys.executable, "-m", "pip", "install", "--quiet"]
    assert package.startswith("emgscribe[train] @ git+")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_readme_and_pages_run_in_a_clone(tmp_path: Path) -> None:
    """The commands of the first ten minutes, then the Python of each page, in a copy of what git tracks."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(lambda name: (ROOT / name).is_file(), listed.splitlines()):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    ours = [line for block in blocks(START, "sh") for line in block.splitlines() if line.startswith("emgscribe ")]
    assert {line.split()[1] for line in ours} >= {"simulate", "inspect", "train", "evaluate", "transcribe", "report"}
    pages = [(page.name, "\n".join(blocks(page, "python"))) for page in PAGES if blocks(page, "python")]
    if not FULL:
        pages = [(name, re.sub(SIZES, SMALLER, code)) for name, code in pages]
    steps = [(START.name, line, "") for line in ours] + [(name, "", code) for name, code in pages]
    assert len(steps) > 15
    printed = dict(zip((name for name, *_ in steps), walk(steps, tmp_path), strict=True))  # a page's Python comes last
    if FULL:
        check_quotes(printed)
    assert len(list((tmp_path / "tiny").glob("*.hdf5"))) == 3
    assert (tmp_path / "runs" / "demo-0" / "best" / "beam.json").exists()
    assert [path.name for path in (tmp_path / "results").glob("*.json")] == ["demo-0.json"]
    assert "| demo (train.epochs 2) |" in (tmp_path / "report" / "report.md").read_text()


def test_the_first_minutes_quote_one_result() -> None:
    demo, python = (numbers(block.splitlines()[-1]) for block in blocks(START, "text"))
    assert len(demo) == 3
    assert demo == pytest.approx(python, abs=0.005)


def test_the_readme_fits_on_two_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 80


def test_pages_name_only_targets_of_the_makefile() -> None:
    pages = "".join((ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md", "docs/start.md"))
    named = set(re.findall(r"`make (\w+)`", pages))
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"demo", "test", "check", "bench", "docs"} <= named <= targets


def test_pages_list_every_module_and_explain_every_extra_and_dependency() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    parts = {
        path.name for path in (ROOT / "emgscribe").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert [name for name in sorted(parts) if not name.startswith("__") and name not in page] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras, _, page = (ROOT / "docs" / "install.md").read_text().partition("## Dependencies")
    rows = re.findall(r"^\| (`[^|]*`) \|", extras, flags=re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"\w+", row)}
    assert named == set(project["optional-dependencies"])
    extras = [name for extra, names in project["optional-dependencies"].items() if extra != "dev" for name in names]
    names = [
        re.split(r"\W", name)[0] for name in [*project["dependencies"], *extras] if not name.startswith("emgscribe[")
    ]
    table = re.findall(r"^\| ([a-z0-9, ]+) \|", page, flags=re.MULTILINE)
    assert project["scripts"] == {"emgscribe": "emgscribe.cli:run"}  # which the walk calls
    assert set(names) == {name for row in table for name in row.split(", ")} - {"package"}


def test_the_page_of_the_api_is_complete_and_up_to_date() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    assert {*re.findall(r"^### (\w+)$", page, flags=re.MULTILINE), "__version__"} == set(es.__all__)
    printed = subprocess.run(
        [sys.executable, ROOT / "scripts" / "api.py", "--print"], capture_output=True, text=True, check=True
    ).stdout
    assert printed == page + "\n", "make api"


def test_measured_tables_agree_with_the_results() -> None:
    row = re.compile(
        r"^\| `((?:ablation|small|medium)/[^`]+)` \|.*\| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|$", re.MULTILINE
    )
    found = [match for page in PAGES for match in row.findall(page.read_text())]
    assert len(found) >= 18
    seeds = [row for table in tables(read_results(ROOT / "docs" / "results")) for row in table.rows]
    for name, *figures in found:
        paths = (ROOT / "docs" / "results" / name).parent.glob("*.json")
        mine = [path for path in paths if path.stem.rpartition("-")[0] == name.rpartition("/")[2]]
        records = [json.loads(path.read_text()) for path in mine]
        assert all(record["data"]["kind"] == "simulated" for record in records)
        scores = [[score["cer"], *score["cer_interval"]] for record in records for score in record["test"].values()]
        scores += [[row.cer, *row.interval] for row in seeds if row.name == name]  # of all seeds together
        assert figures in [[f"{value:.1f}" for value in score] for score in scores], name
