"""Text is typed into the operating system as a keyboard would type it."""

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from emgscribe.errors import EmgscribeError
from emgscribe.live.keys import key_typer


@pytest.fixture
def dummy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """pynput without a display: what would be typed."""
    monkeypatch.setenv("PYNPUT_BACKEND_KEYBOARD", "dummy")
    monkeypatch.setenv("PYNPUT_BACKEND_MOUSE", "dummy")
    for name in [name for name in sys.modules if name.startswith("pynput")]:
        monkeypatch.delitem(sys.modules, name)
    return pytest.importorskip("pynput.keyboard", reason="pip install 'emgscribe[keys]'")


def test_keys_are_typed_as_on_a_keyboard(dummy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tapped: list[Any] = []
    monkeypatch.setattr(dummy.Controller, "tap", lambda self, key: tapped.append(key))
    key_typer()("⇧Ab ⌫⏎")
    assert tapped == ["A", "b", " ", dummy.Key.backspace, dummy.Key.enter]


def test_a_missing_display_or_package_gives_one_error(dummy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object) -> None:
        raise RuntimeError("no display\nat all")

    monkeypatch.setattr(dummy.Controller, "__init__", refuse)
    with pytest.raises(EmgscribeError, match=r"keys cannot be typed here \(no display\)"):
        key_typer()
    monkeypatch.setattr("emgscribe.live.keys.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "pynput", None)
    with pytest.raises(EmgscribeError) as error:
        key_typer()
    assert "emgscribe[keys]" in str(error.value.hint)


_WINDOW = """
import json, time
from Xlib import X, display
from emgscribe.live.keys import key_typer

screen = display.Display()
seen = X.KeyPressMask | X.ExposureMask
window = screen.screen().root.create_window(0, 0, 99, 99, 0, X.CopyFromParent, event_mask=seen)
window.map()
while screen.next_event().type != X.Expose:
    pass
window.set_input_focus(X.RevertToParent, X.CurrentTime)
screen.sync()
key_typer()("⇧Ab'?⌫⏎")
begun, keys = time.monotonic(), []
while len(keys) < 8 and time.monotonic() < begun + 20:
    while screen.pending_events():
        event = screen.next_event()
        if event.type == X.KeyPress:
            keys.append((screen.keycode_to_keysym(event.detail, event.state & X.ShiftMask), event.send_event))
    time.sleep(0.01)
print(json.dumps(keys))
"""


@pytest.mark.skipif(shutil.which("Xvfb") is None, reason="apt install xvfb")
def test_a_window_cannot_tell_the_keys_from_a_keyboards() -> None:
    pytest.importorskip("Xlib", reason="pip install 'emgscribe[keys]'")
    reading, writing = os.pipe()
    with subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing)], pass_fds=[writing], stderr=subprocess.DEVNULL
    ) as screen:
        os.close(writing)
        try:
            with open(reading) as numbers:
                environment = {**os.environ, "DISPLAY": f":{numbers.readline().strip()}", "PYNPUT_BACKEND": "xorg"}
            command = [sys.executable, "-c", _WINDOW]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        finally:
            screen.terminate()
    shift, backspace, enter = 0xFFE1, 0xFF08, 0xFF0D
    expected = [shift, ord("A"), ord("b"), ord("'"), shift, ord("?"), backspace, enter]
    assert json.loads(done.stdout) == [[key, 0] for key in expected]  # 0: no program sent it
