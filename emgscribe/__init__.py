"""emgscribe: the text that the wearer of two EMG wristbands types.

Everything public is here, and is loaded when it is first used, so that importing the package is cheap:

    import emgscribe as es

    es.simulate("data", users=1, sessions=10, minutes=4)
    train, val, test = es.split("data")
    run = es.train(es.recipes.DEMO, train, val, out="runs/demo")
    print(es.evaluate(run.model, test))
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

# The public names are listed once, as imports in __init__.pyi, for type checkers and for the lazy imports below.
_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_IMPORTS = [node for node in _STUB.body if isinstance(node, ast.ImportFrom)]
_HOME = {alias.name: str(node.module) for node in _IMPORTS for alias in node.names}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("emgscribe")
    if name not in _HOME:
        raise AttributeError(f"module 'emgscribe' has no attribute {name!r}")
    found = getattr(import_module(_HOME[name]), name, None) or import_module(f"{_HOME[name]}.{name}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
