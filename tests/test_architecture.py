"""Rules of the package that a machine can check, beside the import contracts: light imports, public names."""

import ast
import subprocess
import sys
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


def test_live_reading_starts_without_torch_and_a_model_without_its_compiler() -> None:
    """A simulated typist gets ready while torch is loaded; the compiler and SciPy's statistics would take seconds."""
    assert not loaded_by("from emgscribe import cli\ncli.main(['live', '--help'])") & {"torch", "numba", "scipy.stats"}
    loaded = loaded_by("import emgscribe as es\nes.Stream(es.load_model('live')).flush()")
    assert "torch" in loaded
    assert not loaded & {"torch._dynamo", "scipy", "numba", "matplotlib"}


def test_every_public_name_is_there_and_explained() -> None:
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
