"""Text into the operating system, as if it were typed on a keyboard."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from emgscribe.data.charset import BACKSPACE, ENTER, SHIFT
from emgscribe.errors import EmgscribeError, optional


def typing() -> Callable[[str], None]:
    """What types keystrokes into the window that has the focus. Needs pynput (the extra `keys`).

    Capital letters hold shift by themselves, so ⇧ is left out. A system without a keyboard to type on, or that forbids
    it, is an `EmgscribeError`.
    """
    if find_spec("pynput") is None:
        optional("pynput", "keys")
    try:
        keyboard: Any = import_module("pynput.keyboard")
        controller = keyboard.Controller()
    except Exception as error:  # pynput has others for each system
        hint = "allow the terminal to control the keyboard (macOS: Accessibility), or start it in a desktop session"
        raise EmgscribeError(f"keys cannot be typed here ({str(error).splitlines()[0]})", hint=hint) from error
    special = {BACKSPACE: keyboard.Key.backspace, ENTER: keyboard.Key.enter}

    def press(text: str) -> None:
        for symbol in text:
            if symbol != SHIFT:
                controller.tap(special.get(symbol, symbol))

    return press
