"""One experiment, from data to its result file."""

import platform
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from emgscribe.config import reads_as, to_json
from emgscribe.data.hdf5 import SAMPLE_RATE
from emgscribe.data.session import Session, open_sessions
from emgscribe.data.splits import Split, split_sessions
from emgscribe.decoding.greedy import GreedyDecoder
from emgscribe.errors import EmgscribeError
from emgscribe.evaluation import Evaluation, evaluate, evaluate_attention
from emgscribe.experiments.named import Experiment
from emgscribe.files import read_json, write_json
from emgscribe.models.ancestry import Ancestry
from emgscribe.models.model import load_ancestry
from emgscribe.training import Trained, current_commit, fit

Parts = dict[str, list[Session]]
_NAMED_VERSIONS = ("emgscribe", "torch", "lightning", "numpy")


def run_name(experiment: Experiment) -> str:
    """`<name>-<seed>`: the name of a run's folder and of its result."""
    return f"{experiment.name}-{experiment.train.seed}"


def result_path(experiment: Experiment, results: Path) -> Path:
    """Where an experiment's result lies in the folder `results`."""
    return results / f"{run_name(experiment)}.json"


def recorded(experiment: Experiment, results: Path, split: Split | None = None) -> dict[str, Any] | None:
    """The result that an experiment has in the folder `results`, None where it has none.

    Raises `EmgscribeError` where a result of this name was made with other settings than the experiment has, or tested
    on other sessions than those of `split`.
    """
    path = result_path(experiment, results)
    if not path.exists():
        return None
    record: dict[str, Any] = read_json(path)
    hint = "move it away to run the experiment again, or name another folder with --results"
    try:
        if not reads_as(experiment, record["experiment"]):
            what = "is of an experiment of this name with other settings"
            raise EmgscribeError(what, where=str(path), hint=hint)
        if split is not None:
            tested = {session["session"] for session in record["test"]["greedy"]["sessions"]}
            if tested != {session.stem for session in split.test}:
                raise EmgscribeError("is of this experiment on other sessions", where=str(path), hint=hint)
    except (KeyError, TypeError) as error:
        raise EmgscribeError("is no result", where=str(path), hint=hint) from error
    return record


def run_experiment(
    experiment: Experiment, data: Path, *, runs: Path, results: Path, console: Console
) -> tuple[Path, Evaluation]:
    """Train, test and write `results/<name>-<seed>.json`; returns the model's folder and the score.

    `data` is a folder of sessions, split by the protocol that the experiment names. What `train_experiment` and
    `recorded` say holds here too. Scores of other decoders stay in a result that comes out as it was.
    """
    commit, split = current_commit(), split_sessions(data, experiment.data)
    earlier = recorded(experiment, results, split)
    trained, parts = train_experiment(experiment, split, runs=runs, console=console)
    scores = {"greedy": evaluate(trained.model, parts["test"], GreedyDecoder())}
    if trained.model.attention is not None:
        length = experiment.windows.length
        scores["attention"] = evaluate_attention(trained.model, parts["test"], length=length)
    record = _record(experiment, split.protocol, parts, trained, scores)
    record["commit"] = ", ".join(dict.fromkeys([*trained.commits, commit]))  # of what trained, and of what tested
    if earlier is not None and earlier["test"]["greedy"] == record["test"]["greedy"]:
        record["test"] = earlier["test"] | record["test"]
    write_json(result_path(experiment, results), record)
    return runs / run_name(experiment) / "best", scores["greedy"]


def train_experiment(experiment: Experiment, split: Split, *, runs: Path, console: Console) -> tuple[Trained, Parts]:
    """Train without scoring what tests; returns the outcome, and the sessions of each part.

    A run that was cut off is resumed from `runs/<name>-<seed>`. Raises `EmgscribeError` where the experiment starts
    from a model that is not in `runs` yet, or that was trained on a session that tests or on a user who is to be
    unseen: before training, not after.
    """
    parts = {name: open_sessions(getattr(split, name)) for name in ("train", "val", "test")}
    parts["train"] = list(_beginning(parts["train"], experiment.data.minutes))
    folder, start = runs / run_name(experiment), _start(experiment, runs)
    ancestry = load_ancestry(start) if start else Ancestry()
    # A protocol that tests no user whom it trains is about people on whom nothing was trained, by an ancestor neither.
    unseen = not {s.user for s in parts["train"]} & {s.user for s in parts["test"]}
    ancestry.after(parts["train"], parts["val"]).refuse(parts["test"], unseen_users=unseen)
    trained = fit(
        experiment,
        train_sessions=parts["train"],
        val_sessions=parts["val"],
        folder=folder,
        start=start,
        console=console,
    )
    return trained, parts


def _beginning(sessions: list[Session], minutes: float) -> Iterator[Session]:
    """The first so many minutes of `sessions`, in their order; 0: all."""
    left = round(minutes * 60 * SAMPLE_RATE) or sum(map(len, sessions))
    for session in sessions:
        if left > 0:
            yield session.first(left)
        left -= len(session)


def _start(experiment: Experiment, runs: Path) -> Path | None:
    """The folder of the model whose weights training begins with, None for random ones."""
    if not experiment.start:
        return None
    folder = runs / run_name(replace(experiment, name=experiment.start)) / "best"
    if not folder.exists():
        raise EmgscribeError(
            f"{experiment.name} starts from {experiment.start}, which has not been trained with this seed",
            where=str(folder),
            hint=f"emgscribe train {experiment.start} first, with the same --runs and --train.seed",
        )
    return folder


def _record(
    experiment: Experiment, protocol: str, parts: Parts, trained: Trained, scores: dict[str, Evaluation]
) -> dict[str, Any]:
    sessions = [session for part in parts.values() for session in part]
    return {
        "experiment": to_json(experiment),
        "seed": experiment.train.seed,
        "data": {
            "kind": "simulated" if any(s.simulated for s in sessions) else "real",
            "hash": data_hash(sessions),
            "protocol": protocol,  # that split them: by date where a published one met simulated sessions
            **{part: [s.name for s in members] for part, members in parts.items()},
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _NAMED_VERSIONS}},
        "device": trained.device,
        "machine": platform.machine(),
        "precision": trained.precision,
        "seconds": round(trained.seconds, 1),
        "curves": trained.curves,
        "test": {decoder: result.to_json() for decoder, result in scores.items()},
    }


def data_hash(sessions: Sequence[Session]) -> str:
    """One hash over what is in the sessions, whatever their order: names, samples, labels and onsets."""
    parts = sorted(f"{session.name} {session.content}" for session in sessions)
    return sha256("\n".join(parts).encode()).hexdigest()[:16]
