"""Settings as frozen dataclasses: checked against their types, stored as JSON, open to registered kinds.

The settings of a stage are beside its code, as in `models.encoders.tds.TdsConfig`. The type of a field limits its
values (`Count`, `Share`, a `Literal`); the comment on its line is its help on the command line.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cache, partial
from inspect import isclass
from reprlib import repr as shortened
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from emgscribe.errors import EmgscribeError

T = TypeVar("T")
K = TypeVar("K", bound="type[Kind]")
_NEWER = "another version may have written it"
_OWN = "import the module that registers it first: es.register in Python, EMGSCRIBE_MODULES=NAME on the command line"
_MAX_FLOAT = sys.float_info.max  # the largest number that is not infinite


@dataclass(frozen=True)
class Range:
    """The allowed range of a number, as metadata of `Annotated`; a round bracket in `ends` excludes that end."""

    low: float
    high: float = _MAX_FLOAT
    ends: Literal["[]", "[)", "()"] = "[]"

    def holds(self, value: float) -> bool:
        above = self.low < value if "(" in self.ends else self.low <= value
        return above and (value < self.high if ")" in self.ends else value <= self.high)

    def __str__(self) -> str:
        low = f"above {self.low:g}" if "(" in self.ends else f"{self.low:g} or more"
        high = f"{low}, below {self.high:g}" if ")" in self.ends else f"{self.low:g} to {self.high:,.15g}"
        return low if self.high == _MAX_FLOAT else high


class _Samples:
    """Marks a number of samples, after its `Range` in the metadata: `Settings.at_rate` scales it."""


SAMPLES = _Samples()
Below = partial(Range, ends="[)")
Count = Annotated[int, Range(1, 10**9)]
Whole = Annotated[int, Range(0, 10**9)]
Share = Annotated[float, Range(0, 1)]
Dropout = Annotated[float, Below(0, 1)]
Layers = Annotated[int, Range(1, 1000)]  # of a network, or its blocks


def require(holds: bool, field: str, value: object, allowed: str) -> None:
    """Refuse a setting where `holds` is false, naming the field, its value and what is allowed."""
    if not holds:
        what = f"{field} is {shortened(value)}, allowed: {allowed}"
        raise EmgscribeError(what, hint=f"choose another value for {field}")


def is_number(value: object) -> bool:
    """Whether a JSON value is a finite number, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_FLOAT  # NaN is not


@dataclass(frozen=True)
class Settings:
    """Base of all settings: a value that the type of its field does not allow raises `EmgscribeError`.

    Errors put `section` before the name of the field. A subclass adds rules across fields in `__post_init__`.
    """

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():  # type: ignore[arg-type]  # a class is hashable
            _check(hint, getattr(self, name), f"{self.section}.{name}" if self.section else name)

    def at_rate(self, factor: float) -> Self:
        """The same settings for a sampling rate `factor` times as high: durations stay, numbers of samples change."""
        hints = _hints(type(self))  # type: ignore[arg-type]  # a class is hashable
        return replace(self, **{name: _at_rate(hint, getattr(self, name), factor) for name, hint in hints.items()})


@dataclass(frozen=True)
class Kind(Settings):
    """Base of settings that come in several kinds (encoders, features, augmentations), each stored under its name.

    A direct subclass has a registry of its own, `kinds`; `register` adds to it.
    """

    kinds: ClassVar[dict[str, type[Self]]]

    @classmethod
    def kind(cls) -> str:
        """The name that this class is registered under."""
        if name := next((name for name, kind in cls.kinds.items() if kind is cls), None):
            return name
        hint = "put @emgscribe.register('some-name') above its @dataclass(frozen=True)"
        raise EmgscribeError(f"{cls.__name__} is not registered, so it has no name to be stored under", hint=hint)


def register(name: str) -> Callable[[K], K]:
    """Class decorator above `@dataclass(frozen=True)`: models and results store this `Kind` under `name`.

    A class of the same name in the same module is replaced, as when a notebook cell runs again. The name of any other
    registered class raises `EmgscribeError`.
    """
    require(bool(re.fullmatch("[a-z0-9][a-z0-9-]*", name)), "name", name, "lowercase letters, digits and hyphens")

    def add(kind: K) -> K:
        known = kind.kinds.get(name, kind)
        if (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__):
            raise EmgscribeError(f"{name!r} is already the name of {known.__name__}", hint="choose another name")
        kind.kinds[name] = kind
        return kind

    return add


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind)}


