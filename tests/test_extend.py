"""docs/extend.md runs as it stands: its file, its script, its command."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(py my_layers.py|py|sh)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def test_the_page_runs_as_it_stands(tmp_path: Path) -> None:
    blocks: dict[str, list[str]] = {"py my_layers.py": [], "py": [], "sh": []}
    for kind, text in BLOCK.findall((ROOT / "docs" / "extend.md").read_text()):
        blocks[kind].append(text)
    assert [len(texts) for texts in blocks.values()] == [3, 3, 3]
    (tmp_path / "my_layers.py").write_text("\n\n".join(blocks["py my_layers.py"]))
    (tmp_path / "script.py").write_text("".join(blocks["py"]))
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    printed = [run([sys.executable, "-W", "ignore", "script.py"], tmp_path)]
    printed += [run(["bash", "-euc", command.replace("PYTHONPATH=. ", "")], tmp_path) for command in blocks["sh"]]
    assert re.search(r"<Model mlp \+ gated-conv, [\d,]+ parameters, 62.5 frames/s>", printed[0])
    assert re.search(r"CER \d+\.\d %", printed[0])
    assert re.search(r"augment\.more is .*0\.2}\] there, .*0\.3}\] here\n  hint: choose another folder", printed[0])
    assert re.search(r"<RunResult of demo-2, seed 0, simulated sessions: greedy CER \d+\.\d+ %>", printed[0])
    page = (tmp_path / "report" / "report.md").read_text()
    assert re.search(r"^\| mine \| greedy \|.* 0: \d+\.\d+, 1: \d+\.\d+ \|", page, re.MULTILINE)
    assert re.search(r"^- mine \d+\.\d+ %, demo-2 \(demo, train.epochs 2\) .*: difference", page, re.MULTILINE)
    assert "CER" in printed[2]
    passed = re.search(r"(\d+) passed", printed[3])
    assert passed
    assert int(passed[1]) >= 8


def run(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
