"""Settings: what their types allow, kinds by name, and the way to JSON and back."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import pytest

from emgscribe.config import Below, Count, Kind, Range, Settings, Whole, from_json, reads_as, register, to_json
from emgscribe.errors import EmgscribeError


@dataclass(frozen=True)
class Shape(Kind):
    section = "shape"
    kinds: ClassVar[dict[str, type["Shape"]]] = {}


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
    plain: int = 1
    limit: Count | None = None
    inner: Shape | None = None
    factor: float = 1.0
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
        *(("count", value, "a whole number, 1 to 1,000,000,000") for value in (0, 1.5, True, "1", math.nan, 10**20)),
        *(("rate", value, "0 or more, below 1") for value in (1, -0.1, math.nan, False)),
        *(("gain", value, "above 0") for value in (0, math.inf)),
        ("mode", "c", "a, b"),
        ("sizes", (1, 9), "a whole number, 1 to 8"),
        ("sizes", [1], "a tuple"),
        ("fast", 1, "true or false"),
        ("label", 1, "a string"),
        *(("plain", value, "a whole number") for value in ("abc", 1.0, True, None)),
        *(("limit", value, "a whole number, 1 to 1,000,000,000") for value in (0, "1")),
        ("inner", Paint(), "a Shape"),
        *(("factor", value, "a number") for value in ("abc", False, None)),
        ("shape", Paint(), "a Shape"),
        ("paint", ThickPaint(), "a Paint itself, not a subclass of it"),
    ],
)
def test_values_that_the_type_of_a_field_does_not_allow_are_refused(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(EmgscribeError) as caught:
        Thing(**{field: value})
    shown = 9 if value == (1, 9) else value
    assert caught.value.what == f"thing.{field} is {shown!r}, allowed: {allowed}"
    assert caught.value.hint == f"choose another value for thing.{field}"


def test_json_round_trip() -> None:
    thing = Thing(rate=0, gain=1e300, mode="b", sizes=(8, 1), fast=True, shape=Square(2.0, Round(3)), paint=Paint(0))
    data = json.loads(json.dumps(to_json(thing)))
    assert data["limit"] is data["inner"] is None
    inner = replace(thing, limit=3, inner=Round(2))
    assert from_json(Thing, json.loads(json.dumps(to_json(inner))), where="x") == inner
    assert data["shape"] == {"kind": "square", "side": 2.0, "inner": {"kind": "round", "radius": 3}}
    assert from_json(Thing, data, where="x") == thing
    assert reads_as(thing, data)
    assert not reads_as(Thing(), data)
    assert reads_as(Thing(mode="b"), {"mode": "b"})  # the rest is at its default


SQUARE = {"kind": "square", "side": 1}


def deep(levels: int) -> Any:
    shape: Any = {"kind": "round"}
    for _ in range(levels):
        shape = SQUARE | {"inner": shape}
    return {"shape": shape}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"count": 0}, "thing.count is 0, allowed: a whole number, 1 to 1,000,000,000"),
        ({"count": 16.5}, "thing.count is 16.5, allowed: a whole number, 1 to 1,000,000,000"),
        ({"rate": 10**400}, f"thing.rate is 1{17 * '0'}...{19 * '0'}, allowed: 0 or more, below 1"),
        ({"gain": "loud"}, "thing.gain is 'loud', allowed: above 0"),
        ({"sizes": [1, None]}, "thing.sizes[1] is None, allowed: a whole number, 1 to 8"),
        ({"sizes": {"1": 2}}, "thing.sizes is {'1': 2}, allowed: a list"),
        ({"mode": ["a"]}, "thing.mode is ['a'], allowed: a, b"),
        ({"fast": None}, "thing.fast is None, allowed: true or false"),
        (
            {"colour": 1},
            "thing has no setting 'colour'; it has count, rate, gain, mode, sizes",
        ),
        ({"inner": {"kind": "oval"}}, "thing.inner.kind is 'oval', allowed: round, square"),
        ({"limit": 0}, "thing.limit is 0, allowed: a whole number"),
        ({"shape": {"kind": "oval"}}, "thing.shape.kind is 'oval', allowed: round, square"),
        ({"shape": {"kind": ["round"]}}, "thing.shape.kind is ['round'], allowed: round, square"),
        ({"shape": [["kind", "round"]]}, "thing.shape is [['kind', 'round']], allowed: an object"),
        (
            {"shape": SQUARE | {"inner": {"kind": "round", "radius": 0}}},
            "thing.shape.inner.radius is 0, allowed: a whole number",
        ),
        (deep(20), f"thing.shape{15 * '.inner'} is nested too deep"),
        *((data, f"thing is {data}, allowed: an object") for data in (3, None, [])),
    ],
)
def test_data_that_are_not_settings_are_refused(data: Any, words: str) -> None:
    with pytest.raises(EmgscribeError) as caught:
        from_json(Thing, data, where="config.json")
    assert caught.value.what.startswith(words)
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
