"""Character n-grams: train on any text, and flatten to tables that a beam search can step through.

A model is *within words* (the published kind: every run of a-z is a sequence between <s> and </s>) or *across words*
(every line is a sequence, and the space is a token like any other). All its numbers are log10, as in ARPA files.
"""

import hashlib
import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emgscribe.config import require
from emgscribe.data.cache import default_cache
from emgscribe.data.charset import BACKSPACE, ENTER, SHIFT, clean_text
from emgscribe.decoding.arpa import MAX_NGRAMS, MAX_TOKENS, SPECIAL, Level, Logs, NGrams, Rows, read_arpa, write_arpa
from emgscribe.errors import EmgscribeError
from emgscribe.simulation.text import PromptWriter

UNKNOWN, START, END = 0, 1, 2  # numbers of the special tokens
SPACE = "<space>"  # an ARPA file separates tokens with spaces, so the space needs a name
_MAX_BYTES = 1 << 30  # of a model's tables
_KEPT = 4  # default models in the cache, one for each set of excluded prompts
_WORD = re.compile("[A-Za-z0-9]+")
_FALLBACK = (0.5, 1.0, 1.5)
# The default model's text. The seed is its own: no simulation draws its prompts from it.
_PROMPTS, _SEED, _VERSION = 60_000, 20_261_122, 2


@dataclass(frozen=True, repr=False)
class Automaton:
    """A model as tables (S states, a column for each token): each step is one lookup.

    In state s, token w has the log10 probability `log_prob[s, w]` and leads to the state `following[s, w]`; back-off is
    worked into both. A state is a context that some n-gram continues; `start` is the one after <s>, and </s> leads
    there too. `tokens` name the columns. <s> is never predicted: its column holds -100.
    """

    tokens: tuple[str, ...]
    start: int
    log_prob: Logs
    following: npt.NDArray[np.int32]

    @property
    def across(self) -> bool:
        return SPACE in self.tokens


@dataclass(frozen=True, repr=False, eq=False)
class LanguageModel:
    """A character n-gram model."""

    ngrams: NGrams

    def __repr__(self) -> str:
        grams, kind = sum(map(len, self.ngrams.levels)), "across" if self.across else "within"
        return f"<LanguageModel of order {self.ngrams.order}: {grams} n-grams, {kind} words>"

    @property
    def across(self) -> bool:
        return SPACE in self.ngrams.tokens

    @classmethod
    def read(cls, path: Path | str) -> "LanguageModel":
        """Read an ARPA file (plain or gzipped) of single characters; anything else raises `EmgscribeError`."""
        ngrams = read_arpa(Path(path))
        if odd := [token for token in ngrams.tokens if len(token) > 1 and token not in (*SPECIAL, SPACE)]:
            hint = f"train a character model; the space is written {SPACE}"
            raise EmgscribeError(f"{odd[0]!r} is not a single character", where=str(path), hint=hint)
        return cls(ngrams)

    @property
    def digest(self) -> str:
        """A hash of the model, the same for every file that holds it."""
        found = hashlib.sha256(repr(self.ngrams.tokens).encode())
        for level in self.ngrams.levels:
            for array in (level.context, level.symbol, level.log_prob, level.backoff):
                found.update((array + 0).tobytes())  # -0 and 0 are one value
        return found.hexdigest()[:16]

    def write(self, path: Path | str) -> None:
        """Write an ARPA file, gzipped where the name ends in .gz."""
        write_arpa(Path(path), self.ngrams)

    @cached_property
    def tables(self) -> Automaton:
        """The tables for decoding. Raises `EmgscribeError` where they would take more than 1 GB."""
        ngrams, width = self.ngrams, len(self.ngrams.tokens)
        continued = [np.bincount(up.context, minlength=len(level)) > 0 for level, up in pairwise(ngrams.levels)]
        if continued:
            continued[0][START] = True  # the start always has a state
        states = 1 + sum(int(flags.sum()) for flags in continued)
        if states * width * 8 > _MAX_BYTES:
            what = f"the model's tables would take {states * width * 8 / 1e9:.1f} GB, allowed: {_MAX_BYTES / 1e9:.1f}"
            raise EmgscribeError(what, hint="train with a larger min_count or a lower order")
        log_prob, following = np.empty((states, width), np.float32), np.zeros((states, width), np.int32)
        log_prob[0] = ngrams.levels[0].log_prob
        # Level by level: a longer context copies the row of its longest suffix, then writes its own.
        state = fallback = np.zeros(1, dtype=np.int64)  # of each n-gram one shorter: its state, its longest suffix's
        start, used = 1 + int(continued[0][:START].sum()) if continued else 0, 1
        for length, flags in enumerate(continued, 1):
            level, above = ngrams.levels[length - 1], ngrams.levels[length]
            suffix = following[fallback[level.context], level.symbol].astype(np.int64) * (length > 1)
            own = used + np.arange(flags.sum())
            # An n-gram's last token leads from its context's state to its own. This comes first: rows are copied next.
            following[state[level.context[flags]], level.symbol[flags]] = own
            following[own] = following[suffix[flags]]
            log_prob[own] = level.backoff[flags, None] + log_prob[suffix[flags]]
            state, fallback = suffix.copy(), suffix
            state[flags] = own
            log_prob[state[above.context], above.symbol] = above.log_prob
            used += len(own)
        log_prob[:, START], following[:, START], following[:, END] = -100.0, start, start
        return Automaton(ngrams.tokens, start, log_prob, following)


