"""Sessions nobody typed: simulated typists whose forearms a simulated band records, written like real sessions.

The files follow the signal: `text` (prompts) -> `typist` (key presses, on `keyboard`) -> `muscles` (excitation) ->
`motor_units` (spikes) -> `electrodes` (potentials) -> `recording` (what the device reports) -> `sessions` (files).
`people` draws who types and how the bands sit, `config` is what can be set. `report` shows any sessions, simulated
or real, by the `measures` that were also taken of a real recording (`reference`).
"""

from emgscribe.synthetic.config import SimulationConfig
from emgscribe.synthetic.report import make_report
from emgscribe.synthetic.sessions import synthesize_dataset, synthesize_session

__all__ = ["SimulationConfig", "make_report", "synthesize_dataset", "synthesize_session"]
