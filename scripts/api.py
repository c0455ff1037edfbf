"""Write docs/api.md, the page of every public name, from the docstrings: `make api`. Prints it with --print."""

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

import emgscribe as es

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
SECTIONS = {
    "Sessions": "Session Shape open_session open_sessions split DataConfig inspect Inspection simulate"
    " simulate_key_logs SimulationConfig convert Source",
    "Models": "load_model Model save_model ModelConfig transcribe Transcript ensemble import_checkpoint"
    " export_checkpoint export_onnx OnnxModel",
    "What a key is read from": "saliency Saliency",
    "Streams": "Stream Update",
    "Decoding": "GreedyDecoder BeamDecoder BeamConfig LanguageModel Decoder Hypothesis",
    "Scores": "evaluate Evaluation evaluate_all Counts",
    "Training": "train adapt Trained Recipe TrainConfig Augmentation TrainingModule SessionsDataModule WindowDataset"
    " WindowConfig Batch ctc_loss",
    "Experiments": "recipes Experiment run_experiment RunResult",
    "Parts of a network, and your own": "register encoders Encoder EncoderConfig features Features FeaturesConfig"
    " AttentionConfig Settings",
    "Errors": "EmgscribeError",
}
_INTRODUCTION = """# Python API

Every public name of `import emgscribe as es`. Importing loads no torch; a name is loaded when it is first used. Paths
are `str` or `Path`. A mistake in what you pass is an `EmgscribeError`, which says what is wrong, where, and what to do.
This page is made from the docstrings (`make api`).
"""


def page() -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    for section, names in SECTIONS.items():
        parts.append(f"## {section}\n")
        parts += [text for name in names.split() for text in _entry(name, getattr(es, name))]
    return "\n".join(parts)


def _entry(name: str, value: Any) -> Iterator[str]:
    yield f"### {name}\n"
    fields = list(_fields(value)) if is_dataclass(value) else []
    if not inspect.ismodule(value):
        yield f"```py\nes.{name}{'(...)' if fields else _signature(value)}\n```\n"
    yield (inspect.getdoc(value) or "") + "\n"
    if inspect.ismodule(value):
        listed = getattr(value, "__all__", None) or [n for n in vars(value) if _own(getattr(value, n), value.__name__)]
        yield "It has " + ", ".join(f"`{part}`" for part in listed) + ".\n"
    elif inspect.isclass(value) and (lines := [*fields, *filter(None, map(_member, vars(value).items()))]):
        yield "\n".join(lines) + "\n"


def _fields(kind: type) -> Iterator[str]:
    """The fields of a dataclass with their defaults, and the comment on a field's line or above it."""
    source = "\n".join(inspect.getsource(one) for one in reversed(kind.__mro__) if is_dataclass(one))
    for field in fields(kind):
        default = "" if field.default is MISSING else f" = {field.default!r}"
        found = re.search(rf"(?:^ +# (.*)\n)?^ +{field.name}: .*?(?:  # (.*))?$", source, flags=re.MULTILINE)
        about = found and (found[2] or found[1])
        yield f"- `.{field.name}{default}`" + (f": {about}" if about else "")


def _own(value: Any, module: str) -> bool:
    return getattr(value, "__module__", None) == module and not value.__name__.startswith("_")


def _member(named: tuple[str, Any]) -> str:
    name, value = named
    if isinstance(value, classmethod | staticmethod):
        value = value.__func__
    if name.startswith("_") or not value.__doc__:
        return ""
    if isinstance(value, property):
        return f"- `.{name}`: {_brief(value)}"
    return f"- `.{name}{_signature(value)}`: {_brief(value)}" if inspect.isfunction(value) else ""


def _brief(value: Any) -> str:
    return " ".join((inspect.getdoc(value) or "").partition("\n\n")[0].split())


def _signature(value: Any) -> str:
    try:
        text = str(inspect.signature(value))
    except (TypeError, ValueError):
        return ""
    text = text.replace(inspect.formatannotation(ArrayLike), "ArrayLike")  # it is printed as what it stands for
    for module in ("emgscribe", "collections.abc", "pathlib", "typing", "torch", "numpy"):
        text = re.sub(rf"\b{module}(\.\w+)*\.(?=\w)", "", text)
    text = re.sub(r"Annotated\[(\w+), (?:[^\[\]]|\[[^\]]*\])*?\)\]", r"\1", text)
    text = re.sub(r"ndarray\[tuple\[Any, \.\.\.\], dtype\[(\w+)\]\]", r"ndarray[\1]", text)
    text = re.sub(r"Literal\['latest', [^\]]*\]", "Protocol", text)
    text = re.sub(r"(: |-> )'([^']+)'", r"\1\2", text)  # annotations that are quoted in the code
    text = re.sub(r"<factory>", "...", text).replace("(self, ", "(").replace("(cls, ", "(")
    return text.replace("(self)", "()").replace("(cls)", "()")


if __name__ == "__main__":
    if "--print" in sys.argv:
        print(page())
    else:
        PAGE.write_text(page(), encoding="utf-8")
