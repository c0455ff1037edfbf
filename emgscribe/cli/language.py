"""Verbs about language models: make one from text, tune a model's beam search with one."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

import emgscribe as es
from emgscribe.cli.terminal import Arpa, ModelFolder, log, screen
from emgscribe.data.hdf5 import prompts_of, session_files
from emgscribe.decoding import language_model
from emgscribe.decoding.tuning import Trial, tune_model
from emgscribe.errors import EmgscribeError
from emgscribe.files import failed, open_file
from emgscribe.models.model import best_device


def train(
    files: Positional[Annotated[tuple[Path, ...], arg(metavar="FILES", help="Text files in UTF-8.")]],
    *,
    out: Annotated[Path, arg(help="ARPA file to write; gzipped if its name ends in .gz.")],
    order: Annotated[int, arg(help="Length of the longest n-grams.")] = 6,
    across: Annotated[bool, arg(help="Also model space, digits and punctuation, across words.")] = False,
    min_count: Annotated[int, arg(help="Leave out rarer n-grams of three or more tokens.")] = 1,
    exclude: Annotated[tuple[Path, ...], arg(help="Sessions to be read later; their prompts are taken out.")] = (),
) -> None:
    """The model is for the beam search (--lm), and must not know the prompts of sessions to be read: name these
    sessions (--exclude).

    Examples:
      emgscribe lm train mail.txt notes.txt --out words.arpa.gz
      emgscribe lm train book.txt --out book.arpa --exclude data/*.hdf5
    """
    if not files:
        raise EmgscribeError("no text given", hint="name one or more text files")
    text = language_model.without_prompts("\n".join(map(_text, files)), prompts_of(session_files(exclude)))
    model = language_model.train(text, order=order, across=across, min_count=min_count)
    model.write(out)
    sizes = ", ".join(f"{len(level)} {length}-grams" for length, level in enumerate(model.ngrams.levels, 1))
    screen.print(f"{out}: {sizes}")


def _text(path: Path) -> str:
    with open_file(path) as file:
        try:
            return file.read().decode()
        except UnicodeDecodeError as error:
            raise EmgscribeError("is not text in UTF-8", where=str(path), hint="convert it, or leave it out") from error
        except OSError as error:
            raise failed("read", path, error) from error


def tune(
    model: ModelFolder,
    sessions: Positional[Annotated[tuple[Path, ...], arg(metavar="SESSIONS", help="The model's validation sessions.")]],
    *,
    lm: Arpa = None,
    exclude: Annotated[tuple[Path, ...], arg(help="Sessions whose prompts the language model must not know.")] = (),
    beam_size: Annotated[int, arg(help="Number of hypotheses that are kept after each frame.")] = 50,
) -> None:
    """--decoder beam then uses these weights, and the language model that they were found with.

    A session that the model was trained on is refused, and so is any that did not validate it, since it may be a test
    session.

    Examples:
      emgscribe lm tune runs/demo-0/best data/SESSION.hdf5
      emgscribe lm tune runs/demo-0/best data/SESSION.hdf5 --lm words.arpa
    """
    if not sessions:
        raise EmgscribeError("no session given", hint="name the session files that validated the model")
    sessions = tuple(session_files(sessions))
    loaded, opened = es.load_model(model, best_device()), es.open_sessions(sessions)
    prompts = prompts_of(session_files([*sessions, *exclude]))
    words = es.LanguageModel.read(lm) if lm else language_model.default_language_model(exclude=prompts)
    emissions, config = map(loaded.log_probs, opened), es.BeamConfig(beam_size=beam_size)

    def shown(trial: Trial) -> None:
        log.print(f"weight {trial.lm_weight:g}, bonus {trial.insertion_bonus:g}: CER {trial.counts.cer:.2f} %")

    best = tune_model(model, loaded.ancestry, opened, emissions, words, config, progress=shown).best
    screen.print(
        f"lm_weight {best.lm_weight:g}, insertion_bonus {best.insertion_bonus:g}: CER {best.counts.cer:.2f} % on the"
        f" sessions they were tuned on; stored in {model / 'beam.json'}"
    )
