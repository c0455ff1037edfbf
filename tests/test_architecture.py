"""The house rules that a machine can check: design of the file list, size of modules and functions, light imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "emgscribe"
LEAVES = {"errors", "files", "config"}
# The pipeline in order; a module may import the leaves and what stands before it.
FLOW = [
    *("charset", "session", "inspection", "synthetic", "store", "ancestry", "windows"),
    *("augment", "features", "encoders", "attention", "model"),
    *("decode", "arpa", "language_model", "prefix_search", "beam"),
    *("score", "objective", "train", "emissions", "evaluate", "tune", "decoders"),
    *("experiments", "suites", "splits", "runs", "launch", "plan", "rescore"),
    *("figures", "results", "report", "sweep", "cli"),
]
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("lightning", "matplotlib", "tyro", "torch", "h5py", "rich", "numba")


def stage(path: Path) -> str:
    """The stage that a module belongs to: its own name, or its folder's."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(str(node.module))
            if node.module == "emgscribe":
                names |= {f"emgscribe.{alias.name}" for alias in node.names}
    return names


def test_every_module_has_a_place_in_the_flow() -> None:
    found = {stage(path) for path in MODULES} - {"__init__", "py"}
    assert found == LEAVES | set(FLOW)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_backwards(path: Path) -> None:
    own = stage(path)
    if own == "__init__":
        allowed = {"errors"}
    elif own in LEAVES:
        allowed = LEAVES
    else:
        allowed = LEAVES | set(FLOW[: FLOW.index(own) + 1])
    ours = {name.split(".")[1] for name in imported(path) if name.startswith("emgscribe.")}
    assert ours <= allowed, f"{own} imports {ours - allowed}"


@pytest.mark.parametrize(("library", "home"), [("lightning", "train"), ("tyro", "cli"), ("numba", "prefix_search")])
def test_library_has_one_home(library: str, home: str) -> None:
    users = {stage(path) for path in MODULES if any(name.split(".")[0] == library for name in imported(path))}
    assert users == {home}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_sizes(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno + 1 <= 60, f"{node.name} is too long"
            assert len(node.args.args) <= 6, f"{node.name} has more than five positional parameters and self"


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that are loaded after `statement` in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_is_light() -> None:
    assert not loaded_by("import emgscribe") & set(HEAVY)


def test_help_and_inspect_do_not_load_torch() -> None:
    assert not loaded_by("import emgscribe.cli") & {"lightning", "matplotlib", "torch", "numba"}


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
