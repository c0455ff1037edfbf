"""The command line: one function a verb, which parses, calls and prints.

Modules that load torch are imported inside the verbs that need them, so that help and `inspect` come at once.
"""

import difflib
import io
import json as json_format
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional, arg

from emgscribe.errors import EmgscribeError
from emgscribe.inspection import Inspection, inspect_session
from emgscribe.synthetic import SimulationConfig, synthesize_dataset

if TYPE_CHECKING:
    from emgscribe.evaluate import Result
    from emgscribe.experiments import Experiment

_REPORTABLE = 0.2  # minutes
_DEFAULT_SIMULATION = SimulationConfig()
_out = Console(highlight=False, markup=False)
_log = Console(stderr=True, highlight=False, markup=False)


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0 done, 2 a fault of the input, 130 interrupted."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            _print_help()
            return 0 if arguments else 2
        return VERBS[_known(arguments[0], VERBS, "command")](arguments[1:])
    except EmgscribeError as error:
        _log.print(f"error: {error}", soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        _log.print("interrupted; nothing half-written was left, and training goes on where it stopped when asked again")
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _print_help() -> None:
    _out.print("usage: emgscribe COMMAND [OPTIONS]      (emgscribe COMMAND --help says more)\n")
    for verb, run in VERBS.items():
        _out.print(f"  {verb:<11} {(run.__doc__ or '').splitlines()[0]}", soft_wrap=True)


def _known(name: str, names: Mapping[str, object], kind: str) -> str:
    """`name` if it is one of `names`; else an error with the nearest."""
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        mend = f"did you mean {near[0]}?" if near else f"one of: {', '.join(names)}"
        raise EmgscribeError(f"unknown {kind} {name!r}", mend=mend)
    return name


def _parsed(verb: Callable[..., int], arguments: list[str], name: str) -> int:
    return tyro.cli(verb, prog=f"emgscribe {name}", args=arguments, config=(tyro.conf.FlagCreatePairsOff,))


def _synthesize(arguments: list[str]) -> int:
    """Make a folder of simulated sessions in the layout of the emg2qwerty data set."""

    def synthesize(
        *,
        out: Path,
        users: int = 4,
        sessions: int = 6,
        minutes: float = 15.0,
        seed: int = 0,
        report: bool = False,
        simulation: SimulationConfig = _DEFAULT_SIMULATION,
    ) -> int:
        """Make a folder of simulated sessions in the layout of the emg2qwerty data set, with its metadata.csv.

        Nobody typed them: results on them are simulated, and not comparable with results on recordings.

        Args:
            out: The folder to write to.
            users: How many people; each differs in anatomy and habits.
            sessions: How many sessions each of them records, the bands put on anew for each.
            minutes: Length of a session.
            seed: The same seed gives the same bytes.
            report: Also write report.png and report.json: traces, spectra, amplitudes beside those of real EMG.
            simulation: What is simulated.
        """
        if report and minutes < _REPORTABLE:
            raise EmgscribeError(f"--report needs sessions of {_REPORTABLE} minutes or more", mend="raise --minutes")
        paths = _make_sessions(out, users=users, sessions=sessions, minutes=minutes, seed=seed, simulation=simulation)
        if report:
            from emgscribe.synthetic import make_report

            make_report([path for first, path in enumerate(paths) if first % sessions == 0], out / "report.png")
            _out.print(f"report: {out / 'report.png'} (the first session of each user)", soft_wrap=True)
        return 0

    return _parsed(synthesize, arguments, "synthesize")


def _make_sessions(
    out: Path, *, users: int, sessions: int, minutes: float, seed: int, simulation: SimulationConfig
) -> list[Path]:
    with Progress(console=_log) as bar:
        task = bar.add_task("simulating", total=1.0)
        paths = synthesize_dataset(
            out,
            users=users,
            sessions=sessions,
            minutes=minutes,
            seed=seed,
            config=simulation,
            progress=lambda done: bar.update(task, completed=done),
        )
    _out.print(f"{len(paths)} simulated sessions in {out}", soft_wrap=True)
    return paths


def _inspect(arguments: list[str]) -> int:
    """Say what a session file holds and what is wrong with it."""

    def inspect(file: Positional[Path], json: bool = False) -> int:
        """Say what a session file holds and all that is wrong with it. Status 2 where it cannot be used.

        Args:
            file: A session in the emg2qwerty HDF5 layout.
            json: Print JSON instead of a table.
        """
        found = inspect_session(file)
        if json:
            _print_json(found.to_json())
        else:
            _print_inspection(found)
        return 0 if found.usable else 2

    return _parsed(inspect, arguments, "inspect")


def _train(arguments: list[str]) -> int:
    """Train a named experiment on a folder of sessions, and test it."""
    from emgscribe.experiments import EXPERIMENTS, Experiment

    if not arguments or arguments[0].startswith("-"):
        _out.print("usage: emgscribe train EXPERIMENT --data DIR [OPTIONS]   (EXPERIMENT --help lists all settings)\n")
        _out.print("experiments: " + ", ".join(EXPERIMENTS))
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    chosen = EXPERIMENTS[_known(arguments[0], EXPERIMENTS, "experiment")]

    def train(
        data: Path,
        runs: Path = Path("runs"),
        results: Path = Path("results"),
        experiment: Annotated[Experiment, arg(name="")] = chosen,
    ) -> int:
        """Train an experiment, evaluate it on the test sessions and write its result.

        For each user of the folder the latest session tests, the one before validates, all earlier ones train. A run
        that was cut off goes on where it stopped.

        Args:
            data: A folder of session files.
            runs: Where the model, the checkpoint and the curves go.
            results: Where the result file goes.
            experiment: The settings, each of which can be overridden.
        """
        from emgscribe.report import print_result

        result, model = _run(experiment, data, runs, results)
        print_result(result, _out)
        _out.print(f"model: {model}")
        return 0

    return _parsed(train, arguments[1:], f"train {arguments[0]}")


def _run(experiment: "Experiment", data: Path, runs: Path, results: Path) -> tuple["Result", Path]:
    from emgscribe.launch import run_experiment

    model, result = run_experiment(experiment, data, runs=runs, results=results, console=_log)
    return result, model


def _reproduce(arguments: list[str]) -> int:
    """Run every experiment behind a table that has no result yet, and print the table."""
    from emgscribe.experiments import SUITES
    from emgscribe.launch import result_path, run_suite
    from emgscribe.report import print_tables, tables
    from emgscribe.results import read_result

    if not arguments or arguments[0].startswith("-"):
        _out.print("usage: emgscribe reproduce SUITE --data DIR [OPTIONS]\n")
        _out.print("suites: " + ", ".join(f"{name} ({len(suite)} runs)" for name, suite in SUITES.items()))
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    suite = SUITES[_known(arguments[0], SUITES, "suite")]

    def reproduce(data: Path, runs: Path = Path("runs"), results: Path = Path("results"), jobs: int = 1) -> int:
        """Run every experiment of a suite that has no result yet, and print the suite's table.

        Interrupted, it goes on where it stopped when asked again; a run that fails does not stop the others.

        Args:
            data: A folder of session files, or the word simulated: then a typist is simulated first.
            runs: Where models, checkpoints, logs and simulated sessions go.
            results: Where the result files go.
            jobs: How many runs at a time; they share the cores.
        """
        if data == Path("simulated"):
            data = runs / "simulated-sessions"
            if not (data / "metadata.csv").exists():
                _make_sessions(data, users=5, sessions=14, minutes=4.0, seed=0, simulation=_DEFAULT_SIMULATION)
        failed = run_suite(suite, data, runs=runs, results=results, jobs=jobs, console=_log)
        paths = [result_path(experiment, results) for experiment in suite]
        print_tables(tables(run for path in paths if path.exists() for run in read_result(path)), _out)
        return 1 if failed else 0

    return _parsed(reproduce, arguments[1:], f"reproduce {arguments[0]}")


def _report(arguments: list[str]) -> int:
    """Render result files to tables beside published numbers and to figures."""

    def report(
        *, results: Path = Path("results"), out: Path = Path("report"), compare: tuple[str, str] | None = None
    ) -> int:
        """Render result files: report.md, a CSV for each kind of data, figures of losses and of errors.

        Results on simulated sessions have tables of their own, without published numbers.

        Args:
            results: A folder of result files.
            out: Where the report goes.
            compare: Two experiments to compare on the stretches that both were tested on, with an interval.
        """
        from emgscribe.report import make_report

        page, *others = make_report(results, out, compare)
        _out.print(f"report: {page} and {len(others)} files beside it", soft_wrap=True)
        return 0

    return _parsed(report, arguments, "report")


def _evaluate(arguments: list[str]) -> int:
    """Score a model on session files: CER with its interval."""

    def evaluate(model: Positional[Path], sessions: Positional[tuple[Path, ...]], *, windowed: bool = False) -> int:
        """Score a model on whole sessions, each in one piece, as the paper does at test time.

        A session that the model, or one that it was trained from, was trained on is refused.

        Args:
            model: A folder that emgscribe train wrote, such as runs/demo-0/best.
            sessions: Session files.
            windowed: Score windows of 4 s instead, as in validation.
        """
        from emgscribe.decode import GreedyDecoder
        from emgscribe.evaluate import evaluate as score
        from emgscribe.evaluate import evaluate_windows
        from emgscribe.model import best_device, load_model
        from emgscribe.report import print_result
        from emgscribe.store import open_sessions

        if not sessions:
            raise EmgscribeError("no session given", mend="name one or more session files after the model")
        loaded, opened = load_model(model, best_device()), open_sessions(sessions)
        if not loaded.ancestry.complete:
            _log.print(f"{model} does not say all that it was trained on: nobody can tell whether it has seen these")
        if windowed:
            print_result(evaluate_windows(loaded, opened, GreedyDecoder()), _out)
            return 0
        with Progress(console=_log) as bar:
            task = bar.add_task("reading", total=1.0)
            result = score(loaded, opened, GreedyDecoder(), progress=lambda done: bar.update(task, completed=done))
        print_result(result, _out)
        return 0

    return _parsed(evaluate, arguments, "evaluate")


def _transcribe(arguments: list[str]) -> int:
    """Print what was typed in a session, as the model reads it."""

    def transcribe(file: Positional[Path], model: Path) -> int:
        """Print what was typed in a session, as the model reads it: keystrokes, with ⌫ ⏎ and ⇧ as symbols.

        Args:
            file: A session file.
            model: A folder that emgscribe train wrote, such as runs/demo-0/best.
        """
        from emgscribe.decode import GreedyDecoder
        from emgscribe.evaluate import session_emissions
        from emgscribe.model import best_device, load_model
        from emgscribe.store import open_sessions

        decoder = GreedyDecoder()
        loaded, (session,) = load_model(model, best_device()), open_sessions([file])
        for emissions in session_emissions(loaded, session):
            decoder.feed(emissions)
        sys.stdout.write(decoder.flush().text.replace("⏎", "⏎\n") + "\n")
        return 0

    return _parsed(transcribe, arguments, "transcribe")


def _demo(arguments: list[str]) -> int:
    """Simulate a typist, train on most of it and read an unseen session: a few minutes on two cores."""

    def demo(out: Path = Path("demo"), seed: int = 0) -> int:
        """Simulate a typist, train on most sessions and read one that was held back.

        Args:
            out: Where sessions, model and result go.
            seed: Another seed is another typist and another training run.
        """
        from emgscribe.experiments import DEMO
        from emgscribe.report import print_comparison, print_result

        data = out / f"sessions-{seed}"
        if not (data / "metadata.csv").exists():  # written last, so its presence says that the sessions are whole
            _make_sessions(data, users=1, sessions=10, minutes=4.0, seed=seed, simulation=_DEFAULT_SIMULATION)
        experiment = replace(DEMO, train=replace(DEMO.train, seed=seed))
        result, model = _run(experiment, data, out / "runs", out / "results")
        print_comparison(result, _out)
        print_result(result, _out)
        _out.print(f"model: {model}")
        return 0

    return _parsed(demo, arguments, "demo")


def _print_json(data: Any) -> None:
    sys.stdout.write(json_format.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _print_inspection(found: Inspection) -> None:
    _out.print(found.path, soft_wrap=True)
    table = Table(show_header=False)
    for name, value in found.summary.items():
        table.add_row(name, Text(str(value)))
    if found.summary:
        _out.print(table)
    for finding in found.findings:
        _out.print(f"{finding.severity}: {finding.field}: {finding.message}")
    _out.print("usable" if found.usable else "not usable")


VERBS: dict[str, Callable[[list[str]], int]] = {
    "demo": _demo,
    "synthesize": _synthesize,
    "inspect": _inspect,
    "train": _train,
    "reproduce": _reproduce,
    "report": _report,
    "evaluate": _evaluate,
    "transcribe": _transcribe,
}


def run() -> None:
    """Entry point of the installed command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # symbols such as ⌫ must not depend on the terminal's encoding
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    sys.exit(main())


if __name__ == "__main__":
    run()
