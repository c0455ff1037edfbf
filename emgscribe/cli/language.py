"""Verbs about language models: make one of text, tune a model's beam search with one."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from emgscribe.cli.terminal import known, log, parsed, screen
from emgscribe.errors import EmgscribeError


def lm(arguments: list[str]) -> int:
    """Make a character language model of text (lm train), or tune a model's beam with one (lm tune)."""
    verbs: dict[str, Callable[[list[str]], int]] = {"train": _train, "tune": _tune}
    if not arguments or arguments[0].startswith("-"):
        screen.print("usage: emgscribe lm train FILES --out FILE [OPTIONS]")
        screen.print("       emgscribe lm tune MODEL SESSIONS [OPTIONS]")
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    return verbs[known(arguments[0], verbs, "command of lm")](arguments[1:])


def _train(arguments: list[str]) -> int:
    def train(
        files: Positional[tuple[Path, ...]],
        *,
        out: Path,
        order: int = 6,
        across: bool = False,
        min_count: int = 1,
        exclude: tuple[Path, ...] = (),
    ) -> int:
        """Make a character n-gram of text files and write it as ARPA, gzipped where the name ends in .gz.

        Args:
            files: Text files in UTF-8.
            out: The ARPA file.
            order: Length of the longest n-grams.
            across: Go across words, with the space, digits and punctuation as tokens; else words of a-z.
            min_count: Leave out n-grams of three tokens and more that were seen less often.
            exclude: Session files whose prompts are taken out of the text: those that will be read with the model.
        """
        from emgscribe.data.hdf5 import prompts_of
        from emgscribe.decoding.language_model import train as learn
        from emgscribe.decoding.language_model import without_prompts

        if not files:
            raise EmgscribeError("no text given", hint="name one or more text files")
        text = without_prompts("\n".join(map(_text, files)), prompts_of(exclude))
        model = learn(text, order=order, across=across, min_count=min_count)
        model.write(out)
        sizes = ", ".join(f"{len(level)} {length}-grams" for length, level in enumerate(model.ngrams.levels, 1))
        screen.print(f"{out}: {sizes}", soft_wrap=True)
        return 0

    return parsed(train, arguments, "lm train")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise EmgscribeError("is no text in UTF-8", where=str(path), hint="convert it, or leave it out") from error
    except OSError as error:
        raise EmgscribeError(f"cannot be read ({error.strerror})", where=str(path), hint="check the path") from error


def _tune(arguments: list[str]) -> int:
    def tune(
        model: Positional[Path],
        sessions: Positional[tuple[Path, ...]],
        *,
        lm: Path | None = None,
        exclude: tuple[Path, ...] = (),
        beam: Annotated[int, arg(name="beam-size")] = 50,
    ) -> int:
        """Find the beam's two weights by the CER of sessions that validated the model, and store them in its folder.

        A session that the model was trained on is refused, and so is any that did not validate it, since it may be a
        test. --decoder beam then takes the weights, and the language model that they were found with.

        Args:
            model: A folder that emgscribe train wrote, such as runs/demo-0/best.
            sessions: The session files that validated it.
            lm: An ARPA file; without it the default language model, made without the prompts of these sessions.
            exclude: More session files whose prompts the default language model must not have seen: those that test.
            beam: Hypotheses that are kept after each frame.
        """
        from emgscribe.data.hdf5 import prompts_of
        from emgscribe.data.session import open_sessions
        from emgscribe.decoding.beam import BeamConfig
        from emgscribe.decoding.language_model import LanguageModel, default_language_model
        from emgscribe.decoding.tuning import Trial, tune_model
        from emgscribe.models.model import best_device, load_model

        def told(trial: Trial) -> None:
            log.print(f"weight {trial.lm_weight:g}, bonus {trial.insertion_bonus:g}: CER {trial.counts.cer:.2f} %")

        if not sessions:
            raise EmgscribeError("no session given", hint="name the session files that validated the model")
        config = BeamConfig(beam_size=beam)
        loaded, opened = load_model(model, best_device()), open_sessions(sessions)
        words = LanguageModel.read(lm) if lm else default_language_model(exclude=prompts_of([*sessions, *exclude]))
        log_probs = (loaded.log_probs(session) for session in opened)
        tuning = tune_model(model, loaded.ancestry, opened, log_probs, words, config, progress=told)
        best = tuning.best
        screen.print(
            f"lm_weight {best.lm_weight:g}, insertion_bonus {best.insertion_bonus:g}: CER {best.counts.cer:.2f} %"
            f" on what they were tuned on; stored in {model / 'beam.json'}",
            soft_wrap=True,
        )
        return 0

    return parsed(tune, arguments, "lm tune")