def train(text: str, *, order: int = 6, across: bool = False, min_count: int = 1) -> LanguageModel:
    """A model of the given `order` of a text, within words or across them.

    `min_count` above 1 leaves out rarer n-grams of three tokens and more (as lmplz --prune does), so that a large text
    fits at a high order.
    """
    require(1 <= order <= MAX_TOKENS, "order", order, f"1 to {MAX_TOKENS}")
    require(min_count >= 1, "min_count", min_count, "1 or more")
    normal = normal_text(text, across=across)
    tokens = (*SPECIAL, *(SPACE if symbol == " " else symbol for symbol in sorted(set(normal) - {"\n"})))
    if len(tokens) == len(SPECIAL):
        raise EmgscribeError("the text has nothing to learn from", hint="give a text with letters")
    counted = _count(encoded(normal, tokens), len(tokens), order, min_count)
    if sum(int(level.kept.sum()) for level in counted) > MAX_NGRAMS:
        raise EmgscribeError(f"more than {MAX_NGRAMS:,} n-grams", hint="raise min_count, or lower the order")
    return LanguageModel(NGrams(tokens, tuple(_smooth(counted, len(tokens)))))


def without_prompts(text: str, prompts: Collection[str]) -> str:
    """A text without the prompts of sessions, whatever their case, punctuation and line breaks.

    A prompt of one word stays: any text may have it.
    """
    wanted = {words for prompt in prompts if len(words := tuple(_WORD.findall(prompt.lower()))) > 1}
    lengths = sorted(set(map(len, wanted)), reverse=True)
    places, kept, done, at = list(_WORD.finditer(text)), list[str](), 0, 0
    plain = [place.group().lower() for place in places]
    while at < len(places):
        found = next((len(words) for length in lengths if (words := tuple(plain[at : at + length])) in wanted), 0)
        if found:
            kept.append(text[done : places[at].start()])
            done = places[at + found - 1].end()
        at += found or 1
    return "\n".join([*kept, text[done:]])


def normal_text(text: str, *, across: bool) -> str:
    """Words of a-z, or whole lines in the charset's symbols, one per line; all in lower case."""
    if not across:
        return re.sub("[^a-z]+", "\n", text.lower()).strip("\n")
    plain: dict[str, str | int | None] = {symbol: clean_text(symbol).lower() for symbol in set(text)}
    plain |= dict.fromkeys("\t\v\f", " ") | dict.fromkeys(("\n", "\r", ENTER), "\n") | {BACKSPACE: "", SHIFT: ""}
    lines = text.translate(str.maketrans(plain)).split("\n")
    return "\n".join(filter(None, (re.sub(" +", " ", line).strip() for line in lines)))


def encoded(normal: str, tokens: Sequence[str]) -> Rows:
    """Token numbers of all sequences, one for each line that has symbols, from <s> to </s>, one after the other."""
    numbers = {" " if token == SPACE else token: number for number, token in enumerate(tokens)}
    lines = filter(None, normal.split("\n"))
    coded = (number for line in lines for number in (START, *(numbers.get(c, UNKNOWN) for c in line), END))
    return np.fromiter(coded, dtype=np.int64)


@dataclass(frozen=True)
class _Counted:
    """The n-grams of one length in a text, sorted as in `Level`.

    `suffix` is the row, one level below, of all but the first token; `kept` are those that the model will hold.
    `adjusted` is what Kneser-Ney counts: how often each occurs, but below the highest order the number of different
    tokens before the n-gram, unless it begins with <s>.
    """

    context: Rows
    symbol: Rows
    suffix: Rows
    adjusted: Rows
    kept: npt.NDArray[np.bool_]


def _count(sequences: Rows, width: int, order: int, min_count: int) -> list[_Counted]:
    """The n-grams of each length up to `order` in sequences over `width` tokens."""
    begins = np.flatnonzero(sequences == START)
    since = np.arange(len(sequences)) - np.repeat(begins, np.diff(np.append(begins, len(sequences))))
    rows, every = sequences, np.arange(width)  # rows: of the n-gram that ends at each place
    seen = np.bincount(sequences, minlength=width)
    levels = [_Counted(np.zeros_like(every), every, every, seen, np.ones(width, dtype=bool))]
    begins_with_start = every == START
    for length in range(2, order + 1):
        ends = np.flatnonzero(since >= length - 1)
        keys, first, inverse, seen = np.unique(
            rows[ends - 1] * width + sequences[ends], return_index=True, return_inverse=True, return_counts=True
        )
        context, suffix, below = keys // width, rows[ends[first]], levels[-1].adjusted
        # What precedes the n-grams one token shorter is known now. Nothing precedes <s>: it keeps its count.
        below[:] = np.where(begins_with_start, below, np.bincount(suffix, minlength=len(below)))
        levels.append(_Counted(context, keys % width, suffix, seen, (seen >= min_count) | (length == 2)))
        begins_with_start = begins_with_start[context]
        rows = np.full(len(sequences), -1)
        rows[ends] = inverse
    levels[0].adjusted[START] = 0
    return levels


