"""docs/extend.md, done as it says: in a copy of the package, with its file, its lines and its commands."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from emgscribe.files import read_json

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extend.md").read_text()
STEP = re.compile(r"^```(py|diff|sh)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def applied(folder: Path) -> tuple[list[str], list[str]]:
    """Do what the page says to the copy in `folder`; returns the lines added to files that were there, and commands."""
    added: list[str] = []
    commands: list[str] = []
    for block in STEP.finditer(PAGE):
        kind, text = block.groups()
        if kind == "sh":
            commands += text.splitlines()
            continue
        path = folder / re.findall(r"`(emgscribe/\S+\.py)`", PAGE[: block.start()])[-1]
        if kind == "py":
            assert not path.exists()
            path.write_text(text)
            continue
        lines = text.splitlines()
        before, after = ("".join(f"{line[1:]}\n" for line in lines if line[0] in kept) for kept in (" ", " +"))
        content = path.read_text()
        assert content.count(before) == 1
        path.write_text(content.replace(before, after))
        added += [line[1:] for line in lines if line[0] == "+"]
    return added, commands


def test_a_new_layer_is_one_file_one_registry_line_and_one_experiment_line(tmp_path: Path) -> None:
    for part in ("emgscribe", "tests"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    added, commands = applied(tmp_path)
    assert len([line for line in added if not line.startswith("from ")]) == 2
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    assert [command.split()[0] for command in commands] == ["emgscribe"] * 3 + ["pytest"]
    for command in commands:
        done = subprocess.run(
            ["bash", "-euc", command], cwd=tmp_path, capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    result = read_json(tmp_path / "results" / "gated-conv-0.json")
    assert result["experiment"]["model"]["encoder"]["kind"] == "gated-conv"
    assert len(result["curves"]) == 2
    checked = re.search(r"(\d+) passed", done.stdout)
    assert checked
    assert int(checked[1]) >= 10
