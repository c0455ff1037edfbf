"""Types of a network's sizes, and the small version of a network that follows from them."""

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Self, get_args, get_origin, get_type_hints

from emgscribe.config import Range, Settings


@dataclass(frozen=True)
class Shrinks:
    """Metadata of a size, after its `Range`: what `small` divides it by."""

    divisor: int


# The features of the front end shrink to a quarter, those of other layers to a half. Frames shrink to a third, since a
# frame of the small budget lasts three times as long. The special values 0 and -1 stay.
Front = Annotated[int, Range(1), Shrinks(4)]
FrontOrNone = Annotated[int, Range(0), Shrinks(4)]
Width = Annotated[int, Range(1), Shrinks(2)]
WidthOrNone = Annotated[int, Range(0), Shrinks(2)]
Kernel = Annotated[int, Range(1), Shrinks(3)]
Frames = Annotated[int, Range(0), Shrinks(3)]
FramesOrAll = Annotated[int, Range(-1), Shrinks(3)]


@dataclass(frozen=True)
class Sized(Settings):
    """Base of a network's settings that have a small version."""

    def small(self) -> Self:
        """The same network, and so its base encoder, at the size of the small budget."""
        hints = get_type_hints(type(self), include_extras=True)
        changes = {part.name: _shrunk(hints[part.name], getattr(self, part.name)) for part in fields(self)}
        return replace(self, **changes)


def _shrunk(hint: Any, value: Any) -> Any:
    if isinstance(value, Sized):
        return value.small()
    if get_origin(hint) is tuple:
        return tuple(_shrunk(get_args(hint)[0], item) for item in value)
    if get_origin(hint) is Annotated and isinstance(hint.__metadata__[-1], Shrinks) and value > 0:
        limits, shrinks = hint.__metadata__
        return max(limits.low, round(value / shrinks.divisor))
    return value
