"""Settings as frozen dataclasses: checked against their types, stored as JSON, open to registered kinds.

The settings of a stage are beside its code, as in `models.encoders.tds.TdsConfig`. The type of a field says what it may
be (`Count`, `Share`, a `Literal`); the comment on its line is its help on the command line.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache, partial
from inspect import isclass
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args, get_origin, get_type_hints

import cattrs

from emgscribe.errors import EmgscribeError

T = TypeVar("T")
K = TypeVar("K", bound="type[Kind]")


@dataclass(frozen=True)
class Range:
    """What a number may be, as metadata of `Annotated`; a round bracket in `ends` leaves out that end."""

    low: float
    high: float = math.inf
    ends: Literal["[]", "[)", "()"] = "[]"

    def holds(self, value: float) -> bool:
        above = self.low < value if "(" in self.ends else self.low <= value
        return above and (value < self.high if ")" in self.ends else value <= self.high)

    def __str__(self) -> str:
        low = f"above {self.low:g}" if "(" in self.ends else f"{self.low:g} or more"
        high = f"{low}, below {self.high:g}" if ")" in self.ends else f"{self.low:g} to {self.high:g}"
        return low if self.high == math.inf else high


Below = partial(Range, ends="[)")
Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]
Share = Annotated[float, Range(0, 1)]
Dropout = Annotated[float, Below(0, 1)]


def require(holds: bool, field: str, value: object, allowed: str) -> None:
    """Refuse a setting where `holds` is false, naming the field, its value and what is allowed."""
    if not holds:
        raise EmgscribeError(f"{field} is {value!r}, allowed: {allowed}", hint=f"choose another value for {field}")


@dataclass(frozen=True)
class Settings:
    """Base of all settings: a value that the type of its field does not allow is an `EmgscribeError`.

    Errors put `section` before the name of the field. A subclass adds rules across fields in `__post_init__`.
    """

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():  # type: ignore[arg-type]  # a class is hashable
            _check(hint, getattr(self, name), f"{self.section}.{name}" if self.section else name)


@dataclass(frozen=True)
class Kind(Settings):
    """Base of settings of several kinds (encoders, features, augmentations), each stored by its name.

    A direct subclass has a registry of its own, `kinds`; `register` adds to it.
    """

    kinds: ClassVar[dict[str, type[Self]]]

    @classmethod
    def kind(cls) -> str:
        """The name that this class is registered by."""
        if name := next((name for name, kind in cls.kinds.items() if kind is cls), None):
            return name
        hint = "put @emgscribe.register('some-name') above its @dataclass(frozen=True)"
        raise EmgscribeError(f"{cls.__name__} is not registered, so it has no name to be stored by", hint=hint)


def register(name: str) -> Callable[[K], K]:
    """Class decorator above `@dataclass(frozen=True)`: models and results store this `Kind` by `name`.

    A class of the same name in the same module is replaced, as when a notebook cell runs again. The name of any other
    class is an `EmgscribeError`.
    """
    require(bool(re.fullmatch("[a-z0-9][a-z0-9-]*", name)), "name", name, "small letters, digits and hyphens")

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


def _check(hint: Any, value: Any, field: str) -> None:
    """Refuse a value that the type of a field does not allow."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        whole = arguments[0] is int
        number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        for limit in (part for part in arguments[1:] if isinstance(part, Range)):
            require(number and limit.holds(value), field, value, f"{'a whole number, ' * whole}{limit}")
    elif origin is Literal:
        require(value in arguments, field, value, ", ".join(map(str, arguments)))
    elif origin is tuple and arguments[-1] is Ellipsis:
        require(isinstance(value, tuple), field, value, "a tuple")
        for item in value:
            _check(arguments[0], item, field)
    elif hint in (bool, str):
        require(isinstance(value, hint), field, value, "true or false" if hint is bool else "a text")
    elif isclass(hint) and issubclass(hint, Kind):
        require(isinstance(value, hint), field, value, f"a {hint.__name__}")
        value.kind()  # refuses a class that is not registered
    elif isclass(hint) and issubclass(hint, Settings):
        # A subclass would be stored as its base, and leave no trace.
        require(type(value) is hint, field, value, f"a {hint.__name__} itself, no subclass of it")


def _whole(value: Any, kind: type[int]) -> int:
    # Python takes True for a whole number, and makes one of 16.5; in a file both are mistakes.
    if type(value) is not kind:
        raise ValueError(f"{value!r} is no {kind.__name__}")
    return value


def _stored_kind(value: Kind) -> dict[str, Any]:
    own = {field.name: converter.unstructure(getattr(value, field.name)) for field in fields(value)}
    return {"kind": value.kind(), **own}


def _kind_of(data: Any, base: type[Kind]) -> Kind:
    name = (found := dict(data)).pop("kind", None)
    require(name in base.kinds, f"{base.section}.kind", name, ", ".join(base.kinds))
    return converter.structure(found, base.kinds[name])


def _is_kind(kind: Any) -> bool:
    return isclass(kind) and issubclass(kind, Kind)


converter = cattrs.Converter(forbid_extra_keys=True)
converter.register_structure_hook(int, _whole)
converter.register_structure_hook_func(lambda kind: _is_kind(kind) and "kinds" in vars(kind), _kind_of)
converter.register_unstructure_hook_func(_is_kind, _stored_kind)


def to_json(value: object) -> Any:
    """Settings as JSON-ready data; `from_json` inverts it."""
    return converter.unstructure(value)


def from_json(kind: type[T], data: Any, *, where: str) -> T:
    """Settings of type `kind` from JSON data. A missing, unknown or mistyped field is an `EmgscribeError`."""
    try:
        return converter.structure(data, kind)
    except Exception as error:

        def what(fault: BaseException, kind: type | None) -> str:
            return fault.what if isinstance(fault, EmgscribeError) else cattrs.v.format_exception(fault, kind)

        faults = cattrs.transform_error(error, path=kind.__name__, format_exception=what)
        raise EmgscribeError("; ".join(faults), where=where, hint="another version may have written it") from error


def leaves(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of each single setting in settings as JSON, as in ("train.lr", 0.001)."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{before}{name}.")
        else:
            yield before + name, value


def reads_as(value: object, data: Any) -> bool:
    """Whether stored data are the settings `value`. Fields that they lack are at their defaults."""
    try:
        return bool(from_json(type(value), data, where="") == value)
    except EmgscribeError:
        return False
