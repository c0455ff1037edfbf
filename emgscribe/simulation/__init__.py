"""Sessions nobody typed: simulated typists whose forearms a simulated band records, written like real sessions.

The files follow the signal: `text` (prompts) -> `typist` (key presses, on `keyboard`) -> `muscles` (excitation) ->
`motor_units` (spikes) -> `electrodes` (potentials) -> `recording` (what the band reports) -> `sessions` (files).
`people` draws who types and how the bands sit, `config` is what can be set. `report` shows any sessions, simulated
or real, by the `measures` that were also taken of a real recording (`reference`).

What is unlike real EMG, and so what no conclusion should lean on: the arm is a uniform cylinder without bone, skin or
cross-talk from the rest of the hand's muscles; a burst is a Gaussian and hands never pre-shape for the key after the
next, so coarticulation is only the overlap of bursts; amplitudes have heavier tails and a slight skew, and contrast
differs less between electrodes, than in the recording that `reference` holds; there is no fatigue, and posture changes
between sessions only; people differ by random factors, not by years at the keyboard; sentences have no meaning.
"""

from emgscribe.simulation.config import SimulationConfig
from emgscribe.simulation.report import make_report
from emgscribe.simulation.sessions import synthesize_dataset, synthesize_session

__all__ = ["SimulationConfig", "make_report", "synthesize_dataset", "synthesize_session"]
