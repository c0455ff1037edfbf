"""The compiled part of the beam search, all in one file: numba's cache does not notice edits elsewhere.

CTC prefix beam search (Graves 2012, "Sequence transduction with recurrent neural networks", section 2.5; Hannun et al.
2014, "First-pass large vocabulary continuous speech recognition using bi-directional recurrent DNNs", algorithm 1). A
hypothesis is a node of a tree of keystrokes. Beside its parent, a node points to the node of the last character that
is on the screen, and that one to the character before it: whatever depends on the screen is kept there, so that a
backspace is one step back, however many came before it. All log-probabilities are natural and float64.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit

Ints = npt.NDArray[np.int64]
Function = TypeVar("Function", bound=Callable[..., Any])

UNKNOWN, END = 0, 2  # columns of <unk> and </s>
LINKS = ("parent", "child", "sibling", "label", "slot", "screen", "below", "state")
NODE = np.dtype([*((name, np.int32) for name in LINKS), ("bias", np.float64), ("onset", np.int64)], align=True)
"""A keystroke: the first `child` and the next `sibling` (-1: none); its `slot` in the beam (-1: not in it).

`screen` is the node of the last character on the screen. For a node that is a character itself, `below` is the
character before it, `state` the language model's, and `bias` what model and bonus give for the text up to it.
"""
SLOT = np.dtype([("node", np.int64), *((name, np.float64) for name in ("blank", "key", "both", "bias"))], align=True)
"""A hypothesis: log-probability of the paths that end in blank, in its last key, in either; `bias` of its screen."""
CANDIDATE = np.dtype(
    [*((name, np.float64) for name in ("score", "blank", "key")), *((name, np.int64) for name in ("node", "label"))]
)
"""A hypothesis of the next frame: `node` itself where `label` is -1, else its child with that label."""
PLACE = np.dtype([(name, np.int64) for name in ("used", "slots", "waiting", "classes", "frame", "root")])
"""How many nodes, slots, candidates and classes are in use; frames read; the node after all that is settled."""


class Rules(NamedTuple):
    """How a text on the screen is scored, and which labels are special keys.

    `log_prob` and `following` (S, W) are the language model; `column` (V,) is the column of a label. Where it is
    `UNKNOWN` the symbol's log10 is `unknown` in every state, without back-off weights (with them the search drops
    digits and punctuation). `inside` (V,): whether a word (a line, with a model `across` words) is unfinished after a
    label.
    `scale` multiplies the model's log10, `bonus` is added for each character. `silent` is a label that puts nothing on
    the screen, or -1.
    """

    log_prob: npt.NDArray[np.float32]
    following: npt.NDArray[np.int32]
    column: Ints
    inside: npt.NDArray[np.bool_]
    start: int
    unknown: float
    across: bool
    scale: float
    bonus: float
    blank: int
    backspace: int
    silent: int


class Search(NamedTuple):
    """The state of one search: tree, beam, candidates (a heap, worst first), the frame's best classes, the rest."""

    nodes: npt.NDArray[np.void]
    beam: npt.NDArray[np.void]
    heap: npt.NDArray[np.void]
    classes: Ints
    kept: npt.NDArray[np.float64]
    place: npt.NDArray[np.void]


def _compiled(function: Function) -> Function:
    return cast(Function, njit(cache=True, nogil=True)(function))  # typed, where numba's decorator is not


def begin(rules: Rules, beam_size: int, labels_per_frame: int, capacity: int) -> Search:
    """A search that has read nothing, with room for `capacity` nodes."""
    tree, beam, heap = np.zeros(capacity, NODE), np.zeros(beam_size, SLOT), np.zeros(beam_size, CANDIDATE)
    classes = np.zeros(min(labels_per_frame, len(rules.column)), np.int64)
    search = Search(tree, beam, heap, classes, np.zeros(len(rules.column), np.float64), np.zeros(1, PLACE))
    # The first node is not a key but the screen's lower end: below it is the node itself.
    search.nodes[0] = (-1, -1, -1, rules.blank, 0, 0, 0, rules.start, 0.0, -1)
    search.beam[0] = (0, 0.0, -np.inf, 0.0, 0.0)
    search.place[0] = (1, 1, 0, 0, 0, 0)
    return search


@_compiled
def _add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    high, low = max(a, b), min(a, b)
    return high if low == -np.inf else high + np.log1p(np.exp(low - high))


@_compiled
def _choose(search: Search, emissions: npt.NDArray[np.float32]) -> None:
    """The best classes of a frame (V,), best first; on ties, the lower labels. `kept` is -inf for all others."""
    classes, kept, count = search.classes, search.kept, 0
    kept[:] = -np.inf
    for label in range(len(emissions)):
        value = emissions[label]
        full = count == len(classes)
        if value == -np.inf or (full and value <= emissions[classes[count - 1]]):
            continue
        at = count - 1 if full else count
        while at > 0 and emissions[classes[at - 1]] < value:
            classes[at] = classes[at - 1]
            at -= 1
        classes[at] = label
        count += not full
    for at in range(count):
        kept[classes[at]] = emissions[classes[at]]
    search.place[0].classes = count


