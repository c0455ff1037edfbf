import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emgscribe.data.charset import (
    BACKSPACE,
    BLANK,
    ENTER,
    NUM_CLASSES,
    SHIFT,
    SPACE,
    SYMBOLS,
    clean_text,
    key_of_symbol,
    labels_of_text,
    screen_text,
    symbol_of_character,
    symbol_of_key,
    text_of_labels,
)


def test_label_order_is_that_of_the_task() -> None:
    expected = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~⌫⏎ ⇧"
    assert "".join(SYMBOLS) == expected
    assert (BLANK, NUM_CLASSES) == (98, 99)
    assert labels_of_text("aZ09!~⌫⏎ ⇧") == [0, 51, 52, 61, 62, 93, 94, 95, 96, 97]


def test_key_names_are_those_of_pynput() -> None:
    names = {"Key.backspace": BACKSPACE, "Key.enter": ENTER, "Key.space": SPACE, "Key.shift": SHIFT}
    assert {name: symbol_of_key(name) for name in names} == names
    assert [symbol_of_key(key) for key in ("a", "Z", "7", "'", "\\")] == ["a", "Z", "7", "'", "\\"]


def test_keys_outside_the_task_have_no_symbol() -> None:
    for key in ("Key.tab", "Key.ctrl_l", "Key.left", "Key.f1", "ab", "", "\t", "\x00", "⌘", "→"):
        assert symbol_of_key(key) is None, key
    assert [symbol_of_key(key_of_symbol(symbol)) for symbol in SYMBOLS] == list(SYMBOLS)
    assert [symbol for symbol in SYMBOLS if key_of_symbol(symbol).startswith("Key.")] == list("⌫⏎ ⇧")


@given(st.lists(st.integers(0, 97)))
def test_labels_and_text_invert_each_other(labels: list[int]) -> None:
    assert labels_of_text(text_of_labels(labels)) == labels


def test_the_blank_and_foreign_characters_have_no_label() -> None:
    with pytest.raises(IndexError):
        text_of_labels([BLANK])
    with pytest.raises(KeyError):
        labels_of_text("naïve")


@pytest.mark.parametrize(
    ("typed", "symbols"),
    [
        ("’“”—", '\'""-'),
        ("a\nb\rc\b", "a⏎b⏎c⌫"),
        ("naïve Ünï", "naive Uni"),
        ("tab\there", "tabhere"),
        ("½…中", ""),  # each becomes several ASCII characters, which is no keystroke
        ("a↑←→↓⌘⌃⇥⌥⌦⎋±×°´b", "ab"),  # keys and signs, not the ASCII characters that look like them
        ("‘x’ – ９ ß", "'x' - 9 "),
        (string.printable[:95], string.printable[:95]),
    ],
)
def test_unicode_is_mapped_or_dropped(typed: str, symbols: str) -> None:
    assert clean_text(typed) == symbols


@given(st.text())
def test_cleaning_leaves_symbols_only_and_twice_is_once(text: str) -> None:
    cleaned = clean_text(text)
    assert set(cleaned) <= set(SYMBOLS)
    assert clean_text(cleaned) == cleaned
    assert cleaned == "".join(symbol_of_character(character) or "" for character in text)


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        ("⇧Helo⌫lo⏎", "Hello⏎"),
        ("⌫⌫a⌫⌫b", "b"),
        ("a⇧⌫b", "b"),  # a backspace removes no shift
        ("ab⏎⌫c", "abc"),
    ],
)
def test_what_the_screen_shows(keys: str, shown: str) -> None:
    assert screen_text(labels_of_text(keys)) == shown
