"""Types text into the operating system, as a keyboard would."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from emgscribe.data.charset import BACKSPACE, ENTER, SHIFT
from emgscribe.errors import EmgscribeError, optional


def key_typer() -> Callable[[str], None]:
    """Returns a function that types keystrokes into the focused window. Needs pynput (the extra `keys`).

    Capital letters hold shift by themselves, so ⇧ is left out. Raises `EmgscribeError` where the system has no keyboard
    to type on, or forbids it.
    """
    if find_spec("pynput") is None:
        optional("pynput", "keys")
    try:
        keyboard: Any = import_module("pynput.keyboard")
        controller = keyboard.Controller()
    except Exception as error:  # pynput raises different ones on each system
        hint = "allow the terminal to control the keyboard (macOS: Accessibility), or start it in a desktop session"
        raise EmgscribeError(f"keys cannot be typed here ({str(error).splitlines()[0]})", hint=hint) from error
    special = {BACKSPACE: keyboard.Key.backspace, ENTER: keyboard.Key.enter}
    layout = getattr(controller, "keyboard_mapping", {})  # of X11: keysym -> code and modifiers

    def press(text: str) -> None:
        for symbol in text.replace(SHIFT, ""):
            code = ord(symbol)
            _, modifiers = layout.get(code, (0, None)) if code < 256 else (0, None)  # keysyms of other symbols differ
            if symbol in special or modifiers not in (0, 1):
                controller.tap(special.get(symbol, symbol))
            else:  # a key of the layout, without or with shift: many windows refuse what pynput sends for a symbol
                with controller.pressed(*[keyboard.Key.shift] * modifiers):
                    controller.tap(keyboard.KeyCode.from_vk(code))

    return press
