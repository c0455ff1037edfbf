"""Further decoders' scores for results that are there already, from the models that were kept: nothing is trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from emgscribe.decode import GreedyDecoder
from emgscribe.decoders import DECODERS, Inputs
from emgscribe.errors import EmgscribeError
from emgscribe.evaluate import Result, evaluate
from emgscribe.experiments import Experiment
from emgscribe.files import read_json, write_json
from emgscribe.language_model import LanguageModel, default_language_model
from emgscribe.model import Model, best_device, load_model
from emgscribe.runs import result_path, run_name
from emgscribe.score import count
from emgscribe.session import prompts_of
from emgscribe.splits import split_sessions
from emgscribe.store import StoredSession, open_sessions
from emgscribe.train import current_commit
from emgscribe.tune import load_tuned, tune_model

_SAME = 0.005  # of the characters may be read otherwise on another device: classes that are almost equal


def add_scores(
    experiment: Experiment,
    decoders: list[str],
    data: Path,
    *,
    runs: Path,
    results: Path,
    language_model: Path | None = None,
    console: Console,
) -> dict[str, Result]:
    """Score an experiment's kept model by `decoders` and add what is missing to its result; returns what was added.

    The beam's weights are tuned on the session that validated the model, where they are not yet, with the language
    model of an ARPA file or the default one without the prompts of the sessions that validate and test. Raises
    `EmgscribeError` where the model is gone, is not the one of the result, or `data` has other test sessions, and where
    the result is made anew meanwhile.
    """
    path, folder = result_path(experiment, results), runs / run_name(experiment) / "best"
    record = read_json(path)
    wanted = [decoder for decoder in decoders if decoder not in record["test"]]
    if not wanted:
        return {}
    model = load_model(folder, best_device())
    commit, split = current_commit(), split_sessions(data, experiment.data)
    validated, tested = open_sessions(split.val), open_sessions(split.test)
    _refuse_another(record["test"]["greedy"]["sessions"], model, tested, path)
    if "beam" in wanted:
        exclude = prompts_of([*split.val, *split.test])
        words = LanguageModel.read(language_model) if language_model else default_language_model(exclude=exclude)
        tuned = load_tuned(folder)
        if tuned is None or tuned.language_model != words.digest:
            console.print(f"{run_name(experiment)}: tuning the beam on {', '.join(s.name for s in validated)}")
            tune_model(folder, model, validated, words)
    made = {name: DECODERS[name](Inputs(model, folder, scored=tested)) for name in wanted}
    found = {name: evaluate(model, tested, one.decoder) for name, one in made.items()}
    scores = {name: found[name].to_json() | {"commit": commit, "settings": made[name].settings} for name in wanted}
    return {name: found[name] for name in _add(scores, path, record["test"]["greedy"])}


def _add(scores: dict[str, Any], path: Path, greedy: dict[str, Any]) -> list[str]:
    """Write the scores that a result has not, into the result as it is by now; returns the names of their decoders.

    Scoring took minutes, in which another process may have added to the result, or made it anew with another model.
    """
    record = read_json(path)
    if record["test"]["greedy"] != greedy:
        what = "was made anew while its earlier model was scored, and nothing was added to it"
        raise EmgscribeError(what, where=str(path), mend="give the same command again")
    new = [name for name in scores if name not in record["test"]]
    record["test"] |= {name: scores[name] for name in new}
    write_json(path, record)
    return new


def add_suite_scores(
    suite: Sequence[Experiment],
    decoders: list[str],
    data: Path,
    *,
    runs: Path,
    results: Path,
    language_model: Path | None = None,
    console: Console,
) -> list[str]:
    """`add_scores` for all of a suite's experiments that have a result; returns the names of those that failed.

    One that fails, say for want of its model, does not stop the others; why is printed.
    """
    failed = []
    for experiment in suite:
        name = run_name(experiment)
        if result_path(experiment, results).exists():
            try:
                added = add_scores(
                    experiment,
                    decoders,
                    data,
                    runs=runs,
                    results=results,
                    language_model=language_model,
                    console=console,
                )
            except EmgscribeError as error:
                console.print(f"{name}: not scored: {error}", soft_wrap=True)
                failed.append(name)
                continue
            for decoder, result in added.items():
                console.print(f"{name}: {decoder} CER {result.counts.cer:.2f} %", soft_wrap=True)
    return failed


def _refuse_another(recorded: list[dict[str, Any]], model: Model, tested: list[StoredSession], path: Path) -> None:
    """Refuse a model that does not read what the result says it read: scores would be of two models."""
    result = evaluate(model, tested, GreedyDecoder())
    before = {(session["session"], session["reference"]): session["hypothesis"] for session in recorded}
    now = {(session.session, session.reference): session.hypothesis for session in result.sessions}
    if before.keys() != now.keys():
        mend = "name the --data that the result was made from"
        raise EmgscribeError("was measured on other test sessions than these", where=str(path), mend=mend)
    other = sum(count(before[session], now[session]).edits for session in now)
    if other > _SAME * result.counts.length:
        raise EmgscribeError(
            f"is not of the model in --runs, which reads {other} characters otherwise",
            where=str(path),
            mend="name the --runs that it was made in, or move it away and run the experiment again",
        )
