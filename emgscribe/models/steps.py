"""A network chunk by chunk: steps that keep what later frames need, and together equal one pass over everything.

A step is a function (frames, state) -> (frames, state). The state before the first frames is None. Frames are None
where nothing can be computed yet. What a step returns first belongs to the first frame that it can compute, so a step
that waits for later frames delays what comes after it, and nothing has to be shifted.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

State = Any
Step = Callable[[Tensor, State], tuple[Tensor | None, State]]


def each(function: Callable[[Tensor], Tensor]) -> Step:
    """The step of a function that computes each frame from itself alone."""
    return lambda frames, _: (function(frames), None)


class Chain:
    """Steps one after the other."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps

    def __call__(self, frames: Tensor, state: State) -> tuple[Tensor | None, State]:
        states, found = list(state or (None,) * len(self.steps)), frames
        for place, step in enumerate(self.steps):
            made, states[place] = step(found, states[place])
            if made is None:
                return None, states
            found = made
        return found, states


class Sliding:
    """The step of a function that computes a frame from `span` others (or samples); the next begins `stride` later.

    `axis` is that of time.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], span: int, stride: int = 1, *, axis: int = 1) -> None:
        self.function, self.span, self.stride, self.axis = function, span, stride, axis

    def __call__(self, frames: Tensor, state: State) -> tuple[Tensor | None, State]:
        frames = joined(state, frames, self.axis)
        length = frames.shape[self.axis]
        count = max(0, (length - self.span) // self.stride + 1)
        # A view would keep all of a long chunk, and may be of memory that the caller will overwrite.
        rest = frames.narrow(self.axis, count * self.stride, length - count * self.stride).clone()
        if not count:
            return None, rest
        used = frames.narrow(self.axis, 0, (count - 1) * self.stride + self.span)
        return self.function(used), rest


class Recent:
    """The step of a function that computes each frame from itself and up to `before` frames before it."""

    def __init__(self, function: Callable[[Tensor], Tensor], before: int) -> None:
        self.function, self.before = function, before

    def __call__(self, frames: Tensor, state: State) -> tuple[Tensor, State]:
        seen = joined(state, frames)
        return self.function(seen)[:, -frames.shape[1] :], seen[:, max(0, seen.shape[1] - self.before) :].clone()


class Dropped:
    """The step that drops the first `count` frames: context, in which a recurrence warms up."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, frames: Tensor, state: State) -> tuple[Tensor | None, State]:
        left = self.count if state is None else state
        dropped = min(left, frames.shape[1])
        return frames[:, dropped:] if dropped < frames.shape[1] else None, left - dropped


def residual(*steps: Step) -> Step:
    """The step of frames plus what `steps`, one after the other, make of them; frames wait for what is made later."""
    chain = Chain(steps)

    def add(frames: Tensor, state: State) -> tuple[Tensor | None, State]:
        waiting, inner = state or (None, None)
        waiting = joined(waiting, frames)
        made, inner = chain(frames, inner)
        if made is None:
            return None, (waiting, inner)
        count = made.shape[1]
        return waiting[:, :count] + made, (waiting[:, count:].clone(), inner)

    return add


def parallel(chains: Sequence[Step], combined: Callable[[list[Tensor]], Tensor]) -> Step:
    """The step of what several steps make of the same frames; those that come earlier wait for the others."""

    def run(frames: Tensor, state: State) -> tuple[Tensor | None, State]:
        states = list[State]()
        for chain, (waiting, inner) in zip(chains, state or [(None, None)] * len(chains), strict=True):
            made, inner = chain(frames, inner)
            states.append((waiting if made is None else joined(waiting, made), inner))
        count = min(0 if waiting is None else waiting.shape[1] for waiting, _ in states)
        if not count:
            return None, states
        made = combined([waiting[:, :count] for waiting, _ in states])
        return made, [(waiting[:, count:].clone(), inner) for waiting, inner in states]

    return run


def joined(before: Tensor | None, frames: Tensor, axis: int = 1) -> Tensor:
    """What was kept and what comes, one after the other."""
    return frames if before is None else torch.cat([before, frames], dim=axis)
