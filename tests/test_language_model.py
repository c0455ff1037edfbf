import gzip
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emgscribe.decoding import language_model
from emgscribe.decoding.arpa import SPECIAL, NGrams
from emgscribe.decoding.language_model import (
    END,
    SPACE,
    START,
    UNKNOWN,
    LanguageModel,
    default_language_model,
    discounts,
    train,
    without_prompts,
)
from emgscribe.errors import EmgscribeError

TEXTS = st.text(st.sampled_from("aabc d\n"), max_size=60).filter(lambda text: any(c.isalpha() for c in text))
WORDS = "the then they them there and any ant a an another that this thing think in into it is was with\n" * 3


def entries(ngrams: NGrams) -> dict[tuple[str, ...], tuple[float, float]]:
    """Every n-gram as an ARPA file names it, with its log10 probability and back-off weight."""
    found = {}
    for length, level in enumerate(ngrams.levels, 1):
        for gram, log_prob, backoff in zip(ngrams.spelled(length), level.log_prob, level.backoff, strict=True):
            found[tuple(ngrams.tokens[n] for n in gram)] = float(log_prob), float(backoff)
    return found


def looked_up(found: dict[tuple[str, ...], tuple[float, float]], context: tuple[str, ...], token: str) -> float:
    """The log-probability of a token after a context, by the definition of ARPA files."""
    if (*context, token) in found:
        return found[*context, token][0]
    return found.get(context, (0.0, 0.0))[1] + looked_up(found, context[1:], token)


def same(a: NGrams, b: NGrams) -> bool:
    fields = ("context", "symbol", "log_prob", "backoff")
    levels = zip(a.levels, b.levels, strict=True)
    return a.tokens == b.tokens and all(np.array_equal(getattr(x, f), getattr(y, f)) for x, y in levels for f in fields)


WORD = st.sampled_from(["ab", "Ab", "c", "c3", "the"])


@given(st.lists(WORD, max_size=12), st.lists(st.lists(WORD, min_size=1, max_size=3), max_size=3), st.data())
def test_no_prompt_is_left_in_a_text(words: list[str], prompts: list[list[str]], data: st.DataObject) -> None:
    text = "".join(word + data.draw(st.sampled_from([" ", ", ", "\n", "-"])) for word in words)
    left = without_prompts(text, {" ".join(prompt) + "." for prompt in prompts})
    parts = [re.findall("[a-z0-9]+", part.lower()) for part in left.split("\n")] if prompts else []
    for prompt in (prompt for prompt in prompts if len(prompt) > 1):
        wanted = [word.lower() for word in prompt]
        for part in parts:
            assert all(part[at : at + len(wanted)] != wanted for at in range(len(part)))
    if all(len(prompt) == 1 for prompt in prompts):
        assert left == text


def test_removing_prompts_removes_nothing_else() -> None:
    text = "He said: the cat's hat, and left. The cats had it; the CAT\ns\nhat? scathe cat; she had items"
    left = "He said: \n, and left. The cats had it; \n? scathe cat; she had items"
    assert without_prompts(text, ["The cat's hat.", "cat", "she had it"]) == left
    assert without_prompts(text, []) == text
    assert without_prompts("so it is", ["it is", "it is so"]) == "so \n"  # a longer prompt does not fit in the rest


def test_the_digest_is_of_the_model_not_of_its_file(tmp_path: Path) -> None:
    model = train(WORDS, order=3)
    for name in ("a.arpa", "a.arpa.gz"):
        model.write(str(tmp_path / name))
        assert LanguageModel.read(str(tmp_path / name)).digest == model.digest
    (tmp_path / "minus").write_text(GOOD.replace("\t0\n", "\t-0\n"))
    (tmp_path / "plus").write_text(GOOD)
    minus, plus = (LanguageModel.read(tmp_path / name) for name in ("minus", "plus"))
    first, second = minus.ngrams.levels
    assert not np.signbit(first.backoff[0])
    negative = replace(first, backoff=np.where(first.backoff == 0, np.float32(-0.0), first.backoff))
    assert minus.digest == plus.digest == LanguageModel(replace(minus.ngrams, levels=(negative, second))).digest
    others = [train(WORDS, order=2), train(WORDS + " and", order=3), train(WORDS.replace("w", "v"), order=3)]
    assert len({model.digest, *(other.digest for other in others)}) == 4


