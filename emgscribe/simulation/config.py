"""What can be set about a simulation, with the range each value may take."""

from dataclasses import dataclass, field, fields
from typing import Any

from emgscribe.config import require
from emgscribe.simulation.text import prompts_of_text


def _within(default: float, low: float, high: float) -> Any:
    """A field with its allowed range, both ends included."""
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True)
class SimulationConfig:
    """The typist, the forearms and the bands of a simulation; every field has one unit and one meaning.

    `difficulty` is the one dial over all that makes decoding hard: 0 is a clean laboratory, 1 a session like those
    of the data set, 2 a bad day. It multiplies the noise floor, hum, artefacts, re-donning, slip, the variability of
    timing and of muscle activity from press to press, and the chance of a poorly touching electrode. The other fields
    set each of these, or the body under the band, by itself; difficulty multiplies what they say.

    Text and typist: `text` is typed over and over, a line a prompt (none: prompts are made up);
    `keys_per_second` over the whole session with its pauses, shift included; `typo_rate` typos a
    character; `prompt_pause` seconds from ⏎ to the next prompt's first key.
    People: `users_differ` scales how far anatomy, habits and placement stray from the textbook (0: all are one person).
    Forearm: `wrist_radius` and `fat_thickness` in mm, `conduction_velocity` of muscle fibres in m/s, `units_per_muscle`
    motor units simulated in each muscle.
    Band: `pole_distance` of a differential electrode pair along the arm in mm; `redonning` scales what differs between
    two sessions of a user (0: the band was never taken off); `slip` in electrodes over one session.
    Recording, in the band's units, which are near microvolts: `noise` root mean square of one electrode, `hum`
    amplitude at `mains_frequency` Hz, `artefacts_per_minute`, `poor_contact` the share of electrodes that lose contact
    at some time, `band_offset` in s (standard deviation of the time between the clocks of the two bands) and `highpass`
    of the band in Hz.
    """

    keys_per_second: float = _within(4.7, 0.5, 12.0)
    difficulty: float = _within(1.0, 0.0, 4.0)
    typo_rate: float = _within(0.03, 0.0, 0.3)
    prompt_pause: float = _within(1.0, 0.2, 30.0)
    users_differ: float = _within(1.0, 0.0, 2.0)
    wrist_radius: float = _within(28.0, 15.0, 50.0)
    fat_thickness: float = _within(3.5, 0.5, 15.0)
    conduction_velocity: float = _within(4.8, 2.0, 6.0)
    units_per_muscle: int = _within(80, 4, 200)
    pole_distance: float = _within(8.0, 2.0, 40.0)
    redonning: float = _within(1.0, 0.0, 4.0)
    slip: float = _within(0.1, 0.0, 2.0)
    noise: float = _within(3.0, 0.0, 100.0)
    hum: float = _within(1.0, 0.0, 100.0)
    mains_frequency: float = _within(60.0, 40.0, 70.0)
    artefacts_per_minute: float = _within(1.0, 0.0, 60.0)
    poor_contact: float = _within(0.01, 0.0, 1.0)
    band_offset: float = _within(0.02, 0.0, 0.2)
    highpass: float = _within(40.0, 1.0, 200.0)
    text: str = ""

    def __post_init__(self) -> None:
        for setting in fields(self):
            if setting.metadata:
                low, high, value = setting.metadata["low"], setting.metadata["high"], getattr(self, setting.name)
                # The comparison is false for NaN, so NaN is refused too.
                require(low <= value <= high, f"simulation.{setting.name}", value, f"{low:g} to {high:g}")
        if self.text:
            prompts_of_text(self.text)  # says what cannot be typed
