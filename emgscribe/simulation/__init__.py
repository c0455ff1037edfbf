"""Simulated sessions: simulated people type, and simulated bands record their forearms.

The modules follow the signal: `text` (prompts) -> `typist` (key presses on `keyboard`) -> `muscles` (excitation) ->
`motor_units` (spikes) -> `electrodes` (potentials) -> `recording` (what the band reports) -> `sessions` (files).
`people` draws the users and how they wear the bands. `report` compares `measures` of sessions, simulated or real, with
`published` ones of recordings. docs/simulate.md lists what is unlike real EMG.
"""