def test_probabilities_match_those_computed_by_hand() -> None:
    # Words ab, ab, ac. Bigrams: <s>a 3, ab 2, b</s> 2, ac 1, c</s> 1, so n1..n4 are 2, 2, 1, 0, Y = 2 / (2 + 2 * 2) and
    # the discounts 1 - 2 Y = 1/3, 2 - 3 Y / 2 = 3/2 and 3 - 0 = 3. What stands before a token: a 1 (<s>), b 1 (a),
    # c 1 (a), </s> 2 (b, c), in all 5; none is 3, so the unigrams' discounts are 0.5, 1 and 1.5.
    ngrams = train("ab ab\nac", order=2).ngrams
    found = {gram: 10 ** value[0] for gram, value in entries(ngrams).items()}
    backoff = {gram: 10 ** value[1] for gram, value in entries(ngrams).items()}
    left = (3 * 0.5 + 1) / 5 / 5  # for each of a, b, c, </s> and <unk>
    unigram = {"a": 0.5 / 5 + left, "b": 0.5 / 5 + left, "c": 0.5 / 5 + left, "</s>": 1 / 5 + left, "<unk>": left}
    for token, probability in unigram.items():
        assert found[token,] == pytest.approx(probability, rel=1e-6)
    assert found["<s>",] == 1  # as lmplz writes it
    assert backoff["a",] == pytest.approx((3 / 2 + 1 / 3) / 3, rel=1e-6)
    assert (backoff["</s>",], backoff["<unk>",]) == (1, 1)
    bigrams = {
        ("a", "b"): (2 - 3 / 2) / 3 + backoff["a",] * unigram["b"],
        ("a", "c"): (1 - 1 / 3) / 3 + backoff["a",] * unigram["c"],
        ("<s>", "a"): (3 - 3) / 3 + unigram["a"],
        ("b", "</s>"): (2 - 3 / 2) / 2 + 3 / 4 * unigram["</s>"],
        ("c", "</s>"): (1 - 1 / 3) / 1 + 1 / 3 * unigram["</s>"],
    }
    assert {gram: found[gram] for gram in found if len(gram) == 2} == pytest.approx(bigrams, rel=1e-6)


def test_discounts_match_those_computed_by_hand() -> None:
    # n1..n4 = 4, 2, 2, 1: Y = 4 / 8.
    assert discounts(np.array([1] * 4 + [2] * 2 + [3] * 2 + [4, 9, 0])) == pytest.approx((0.5, 0.5, 2.0))
    assert discounts(np.array([1, 2, 2, 4])) == (0.5, 1.0, 1.5)  # no threes
    assert discounts(np.array([1, 2, 3, 3, 3, 3])) == (0.5, 1.0, 1.5)  # 2 - 3 Y n3 / n2 is negative


@given(TEXTS, st.integers(1, 6), st.booleans(), st.integers(1, 3))
def test_probabilities_sum_to_one_in_every_state(text: str, order: int, across: bool, min_count: int) -> None:
    model = train(text, order=order, across=across, min_count=min_count)
    probabilities = 10.0 ** model.tables.log_prob.astype(np.float64)
    probabilities[:, START] = 0
    assert np.allclose(probabilities.sum(axis=1), 1, atol=2e-6)