def discounts(adjusted: Rows) -> tuple[float, float, float]:
    """The discounts of n-grams counted once, twice, and more often (Chen and Goodman 1999, equation 26).

    They are 0.5, 1 and 1.5 where the counts of counts do not determine them (lmplz --discount_fallback), or would leave
    nothing for shorter contexts.
    """
    ones, twos, threes, fours = (int((adjusted == times).sum()) for times in (1, 2, 3, 4))
    if not (ones and twos and threes):
        return _FALLBACK
    share = ones / (ones + 2 * twos)
    found = (1 - 2 * share * twos / ones, 2 - 3 * share * threes / twos, 3 - 4 * share * fours / threes)
    return found if all(0 < value <= limit for limit, value in enumerate(found, 1)) else _FALLBACK


def _smooth(counted: list[_Counted], width: int) -> list[Level]:
    """Interpolated modified Kneser-Ney: probabilities and back-off weights of the n-grams that are kept.

    Chen and Goodman 1999, "An empirical study of smoothing techniques for language modeling", section 3, with the
    choices of KenLM's lmplz (Heafield et al. 2013): three discounts per order, adjusted counts below the highest order,
    unigrams interpolated with the uniform distribution over all tokens, <unk> included and <s> not.
    """
    lower = np.full(width, 1 / (width - 1))  # over all tokens but <s>
    levels: list[Level] = []
    kept, place = np.ones(1, dtype=bool), np.zeros(1, dtype=np.int64)  # the new row of each row of the level below
    for number, level in enumerate(counted):
        contexts = len(kept)
        taken = np.array([0.0, *discounts(level.adjusted)])[np.minimum(level.adjusted, 3)]
        # A context passes on to shorter ones its discounts, and all counts of n-grams that are left out (as in lmplz).
        spared = np.bincount(level.context, np.where(level.kept, taken, level.adjusted), contexts)
        total = np.maximum(np.bincount(level.context, level.adjusted, contexts), 1e-300)
        lower = (level.adjusted - taken) / total[level.context] + (spared / total)[level.context] * lower[level.suffix]
        if number:
            continued = np.bincount(level.context, minlength=contexts) > 0
            levels[-1].backoff[:] = np.log10(np.where(continued, spared / total, 1.0))[kept]
        else:
            lower[START] = 1.0  # as lmplz writes it; never predicted
        kept = level.kept
        values = np.log10(lower[kept]).astype(np.float32)
        levels.append(Level(place[level.context[kept]], level.symbol[kept], values, np.zeros_like(values)))
        place = np.cumsum(kept) - 1
    return levels


def made_up_text(exclude: Collection[str]) -> str:
    """What the default model is trained on: made-up prompts, one per line, without those in `exclude`."""
    writer, left_out = PromptWriter(np.random.default_rng(_SEED)), set(exclude)
    drawn = (writer.next_prompt().removesuffix(ENTER) for _ in range(_PROMPTS))
    return "\n".join(prompt for prompt in drawn if prompt not in left_out)


def default_language_model(*, exclude: Collection[str] = (), across: bool = True) -> LanguageModel:
    """A 6-gram model of the text that simulated typists are given. It takes a while to build, so the cache keeps a few.

    Across words it knows digits and punctuation too, which a model within words takes to be impossible, and n-grams
    that occur once are left out. The text is drawn with a seed of its own, without the prompts in `exclude` (their
    texts, as a session holds them). Word frequencies are wordfreq's (CC BY-SA 4.0), so the model has that licence too.
    """
    prompts = sorted({clean_text(prompt).removesuffix(ENTER) for prompt in exclude})
    recipe = repr((_VERSION, _PROMPTS, _SEED, across, prompts))
    path = default_cache() / f"language-model-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.arpa.gz"
    with suppress(EmgscribeError):  # missing, or damaged by something else: it is built again
        model = LanguageModel.read(path)
        with suppress(OSError):
            path.touch()  # the models used longest ago are removed first
        return model
    # Across words 4 in 10 n-grams occur once: with them the tables would take 38 MB in place of 23.
    model = train(made_up_text(prompts), across=across, min_count=2 if across else 1)
    with suppress(EmgscribeError, OSError):  # an unwritable cache is no obstacle
        model.write(path)
        for old in sorted(path.parent.glob("language-model-*.arpa.gz"), key=lambda file: -file.stat().st_mtime)[_KEPT:]:
            old.unlink()
    return model
