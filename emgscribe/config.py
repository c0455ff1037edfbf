"""Settings as frozen dataclasses: checked against their types, stored as JSON, and open to registered kinds.

A stage keeps its settings beside its code, as in `models.encoders.tds.TdsConfig`. The type of a field says what it may
hold (`Count`, `Share`, a `Literal`); a comment on its line is its help on the command line.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from inspect import isclass
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args, get_origin, get_type_hints

import cattrs

from emgscribe.errors import EmgscribeError

T = TypeVar("T")
K = TypeVar("K", bound="type[Kind]")


@dataclass(frozen=True)
class Range:
    """What a number may be, as metadata of `Annotated`: from `low` to `high`, or strictly between where `open`."""

    low: float
    high: float | None = None
    open: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number lies in the range; NaN lies in none."""
        if self.open:
            return self.low < value and (self.high is None or value < self.high)
        return self.low <= value and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        if self.high is None:
            return f"above {self.low:g}" if self.open else f"{self.low:g} or more"
        return f"above {self.low:g} and below {self.high:g}" if self.open else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Below(Range):
    """From `low` up to, but not including, `high`."""

    def holds(self, value: float) -> bool:
        """Whether a number lies in the range; NaN lies in none."""
        return self.low <= value and (self.high is None or value < self.high)

    def __str__(self) -> str:
        return f"{self.low:g} or more, below {self.high:g}"


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
    """Base of all settings: a value that its field's type does not allow is an `EmgscribeError`.

    `section` is what errors put before a field's name. A subclass with further rules extends `__post_init__`.
    """

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():  # type: ignore[arg-type]  # a class is hashable
            _check(hint, getattr(self, name), f"{self.section}.{name}" if self.section else name)


@dataclass(frozen=True)
class Kind(Settings):
    """Base of settings that come in several kinds (encoders, features, augmentations), each stored by its name.

    A direct subclass owns a registry, `kinds`; `register` adds to it.
    """

    kinds: ClassVar[dict[str, type[Self]]]

    @classmethod
    def kind(cls) -> str:
        """The name that this class was registered by."""
        for name, kind in cls.kinds.items():
            if kind is cls:
                return name
        hint = f"decorate the class with @emgscribe.register('a-name-of-its-own'), after @dataclass(frozen=True): {cls}"
        raise EmgscribeError(f"{cls.__name__} has no name to be stored by", hint=hint)


def register(name: str) -> Callable[[K], K]:
    """Class decorator: settings and models store this encoder, feature extractor or augmentation by `name`.

    Put it above `@dataclass(frozen=True)`. A class of the same name in the same module is replaced, as when a notebook
    cell runs again; a name that another class has is an `EmgscribeError`.
    """
    require(bool(re.fullmatch("[a-z0-9][a-z0-9-]*", name)), "name", name, "small letters, digits and hyphens")

    def add(kind: K) -> K:
        known = kind.kinds.get(name)
        own = (kind.__module__, kind.__qualname__)
        if known is not None and (known.__module__, known.__qualname__) != own:
            raise EmgscribeError(f"{name!r} is the name of {known.__name__}", hint="choose another name")
        kind.kinds[name] = kind
        return kind

    return add


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind)}


def _check(hint: Any, value: Any, field: str) -> None:
    """Refuse a value that a field's type does not allow."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        numbers = int if arguments[0] is int else (int, float)
        for limit in (part for part in arguments[1:] if isinstance(part, Range)):
            kind = "a whole number, " if arguments[0] is int else ""
            number = isinstance(value, numbers) and not isinstance(value, bool)
            require(number and limit.holds(value), field, value, f"{kind}{limit}")
    elif origin is Literal:
        require(value in arguments, field, value, ", ".join(map(str, arguments)))
    elif origin is tuple and arguments[-1] is Ellipsis:
        require(isinstance(value, tuple), field, value, "a tuple")
        for item in value:
            _check(arguments[0], item, field)
    elif isclass(hint) and issubclass(hint, Kind):
        require(isinstance(value, hint), field, value, f"a {hint.__name__}")
    elif isclass(hint) and issubclass(hint, Settings):
        # A subclass would be stored as its base, and leave no trace.
        require(type(value) is hint, field, value, f"a {hint.__name__} itself, no subclass of it")


def _whole(value: Any, kind: type[int]) -> int:
    # For Python a truth value is a whole number and 16.5 can be made one; in a file both are mistakes.
    if type(value) is not kind:
        raise ValueError(f"{value!r} is no {kind.__name__}")
    return value


def _stored_kind(value: Kind) -> dict[str, Any]:
    own = {field.name: converter.unstructure(getattr(value, field.name)) for field in fields(value)}
    return {"kind": value.kind(), **own}


def _kind_of(data: Any, base: type[Kind]) -> Kind:
    found = dict(data)
    name = found.pop("kind", None)
    require(name in base.kinds, f"{base.section}.kind", name, ", ".join(base.kinds))
    return converter.structure(found, base.kinds[name])


def _owns_registry(kind: Any) -> bool:
    return isclass(kind) and issubclass(kind, Kind) and "kinds" in vars(kind)


converter = cattrs.Converter(forbid_extra_keys=True)
converter.register_structure_hook(int, _whole)
converter.register_structure_hook_func(_owns_registry, _kind_of)
converter.register_unstructure_hook_func(lambda kind: isclass(kind) and issubclass(kind, Kind), _stored_kind)


def to_json(value: object) -> Any:
    """Settings as JSON-ready data; `from_json` inverts it."""
    return converter.unstructure(value)


def from_json(kind: type[T], data: Any, *, where: str) -> T:
    """Rebuild settings of type `kind`; a missing, unknown or ill-typed field is an `EmgscribeError`."""
    try:
        return converter.structure(data, kind)
    except Exception as error:
        faults = cattrs.transform_error(error, path=kind.__name__, format_exception=_fault)
        raise EmgscribeError("; ".join(faults), where=where, hint="was it written by another version?") from error


def _fault(error: BaseException, kind: type | None) -> str:
    return error.what if isinstance(error, EmgscribeError) else cattrs.v.format_exception(error, kind)


def reads_as(value: object, data: Any) -> bool:
    """Whether stored data are the settings `value`; a setting that they do not name was at its default."""
    try:
        return bool(from_json(type(value), data, where="") == value)
    except EmgscribeError:
        return False