@given(TEXTS, st.integers(1, 5), st.booleans(), st.lists(st.integers(0, 6), max_size=12))
def test_the_automaton_agrees_with_the_arpa_file(text: str, order: int, across: bool, typed: list[int]) -> None:
    model = train(text, order=order, across=across, min_count=2)
    table, found = model.tables, entries(model.ngrams)
    state, context = table.start, ("<s>",)
    for number in typed:
        symbol = number % len(table.tokens)
        if symbol == START:
            continue
        token = table.tokens[symbol]
        shown = looked_up(found, context[-(order - 1) :] if order > 1 else (), token)
        assert table.log_prob[state, symbol] == pytest.approx(shown, abs=1e-5)
        state, context = table.following[state, symbol], ("<s>",) if symbol == END else (*context, token)
        if symbol == END:
            assert state == table.start


@settings(max_examples=15)
@given(TEXTS, st.integers(1, 4), st.booleans(), st.sampled_from(["m.arpa", "m.arpa.gz"]))
def test_arpa_round_trip_is_exact(tmp_path: Path, text: str, order: int, across: bool, name: str) -> None:
    model = train(text, order=order, across=across)
    model.write(tmp_path / name)
    again = LanguageModel.read(tmp_path / name)
    assert same(model.ngrams, again.ngrams)
    first = (tmp_path / name).read_bytes()
    again.write(tmp_path / name)
    assert (tmp_path / name).read_bytes() == first
    assert (first[:2] == b"\x1f\x8b") == name.endswith("gz")


GOOD = """\\data\\
ngram 1=4
ngram 2=2

\\1-grams:
-1.5\t<unk>\t0
0\t<s>\t-0.25
-0.5\t</s>\t0
-0.4\ta\t-0.3

\\2-grams:
-0.2\t<s> a
-0.1\ta </s>

\\end\\
"""


TRIGRAM = GOOD.replace("ngram 2=2", "ngram 2=2\nngram 3=1").replace("\\end", "\\3-grams:\n-0.1\t<s> a </s>\n\n\\end")


def test_an_arpa_file_of_another_program_is_read(tmp_path: Path) -> None:
    (tmp_path / "m.arpa").write_text("\n" + GOOD)
    table = LanguageModel.read(tmp_path / "m.arpa").tables
    a = table.tokens.index("a")
    after_a = table.following[table.start, a]
    assert table.log_prob[table.start, a] == np.float32(-0.2)
    assert table.log_prob[table.start, END] == np.float32(-0.25) + np.float32(-0.5)
    assert table.log_prob[after_a, a] == pytest.approx(-0.7)
    assert table.log_prob[after_a, END] == np.float32(-0.1)
    assert table.log_prob[after_a, UNKNOWN] == pytest.approx(-1.8)

    # A special token that a file leaves out is impossible.
    (tmp_path / "m.arpa").write_text(GOOD.replace("ngram 1=4", "ngram 1=3").replace("-1.5\t<unk>\t0\n", ""))
    assert LanguageModel.read(tmp_path / "m.arpa").tables.log_prob[0, UNKNOWN] == -100