@_compiled
def _push(search: Search, score: float, masses: tuple[float, float], node: int, label: int) -> None:
    """Put a candidate on the heap; a full heap drops its worst. `masses` are those that end in blank and in a key."""
    heap, at = search.heap, search.place[0].waiting
    full = at == len(heap)
    if score == -np.inf or (full and score <= heap[0].score):
        return
    if not full:
        search.place[0].waiting = at + 1
        while at > 0 and score < heap[(at - 1) // 2].score:
            heap[at] = heap[(at - 1) // 2]
            at = (at - 1) // 2
    else:
        at, worse = 0, 1
        while worse < len(heap):
            if worse + 1 < len(heap) and heap[worse + 1].score < heap[worse].score:
                worse += 1
            if score <= heap[worse].score:
                break
            heap[at] = heap[worse]
            at, worse = worse, 2 * worse + 1
    entry = heap[at]
    entry.score, entry.node, entry.label = score, node, label
    entry.blank, entry.key = masses


@_compiled
def _stay(search: Search, blank: int) -> None:
    """Every hypothesis as it is after one more frame, with the paths that come to it from its parent."""
    nodes, beam, kept = search.nodes, search.beam, search.kept
    search.place[0].waiting = 0
    for at in range(search.place[0].slots):
        slot = beam[at]
        number = slot.node
        node = nodes[number]
        label = node.label
        ending, key, coming = slot.both + kept[blank], slot.key + kept[label], -np.inf
        if number != search.place[0].root and nodes[node.parent].slot >= 0:
            above = nodes[node.parent]
            parent = beam[above.slot]
            coming = kept[label] + (parent.blank if above.label == label else parent.both)
        # A key begins where more comes in than was there before.
        staying = _add(ending, key)
        if coming > staying:
            node.onset = search.place[0].frame
        _push(search, _add(staying, coming) + slot.bias, (ending, _add(key, coming)), number, -1)


@_compiled
def _typed(nodes: npt.NDArray[np.void], rules: Rules, screen: int, label: int) -> tuple[int, float]:
    """The model's state after a character typed after `screen`, and the bias of the text then."""
    last, column = nodes[screen], int(rules.column[label])
    if column == UNKNOWN and not rules.across and rules.inside[last.label]:
        column = END  # an unknown character ends a word in progress
    known = column != UNKNOWN
    step = float(rules.log_prob[last.state, column]) if known else rules.unknown
    state = int(rules.following[last.state, column]) if known or rules.across else rules.start
    return state, float(last.bias + (rules.scale * step + rules.bonus))


@_compiled
def _bias(nodes: npt.NDArray[np.void], rules: Rules, screen: int, label: int) -> float:
    """The bias of the text on the screen after a key."""
    if label == rules.backspace:
        return float(nodes[nodes[screen].below].bias)
    return float(nodes[screen].bias) if label == rules.silent else _typed(nodes, rules, screen, label)[1]


@_compiled
def _find(nodes: npt.NDArray[np.void], parent: int, label: int) -> int:
    """The child of `parent` with that label, or -1."""
    child = int(nodes[parent].child)
    while child >= 0 and nodes[child].label != label:
        child = int(nodes[child].sibling)
    return child


@_compiled
def _extend(search: Search, rules: Rules) -> None:
    """All hypotheses with one more key that can still be among the best, except those in the beam (see `_stay`)."""
    nodes, heap, kept, place = search.nodes, search.heap, search.kept, search.place[0]
    for at in range(place.slots):
        slot = search.beam[at]
        node = nodes[slot.node]
        # No key but backspace, which comes first, can be given more than the bonus, and classes are in order: after one
        # that is too bad, all others are too.
        best = slot.both + slot.bias + max(rules.bonus, 0.0)
        for number in range(-1, place.classes):
            label = search.classes[number] if number >= 0 else rules.backspace
            if number >= 0 and place.waiting == len(heap) and best + kept[label] <= heap[0].score:
                break
            mass = kept[label] + (slot.blank if node.label == label else slot.both)
            if mass == -np.inf or label == rules.blank or (number >= 0 and label == rules.backspace):
                continue
            child = _find(nodes, slot.node, label)
            if child < 0 or nodes[child].slot < 0:
                _push(search, mass + _bias(nodes, rules, node.screen, label), (-np.inf, mass), slot.node, label)


@_compiled
def _settle(search: Search, rules: Rules) -> None:
    """Make the candidates the beam; a new key begins in this frame, at a node of the tree or a new one."""
    nodes, beam, place = search.nodes, search.beam, search.place[0]
    for at in range(place.slots):
        nodes[beam[at].node].slot = -1
    for at in range(place.waiting):
        entry, slot = search.heap[at], beam[at]
        number = entry.node if entry.label < 0 else _find(nodes, entry.node, entry.label)
        if number < 0:
            number, label = place.used, entry.label
            place.used += 1
            node, above = nodes[number], nodes[entry.node]
            node.parent, node.child, node.sibling, node.label = entry.node, -1, above.child, label
            node.below = 0  # `collect` looks at it, whatever the key
            above.child, screen = number, above.screen
            if label == rules.backspace:
                node.screen = nodes[screen].below
            elif label == rules.silent:
                node.screen = screen
            else:
                node.screen, node.below = number, screen
                node.state, node.bias = _typed(nodes, rules, screen, label)
        if entry.label >= 0:
            nodes[number].onset = place.frame
        slot.node, slot.blank, slot.key, slot.both = number, entry.blank, entry.key, _add(entry.blank, entry.key)
        slot.bias = nodes[nodes[number].screen].bias
        nodes[number].slot = at
    place.slots = place.waiting


@_compiled
def advance(search: Search, rules: Rules, emissions: npt.NDArray[np.float32], first: int) -> int:
    """Read emissions (F, V) from frame `first` on; returns F, or the frame for which the tree has no room."""
    for frame in range(first, len(emissions)):
        if search.place[0].used + len(search.beam) > len(search.nodes):
            return frame
        _choose(search, emissions[frame])
        _stay(search, rules.blank)
        _extend(search, rules)
        _settle(search, rules)
        search.place[0].frame += 1
    return len(emissions)


@_compiled
def rank(search: Search, rules: Rules, final: bool) -> npt.NDArray[np.float64]:
    """The score of each hypothesis of the beam; with `final`, a word that is unfinished is ended."""
    nodes, beam = search.nodes, search.beam
    scores = np.empty(search.place[0].slots, np.float64)
    for at in range(len(scores)):
        screen = nodes[nodes[beam[at].node].screen]
        scores[at] = beam[at].both + beam[at].bias
        if final and rules.inside[screen.label]:
            scores[at] += rules.scale * rules.log_prob[screen.state, END]
    return scores


@_compiled
def trace(search: Search, leaf: int) -> tuple[Ints, Ints]:
    """Labels and onset frames from the root (not counted) to a node, each onset before the next one's."""
    nodes, root, length, node = search.nodes, search.place[0].root, 0, leaf
    while node != root:
        node, length = nodes[node].parent, length + 1
    labels, frames = np.empty(length, np.int64), np.empty(length, np.int64)
    node, later = leaf, search.place[0].frame
    for at in range(length - 1, -1, -1):
        later = min(nodes[node].onset, later - 1)
        labels[at], frames[at] = nodes[node].label, later
        node = nodes[node].parent
    return labels, frames


@_compiled
def collect(search: Search, remembered: int) -> tuple[Ints, Ints]:
    """Free the nodes that the beam does not need; returns labels and onset frames that are settled by now.

    What all hypotheses have in common is settled. The last `remembered` characters of its screen stay in the tree, for
    backspaces to come: a backspace beyond them removes nothing.
    """
    nodes, place = search.nodes, search.place[0]
    root, kept = int(place.root), np.zeros(place.used, np.bool_)
    children, only = np.zeros(len(kept), np.int64), np.zeros(len(kept), np.int64)
    kept[root] = True
    for at in range(place.slots):
        old = search.beam[at].node
        while not kept[old]:
            kept[old] = True
            children[nodes[old].parent] += 1
            only[nodes[old].parent] = old
            old = nodes[old].parent
    while nodes[root].slot < 0 and children[root] == 1:
        kept[root] = False
        root = int(only[root])
    settled = trace(search, root)
    last = nodes[root].screen
    for _ in range(remembered):
        kept[last] = True
        if nodes[last].below == last:
            break
        last = nodes[last].below
    kept[last] = True
    nodes[last].below = last
    numbers = np.cumsum(kept) - 1
    for old in np.flatnonzero(kept):  # kept nodes move together, in order; a screen that is forgotten becomes `last`
        nodes[numbers[old]] = nodes[old]
        node = nodes[numbers[old]]
        node.screen = numbers[node.screen if kept[node.screen] else last]
        node.below = numbers[node.below if kept[node.below] else last]
        node.parent = numbers[node.parent] if node.parent >= 0 and kept[node.parent] else -1
        node.child = node.sibling = -1
        if node.parent >= 0:  # parents come before their children
            node.sibling, nodes[node.parent].child = nodes[node.parent].child, numbers[old]
    for at in range(place.slots):
        search.beam[at].node = numbers[search.beam[at].node]
    place.root, place.used = numbers[root], numbers[-1] + 1
    return settled
