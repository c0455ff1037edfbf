"""The card beside a finished run's model: what it is, what it was made of, how well it reads, what it is not for."""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from emgscribe.data.session import Session
from emgscribe.experiments.results import REAL, REAL_KEYS, SIMULATED, RunResult, extent
from emgscribe.models.model import Model
from emgscribe.scoring import interval_text

_TIMED = 20.0  # s of signal
_UNKNOWN = "How well it reads recordings is not known."
_ABOUT = {
    SIMULATED: f"**All of its training, and every number here, is of simulated people.** {_UNKNOWN}",
    REAL_KEYS: f"**Its EMG, in training and test, is simulated, for real keystrokes.** {_UNKNOWN}",
    REAL: "Trained and tested on recordings of people.",
}


def card(result: RunResult, model: Model, parts: Sequence[Sequence[Session]]) -> str:
    """The card as Markdown; `parts` are the sessions that trained, validated and tested."""
    train, val, test = map(_sessions, parts)
    seen = [session for part in parts[:2] for session in part]
    earlier = sum(not any(map(one.matches, seen)) for one in model.ancestry.trained_on)
    rows = {
        "reads": f"{model.shape}, in µV",
        "network": str(model).removeprefix("<Model ").removesuffix(">"),
        "made by": f"the experiment `{result.name}`, seed {result.seed}, commit {_short(result.commit)},"
        f" {result.seconds / 60:.0f} minutes on {result.device}, {result.precision}",
        "changed": ", ".join(f"`{change}`" for change in result.noted),
        "made from": _origin(result.experiment, result.seed),
        "previously trained on": f"{earlier} other sessions" if earlier else "",
        "trained on": train,
        "best weights chosen on": val,
        "tested on": f"{test}; protocol {result.data.protocol or 'latest'}",
    }
    for decoder, scores in result.test.items():
        interval = interval_text(scores.interval, "{:.1f} to {:.1f}")
        rows[f"CER, {decoder}"] = (
            f"{scores.cer:.1f} % ({interval}, bootstrap over {scores.unit}) of {scores.counts.length} keys"
        )
    rows["cost"] = _cost(model, parts[-1][0], result.machine)
    table = "\n".join(f"| {what} | {value} |" for what, value in rows.items() if value)
    return f"""# {result.name}

{_ABOUT[result.data.kind]}

| | |
|---|---|
{table}

The intervals are over the text of these sessions: they say nothing about other people, or another training run. Do not
use the model on anyone who has not consented, or where a wrong key does harm.
"""


def _origin(experiment: Mapping[str, Any], seed: int) -> str:
    """The experiments whose models this one was made from."""
    start, teacher, seeds = (experiment.get(name) for name in ("start", "teacher", "ensemble"))
    parts = [f"`{start}`"] * bool(start) + [f"`{teacher}` as teacher"] * bool(teacher)
    return ", ".join(parts + [f"{seeds} seeds from {seed} on"] * bool(seeds))


def _sessions(sessions: Sequence[Session]) -> str:
    people, minutes = len({one.user for one in sessions}), sum(one.minutes for one in sessions)
    return f"{extent(len(sessions), people)}, {minutes:.1f} minutes"


def _short(commits: str) -> str:
    """Each commit, shortened, with its suffix."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28}\b", r"\1", commits) or "unknown"


def _cost(model: Model, session: Session, machine: str) -> str:
    """How long the network takes to read the beginning of a session, all at once."""
    part = session.first(session.shape.samples(_TIMED))
    model.log_probs(part)  # the first time costs more
    begun = time.perf_counter()
    model.log_probs(part)
    seconds, threads = time.perf_counter() - begun, torch.get_num_threads()
    where = f"{machine}, {threads} thread{'s' * (threads != 1)}" if model.device.type == "cpu" else model.device.type
    return f"{1000 * seconds / (60 * part.minutes):.1f} ms for a second of EMG, when this was written ({where})"