@pytest.mark.parametrize(
    ("old", "new", "line", "what"),
    [
        ("\\data\\", "\\dota\\", 1, "expected .data"),
        ("ngram 2=2", "ngram 3=2", 3, "ngram 2="),
        ("ngram 1=4", "ngram 1=x", 2, "ngram 1="),
        ("ngram 1=4", "ngram 1=5", 10, "promises more 1-grams"),
        ("ngram 1=4", "ngram 1=3", 9, "expected \\\\2-grams"),
        ("ngram 2=2", "ngram 2=1", 13, "expected \\\\end"),
        ("\\2-grams:", "\\3-grams:", 11, "expected \\\\2-grams"),
        ("-0.4\ta\t-0.3", "-0.4 a -0.3", 9, "tab-separated"),
        ("-0.4\ta\t-0.3", "minus\ta\t-0.3", 9, "could not convert"),
        ("-0.4\ta\t-0.3", "nan\ta\t-0.3", 9, "not a log-probability"),
        ("-0.4\ta\t-0.3", "0.4\ta\t-0.3", 9, "not a log-probability"),
        ("-0.4\ta\t-0.3", "-inf\ta\t-0.3", 9, "not a log-probability"),
        ("-0.4\ta\t-0.3", f"-{'4' * 10_000}\ta\t-0.3", 9, "not a log-probability"),
        ("-0.4\ta\t-0.3", "-0.4\ta\t1e300", 9, "not a log-probability"),
        ("-0.4\ta\t-0.3", "-0.4\0\ta\t-0.3", 9, "could not convert"),
        ("ngram 1=4", f"ngram 1={'4' * 10_000}", 2, "ngram 1="),
        ("ngram 1=4", "ngram 1=8388600\nngram 2=9", 3, "more than 8,388,608"),
        ("ngram 2=2", "\n".join(f"ngram {n}=1" for n in range(2, 1001)), 22, "more than 20 tokens"),
        ("\\data\\", "\n" * 1000 + "\\data\\", 100, "too early"),
        ("-0.4\ta\t-0.3", "-0.4\ta b\t-0.3", 9, "1 tokens"),
        ("-0.2\t<s> a", "-0.2\t<s> b", 12, "not among the 1-grams"),
        ("-0.2\t<s> a", "-0.2\t<s> a\t-1", 12, "expected a number"),
        ("-0.1\ta </s>", "-0.1\t<s> a", 13, "is a duplicate"),
        ("\\end\\", "", 16, "ends too early"),
        ("\\end\\", "-1\ta a", 15, "expected \\\\end"),
        ("<s> a </s>", "a a </s>", 17, "without its last token"),
    ],
)
def test_malformed_files_are_refused_with_the_line(tmp_path: Path, old: str, new: str, line: int, what: str) -> None:
    good = TRIGRAM if line == 17 else GOOD
    assert good.count(old) == 1
    path = tmp_path / "m.arpa"
    path.write_text(good.replace(old, new))
    with pytest.raises(EmgscribeError, match=what) as caught:
        LanguageModel.read(path)
    assert caught.value.where == f"{path}, line {line}"


WORDY = GOOD.replace("\ta\t", "\thello\t").replace(" a", " hello").replace("a ", "hello ").encode()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "ends too early"),
        (b"\x1f\x8b\x08broken", "damaged"),
        (gzip.compress(GOOD.encode())[:-9], "damaged"),
        (b"\xff\xfe\x00", "expected .data"),
        (None, "no such file"),
        (WORDY, "'hello' is not a single character"),
        (GOOD.replace("\ta", "\t\xe9").replace(" a", " \xe9").replace("a ", "\xe9 ").encode("latin-1"), "damaged"),
        (gzip.compress(GOOD.encode())[:-4] + bytes(4), "damaged"),
        (b"-" * 200_000, "line 0: there is more text, or a longer line"),
        (gzip.compress(GOOD.encode() + b" " * (1 << 26)), "there is more text, or a longer line"),
    ],
)
def test_damaged_and_foreign_files_are_refused(tmp_path: Path, data: bytes | None, what: str) -> None:
    if data is not None:
        (tmp_path / "m.arpa").write_bytes(data)
    with pytest.raises(EmgscribeError, match=what):
        LanguageModel.read(tmp_path / "m.arpa")


def test_a_bomb_is_not_unpacked_and_a_device_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked, read = [], gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda *given: unpacked.append(1) or read(*given))
    bomb = GOOD[: GOOD.index("-1.5")].replace("1=4", "1=8000000")
    with gzip.open(tmp_path / "bomb", "wb", 1) as file:
        file.write(bomb.encode())
        for number in range(2000):
            file.write(f"-1\t{number}".encode() + b" " * 60_000 + b"\n")
    with pytest.raises(EmgscribeError, match="more text"):
        LanguageModel.read(tmp_path / "bomb")
    assert 2 < len(unpacked) * (1 << 16) / (tmp_path / "bomb").stat().st_size < 110
    (tmp_path / "link").symlink_to("/dev/zero")
    with pytest.raises(EmgscribeError, match="is not a file"):
        LanguageModel.read(tmp_path / "link")


