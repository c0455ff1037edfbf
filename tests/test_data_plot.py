"""The figure of a few seconds: what is drawn where, and which ranges are refused."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from emgscribe.data.charset import labels_of_text
from emgscribe.data.session import Session
from emgscribe.errors import EmgscribeError
from emgscribe.transcription import Transcript

MakeStored = Callable[..., Session]


@pytest.fixture
def session(make_stored: MakeStored) -> Session:
    """Four seconds, a key every half second."""
    labels = labels_of_text("a$⌫⏎ ⇧b")
    return make_stored(8000, [(label, 1000 * (n + 1)) for n, label in enumerate(labels)])


def texts(figure: Figure) -> list[tuple[str, float, float]]:
    return [(text.get_text(), *text.get_position()) for text in figure.axes[0].texts]


def test_the_figure_shows_the_electrodes_and_keys_of_the_range(session: Session) -> None:
    figure = session.plot(1, 3)
    keys, left, right = figure.axes
    assert texts(figure) == [("$", 1.0, 0), ("⌫", 1.5, 0), ("⏎", 2.0, 0), ("␣", 2.5, 0)]  # 3.0 s is outside
    for band, axes in enumerate((left, right)):
        assert len(axes.lines) == 16
        for electrode in (0, 15):
            times, values = axes.lines[electrode].get_data()
            assert (times[0], times[-1], len(times)) == (1.0, 2.9995, 4000)
            assert np.corrcoef(values, session.emg[2000:6000, band, electrode])[0, 1] > 0.99
        assert [line.get_ydata().mean() for line in axes.lines] == sorted(
            (line.get_ydata().mean() for line in axes.lines), reverse=True
        )
    assert right.get_xlim() == (1, 3)
    assert keys.get_title(loc="left") == "session"
    assert replace(session, simulated=True).plot(1, 3).axes[0].get_title(loc="left") == "session (simulated)"
    under_keys = replace(session, simulated=True, real_keys=True)
    assert under_keys.plot(1, 3).axes[0].get_title(loc="left") == "session (simulated EMG, real keys)"


def test_a_transcript_is_a_row_under_the_keys(session: Session) -> None:
    transcript = Transcript(tuple(labels_of_text("a$")), (0.52, 1.04))
    figure = session.plot(0, 1.1, read=transcript)
    assert texts(figure) == [("a", 0.5, 0), ("$", 1.0, 0), ("a", 0.52, -1), ("$", 1.04, -1)]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["typed", "read"]


def test_a_figure_is_displayed_as_png_in_notebooks(make_stored: MakeStored) -> None:
    silent = replace(make_stored(2000), emg=np.zeros((2000, 2, 16), np.float32))
    assert silent.plot(0, 1)._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "place", [(2, 2), (2, 2.0001), (3, 2), (-1, 2), (0, 4.1), (0, float("nan")), (0, float("inf"))]
)
def test_ranges_that_cannot_be_drawn_are_refused(session: Session, place: tuple[float, float]) -> None:
    with pytest.raises(EmgscribeError, match="cannot be plotted") as caught:
        session.plot(*place)
    assert "between 0 and 4.000 s" in caught.value.hint
