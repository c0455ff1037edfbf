"""Rules of the package that a machine can check, beside the import contracts: light imports, public names."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import emgscribe as es

PACKAGE = Path(__file__).parent.parent / "emgscribe"
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"lightning", "matplotlib", "numba", "scipy", "torch", "wordfreq"}


def loaded_by(statement: str) -> set[str]:
    """Modules that are loaded after `statement` in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint('\\nloaded:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("loaded:")[2].split())


def test_importing_the_package_is_light() -> None:
    assert not loaded_by("import emgscribe; dir(emgscribe)") & {*HEAVY, "tyro", "h5py", "numpy", "rich"}


@pytest.mark.parametrize("call", [["--help"], ["--version"], ["simulate", "x"], ["inspect", str(PACKAGE)]])
def test_help_and_inspect_load_nothing_heavy(call: list[str]) -> None:
    assert not loaded_by(f"from emgscribe import cli\ncli.main({call})") & HEAVY


def test_listing_experiments_loads_no_lightning() -> None:
    assert not loaded_by("from emgscribe import cli\ncli.main(['train'])") & {"lightning", "matplotlib", "wordfreq"}


def test_live_starts_without_torch_and_a_stream_without_torchs_compiler() -> None:
    """A simulated typist gets ready while torch is loaded; the compiler and SciPy's statistics would take seconds."""
    assert not loaded_by("from emgscribe import cli\ncli.main(['live', '--help'])") & {"torch", "numba", "scipy.stats"}
    loaded = loaded_by("import emgscribe as es\nes.Stream(es.load_model('live')).flush()")
    assert "torch" in loaded
    assert not loaded & {"torch._dynamo", "scipy", "numba", "matplotlib"}


def test_without_extras_models_are_scored_and_streamed_and_training_names_the_missing_extra(
    make_session: Callable[..., Path], tmp_path: Path
) -> None:
    extras = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    packages = {re.split(r"[>=\[]", one)[0] for name, those in extras.items() if name != "dev" for one in those}
    blocked = [name for name in packages if name not in ("emgscribe", "setuptools")]
    assert {"lightning", "matplotlib", "ray", "onnxruntime", "starlette"} <= set(blocked)
    session, out = str(make_session(samples=9000)), str(tmp_path / "run")
    lines = [["evaluate", "live", session], ["transcribe", session, "--model", "live"], ["live", "--help"], ["train"]]
    missing = [["adapt", "live", session, "--out", out], ["report", "--results", str(PACKAGE.parent / "docs/results")]]
    code = f"""
import sys
sys.modules.update(dict.fromkeys({blocked}))
from emgscribe.cli import main
import emgscribe as es, numpy as np
es.Stream(es.load_model("live")).feed(np.zeros((4000, 2, 16), np.float32))
print([main(line) for line in {lines}])
print([main(line) for line in {missing}])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-2:] == ["[0, 0, 0, 2]", "[2, 2]"]
    assert done.stderr.count("pip install 'emgscribe[train]'") == 2
    assert not (tmp_path / "run").exists()


def test_every_public_name_exists_and_has_a_docstring() -> None:
    assert len(es.__all__) == len(set(es.__all__))
    assert set(dir(es)) >= {*es.__all__}
    bare = [name for name in es.__all__ if name != "__version__" and not (getattr(es, name).__doc__ or "").strip()]
    assert bare == []
    with pytest.raises(AttributeError, match="no attribute 'sesion'"):
        _ = es.sesion


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text())
    parts = [part.value for part in tree.body if isinstance(part, ast.Assign | ast.AugAssign)]
    assert sorted(name for part in parts for name in ast.literal_eval(part)) == dir(es)


def test_public_functions_have_docstrings() -> None:
    bare = [
        f"{path.relative_to(PACKAGE)}: {node.name}"
        for path in MODULES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert bare == []


def test_the_lowest_versions_that_are_tested_are_those_that_are_promised() -> None:
    root = PACKAGE.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = [those for name, those in project["optional-dependencies"].items() if name != "dev"]
    promised = {one.replace(">=", "==") for one in sum(extras, project["dependencies"]) if ">=" in one}
    tested = {line for line in (root / "constraints-lowest.txt").read_text().splitlines() if line[0] != "#"}
    assert promised - tested == {"torch==2.6"}
    assert tested - promised == {"torch==2.13.0"}