def test_ngrams_are_counted_within_words_or_across_them() -> None:
    within = train("Don't—STOP\n¡42!", order=2).ngrams
    assert set(within.tokens) == {*SPECIAL, *"donstp"}
    across = train("Don't  STOP\n\n⇧Né\t42⌫!⏎x\n", order=2, across=True).ngrams
    assert set(across.tokens) == {*SPECIAL, SPACE, *"don'tspe42!x"}
    found = entries(across)
    there = {("t", SPACE), (SPACE, "s"), ("p", "</s>"), ("<s>", "n"), ("2", "!"), ("!", "</s>"), ("<s>", "x")}
    assert there <= set(found)
    assert (SPACE, SPACE) not in found


def test_rare_ngrams_can_be_left_out() -> None:
    full, pruned = train(WORDS, order=5), train(WORDS, order=5, min_count=4)
    sizes = [[len(level) for level in model.ngrams.levels] for model in (full, pruned)]
    assert sizes[0][:2] == sizes[1][:2]
    assert all(few < all_ for few, all_ in zip(sizes[1][2:], sizes[0][2:], strict=True))


def test_settings_that_cannot_be_trained_and_oversized_tables_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, order, min_count in (("", 3, 1), ("42", 3, 1), ("a", 0, 1), ("a", 21, 1), ("a", 10**20, 1), ("a", 2, 0)):
        with pytest.raises(EmgscribeError):
            train(text, order=order, min_count=min_count)
    monkeypatch.setattr(language_model, "MAX_NGRAMS", 100)
    with pytest.raises(EmgscribeError, match="more than 100 n-grams"):
        train(WORDS, order=6)
    monkeypatch.undo()
    monkeypatch.setattr(language_model, "_MAX_BYTES", 1000)
    with pytest.raises(EmgscribeError, match="would take") as caught:
        _ = train(WORDS, order=6).tables
    assert "min_count" in caught.value.hint


def test_the_default_is_built_once_and_leaves_prompts_out(
    isolated_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_model, "_PROMPTS", 40)
    model = default_language_model()
    (path,) = isolated_cache.glob("language-model-*.arpa.gz")
    inode = path.stat().st_ino
    assert same(default_language_model().ngrams, model.ngrams)
    assert path.stat().st_ino == inode
    path.write_bytes(b"damaged")
    assert same(default_language_model().ngrams, model.ngrams)
    writer = language_model.PromptWriter(np.random.default_rng(language_model._SEED))
    prompts = [writer.next_prompt() for _ in range(40)]
    few = default_language_model(exclude=prompts[:39])
    assert same(few.ngrams, train(prompts[39], across=True, min_count=2).ngrams)
    within = default_language_model(exclude=prompts[:39], across=False)
    assert same(within.ngrams, train(prompts[39]).ngrams)


def test_the_cache_keeps_the_default_models_used_last(isolated_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_model, "_PROMPTS", 3)

    def cached() -> list[Path]:
        return sorted(isolated_cache.glob("language-model-*"))

    default_language_model(exclude=["first"])
    (first,) = cached()
    for number in range(6):
        for path in cached():
            os.utime(path, (0, number - 10 * (path == first)))  # the first is the oldest, until it is used again
        default_language_model(exclude=["first"])
        default_language_model(exclude=[f"prompt {number}"])
    assert len(cached()) == 4
    assert first in cached()
    blocked = isolated_cache / "file"
    blocked.write_text("")
    monkeypatch.setenv("EMGSCRIBE_CACHE", str(blocked))
    assert default_language_model().ngrams.order == 6  # the cache cannot be written to
