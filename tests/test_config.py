"""Settings: what their types allow, kinds by name, and the way to JSON and back."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import pytest

from emgscribe.config import Below, Count, Kind, Range, Settings, Whole, from_json, reads_as, register, to_json
from emgscribe.errors import EmgscribeError


@dataclass(frozen=True)
class Shape(Kind):
    section = "shape"
    kinds: ClassVar[dict[str, type["Shape"]]] = {}  # type: ignore[misc]


@register("round")
@dataclass(frozen=True)
class Round(Shape):
    radius: Count = 1


@register("square")
@dataclass(frozen=True)
class Square(Shape):
    side: Annotated[float, Range(0, 10, "()")] = 1.0
    inner: Shape = Round()


@dataclass(frozen=True)
class Paint(Settings):
    coats: Whole = 1


@dataclass(frozen=True)
class Thing(Settings):
    section = "thing"
    count: Count = 1
    rate: Annotated[float, Below(0, 1)] = 0.5
    gain: Annotated[float, Range(0, ends="()")] = 1.0
    mode: Literal["a", "b"] = "a"
    sizes: tuple[Annotated[int, Range(1, 8)], ...] = (1, 2)
    fast: bool = False
    label: str = ""
    shape: Shape = Round()
    paint: Paint = Paint()


@pytest.fixture(autouse=True)
def kinds() -> Iterator[None]:
    """What a test registers is gone after it."""
    before = dict(Shape.kinds)
    yield
    Shape.kinds.clear()
    Shape.kinds.update(before)


class ThickPaint(Paint): ...


class Nameless(Shape): ...


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        *(("count", value, "a whole number, 1 or more") for value in (0, -1, 1.5, True, "1", math.nan)),
        *(("rate", value, "0 or more, below 1") for value in (1, -0.1, math.nan, False)),
        *(("gain", value, "above 0") for value in (0, math.inf)),
        ("mode", "c", "a, b"),
        ("sizes", (1, 9), "a whole number, 1 to 8"),
        ("sizes", [1], "a tuple"),
        ("fast", 1, "true or false"),
        ("label", 1, "a text"),
        ("shape", Paint(), "a Shape"),
        ("paint", ThickPaint(), "a Paint itself, no subclass of it"),
    ],
)
def test_values_that_the_type_of_a_field_does_not_allow(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(EmgscribeError) as caught:
        Thing(**{field: value})
    shown = 9 if value == (1, 9) else value
    assert caught.value.what == f"thing.{field} is {shown!r}, allowed: {allowed}"
    assert caught.value.hint == f"choose another value for thing.{field}"


def test_json_round_trip() -> None:
    thing = Thing(rate=0, gain=1e300, mode="b", sizes=(8, 1), fast=True, shape=Square(2.0, Round(3)), paint=Paint(0))
    data = json.loads(json.dumps(to_json(thing)))
    assert data["shape"] == {"kind": "square", "side": 2.0, "inner": {"kind": "round", "radius": 3}}
    assert from_json(Thing, data, where="x") == thing
    assert reads_as(thing, data)
    assert not reads_as(Thing(), data)
    assert reads_as(Thing(mode="b"), {"mode": "b"})  # the rest is at its default


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"count": 0}, "thing.count is 0, allowed: a whole number, 1 or more"),
        ({"count": 16.5}, "Thing.count"),
        ({"colour": 1}, "colour"),
        ({"shape": {"kind": "oval"}}, "shape.kind is 'oval', allowed: round, square"),
        ({"shape": {"kind": "round", "side": 1}}, "side"),
        (3, ""),
    ],
)
def test_data_that_are_no_settings(data: Any, words: str) -> None:
    with pytest.raises(EmgscribeError) as caught:
        from_json(Thing, data, where="config.json")
    assert words in caught.value.what
    assert caught.value.where == "config.json"


def test_kinds_are_registered_once_each_by_a_plain_name() -> None:
    with pytest.raises(EmgscribeError, match="Nameless is not registered"):
        Thing(shape=Nameless())
    register("nameless")(Nameless)
    assert Thing(shape=Nameless()).shape.kind() == "nameless"
    again = type("Nameless", (Shape,), {"__module__": __name__, "__qualname__": "Nameless"})
    register("nameless")(again)  # as when a notebook cell runs again
    assert Shape.kinds["nameless"] is again
    with pytest.raises(EmgscribeError, match="'round' is already the name of Round"):
        register("round")(Nameless)
    with pytest.raises(EmgscribeError, match="name is 'Not plain'"):
        register("Not plain")