_PLAIN: dict[Any, tuple[Any, str]] = {
    bool: (bool, "true or false"),
    str: (str, "a string"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
}


def _meant(hint: Any, value: Any) -> Any:
    """For a type `X | None`, the one of the two that a value is meant to be; any other type as it is."""
    parts = get_args(hint) if get_origin(hint) in (UnionType, Union) else ()
    if len(parts) != 2 or NoneType not in parts:
        return hint
    return NoneType if value is None else next(part for part in parts if part is not NoneType)


def _check(hint: Any, value: Any, field: str) -> None:
    """Refuse a value that the type of a field does not allow."""
    hint = _meant(hint, value)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        whole = arguments[0] is int
        number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        for limit in (part for part in arguments[1:] if isinstance(part, Range)):
            require(number and limit.holds(value), field, value, f"{'a whole number, ' * whole}{limit}")
    elif origin is Literal:
        known = any(value == each and type(value) is type(each) for each in arguments)  # 1.0 and true are not 1
        require(known, field, value, ", ".join(map(str, arguments)))
    elif origin is tuple and arguments[-1] is Ellipsis:
        require(isinstance(value, tuple), field, value, "a tuple")
        for item in value:
            _check(arguments[0], item, field)
    elif origin is dict:
        require(isinstance(value, dict), field, value, "an object")
    elif hint in _PLAIN:
        kinds, wanted = _PLAIN[hint]
        require(isinstance(value, kinds) and (hint is bool or not isinstance(value, bool)), field, value, wanted)
    elif isclass(hint) and issubclass(hint, Kind):
        require(isinstance(value, hint), field, value, f"a {hint.__name__}")
        value.kind()  # refuses a class that is not registered
    elif isclass(hint) and issubclass(hint, Settings):
        # A subclass would be stored as its base, and leave no trace.
        require(type(value) is hint, field, value, f"a {hint.__name__} itself, not a subclass of it")


def _at_rate(hint: Any, value: Any, factor: float) -> Any:
    if isinstance(value, Settings):
        return value.at_rate(factor)
    if get_origin(hint) is Annotated and SAMPLES in hint.__metadata__:
        limit = hint.__metadata__[0]
        return min(max(round(value * factor), limit.low), limit.high)
    return tuple(_at_rate(get_args(hint)[0], item, factor) for item in value) if isinstance(value, tuple) else value


def to_json(value: Any) -> Any:
    """Settings as JSON-ready data; `from_json` inverts it."""
    if is_dataclass(value):
        own = {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
        return {"kind": value.kind(), **own} if isinstance(value, Kind) else own
    return [to_json(item) for item in value] if isinstance(value, tuple) else value


def from_json(kind: type[T], data: Any, *, where: str) -> T:
    """Settings of type `kind` from JSON data. A missing, unknown or ill-typed field raises `EmgscribeError`."""
    try:
        value: T = _read(kind, data, getattr(kind, "section", ""))
    except EmgscribeError as error:
        raise EmgscribeError(error.what, where=where, hint=_OWN if error.hint == _OWN else _NEWER) from error
    return value


def _read(hint: Any, data: Any, path: str) -> Any:
    """The value of type `hint` that JSON data stand for; `path` leads to it."""
    hint = _meant(hint, data)
    arguments = get_args(hint)
    if get_origin(hint) is tuple:
        require(isinstance(data, list), path, data, "a list")
        return tuple(_read(arguments[0], item, f"{path}[{place}]") for place, item in enumerate(data))
    if not (isclass(hint) and is_dataclass(hint)):
        int_for_float = arguments[:1] == (float,) and type(data) is int and abs(data) <= _MAX_FLOAT  # as in "lr": 1
        _check(hint, data, path)
        return float(data) if int_for_float else data
    place = path or "the content"
    if path.count(".") == 16:
        raise EmgscribeError(f"{place} is nested too deeply")
    require(isinstance(data, dict), place, data, "an object")
    own = dict(data)
    if issubclass(hint, Kind) and "kinds" in vars(hint):
        name = own.pop("kind", None)
        if not isinstance(name, str) or name not in hint.kinds:
            what = f"{path}.kind is {shortened(name)}, allowed: {', '.join(hint.kinds)}"
            raise EmgscribeError(what, hint=_OWN if isinstance(name, str) else "")
        hint = hint.kinds[name]
    hints, before = _hints(hint), path and f"{path}."
    needed = [field.name for field in fields(hint) if field.default is field.default_factory is MISSING]
    if lacking := [name for name in needed if name not in own]:
        raise EmgscribeError(f"{place} lacks {lacking[0]}")
    if strange := [name for name in own if name not in hints]:
        raise EmgscribeError(f"{place} has no setting {shortened(strange[0])}; it has {', '.join(hints)}")
    return hint(**{name: _read(hints[name], value, before + name) for name, value in own.items()})


def leaves(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of each single setting in settings as JSON, as in ("train.lr", 0.001)."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{before}{name}.")
        else:
            yield before + name, value


def options(settings: Iterable[tuple[str, Any]]) -> list[str]:
    """What sets such pairs on the command line, as in ["--train.lr", "0.001", "--model.encoder.no-bidirectional"]."""
    words = list[str]()
    for path, value in settings:
        owner, dot, name = path.replace("_", "-").rpartition(".")
        no = "no-" if value is False else ""
        values = [] if isinstance(value, bool) else value if isinstance(value, list | tuple) else [value]
        words += [f"--{owner}{dot}{no}{name}", *map(str, values)]
    return words


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What differs between two settings as JSON, in words: three of them, and the number of the others."""
    then, now = ({path: json.dumps(value) for path, value in leaves(part)} for part in (there, here))
    names = [path for path in then | now if then.get(path) != now.get(path)]
    pairs = ((path, *_apart(then.get(path, "-"), now.get(path, "-"))) for path in names[:3])
    values = [f"{path:.80} is {one} there, {other} here" for path, one, other in pairs]
    return "; ".join(values) + f"; and {len(names) - 3} more" * (len(names) > 3)


def _apart(one: str, other: str) -> tuple[str, str]:
    """The beginnings of two values; if they are long, from shortly before the first difference on."""
    first = next((place for place, pair in enumerate(zip(one, other, strict=False)) if len(set(pair)) > 1), 0)
    first = max(0, first - 20) if max(len(one), len(other)) > 40 else 0
    before = "..." * (first > 0)
    return before + one[first : first + 40], before + other[first : first + 40]


def reads_as(value: object, data: Any) -> bool:
    """Whether stored data are the settings `value`. Fields that the data lack take their defaults."""
    try:
        return bool(from_json(type(value), data, where="") == value)
    except EmgscribeError:
        return False
