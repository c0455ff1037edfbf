import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emgscribe.data import charset
from emgscribe.data.charset import SYMBOLS, clean_text, labels_of_text, symbol_of_key, text_of_labels


def test_label_order_is_that_of_the_task() -> None:
    expected = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~⌫⏎ ⇧"
    assert "".join(SYMBOLS) == expected == text_of_labels(range(98))
    assert labels_of_text(expected) == list(range(98))
    assert (charset.BLANK, charset.NUM_CLASSES) == (98, 99)
    with pytest.raises(IndexError):
        text_of_labels([charset.BLANK])
    with pytest.raises(KeyError):
        labels_of_text("naïve")


def test_keys_are_named_as_pynput_names_them() -> None:
    names = {"Key.backspace": "⌫", "Key.enter": "⏎", "Key.space": " ", "Key.shift": "⇧", "a": "a", "Z": "Z", "\\": "\\"}
    assert {name: symbol_of_key(name) for name in names} == names
    for key in ("Key.tab", "Key.ctrl_l", "Key.left", "Key.f1", "ab", "", "\t", "\x00", "⌘", "→"):
        assert symbol_of_key(key) is None, key
    assert [symbol_of_key(charset.key_of_symbol(symbol)) for symbol in SYMBOLS] == list(SYMBOLS)
    assert [symbol for symbol in SYMBOLS if charset.key_of_symbol(symbol).startswith("Key.")] == list("⌫⏎ ⇧")


@pytest.mark.parametrize(
    ("typed", "symbols"),
    [
        ("’“”—", '\'""-'),
        ("a\nb\rc\b", "a⏎b⏎c⌫"),
        ("naïve Ünï", "naive Uni"),
        ("tab\there", "tabhere"),
        ("½…中", ""),  # each becomes several ASCII characters, which is no keystroke
        ("a↑←→↓⌘⌃⇥⌥⌦⎋±×°´b", "ab"),  # keys and signs, not the ASCII characters that look like them
        ("‘x’ – ９ ß", "'x' - 9 "),
        (string.printable[:95], string.printable[:95]),
    ],
)
def test_unicode_is_mapped_or_dropped(typed: str, symbols: str) -> None:
    assert clean_text(typed) == symbols


@given(st.text())
def test_cleaning_leaves_only_symbols_and_is_idempotent(text: str) -> None:
    cleaned = clean_text(text)
    assert set(cleaned) <= set(SYMBOLS)
    assert clean_text(cleaned) == cleaned
    assert cleaned == "".join(charset.symbol_of_character(character) or "" for character in text)


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        ("⇧Helo⌫lo⏎", "Hello⏎"),
        ("⌫⌫a⌫⌫b", "b"),
        ("a⇧⌫b", "b"),  # a backspace removes no shift
        ("ab⏎⌫c", "abc"),
    ],
)
def test_the_screen_shows_the_text_after_backspaces_and_without_shifts(keys: str, shown: str) -> None:
    assert charset.screen_text(labels_of_text(keys)) == shown
