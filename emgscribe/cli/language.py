"""Verbs about language models: make one from text, mix several, tune a model's beam search with one."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

import emgscribe as es
from emgscribe.cli.terminal import Arpa, ModelFolder, log, screen
from emgscribe.data.charset import screen_text
from emgscribe.data.hdf5 import is_session_name, prompts_of, session_files
from emgscribe.decoding import language_model, mixing
from emgscribe.decoding.tuning import Trial, tune_model
from emgscribe.errors import EmgscribeError
from emgscribe.files import failed, open_file
from emgscribe.models.model import best_device

_DEFAULT = Path("default")


def train(
    files: Positional[
        Annotated[tuple[Path, ...], arg(metavar="FILES", help="Text files in UTF-8; sessions, for what was typed.")]
    ],
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
      emgscribe lm train notes.txt own/*.hdf5 --out own.arpa --across --exclude TEST.hdf5
    """
    if not files:
        raise EmgscribeError("no text given", hint="name one or more text files")
    text = language_model.without_prompts(_text(files), prompts_of(session_files(exclude)))
    model = language_model.train(text, order=order, across=across, min_count=min_count)
    model.write(out)
    screen.print(f"{out}: {_sizes(model)}")


def mix(
    models: Positional[
        Annotated[tuple[Path, ...], arg(metavar="MODELS", help="ARPA files; the word default is the built-in model.")]
    ],
    *,
    fit: Annotated[tuple[Path, ...], arg(help="Text, or validation sessions, to which the shares are fitted.")],
    out: Annotated[Path, arg(help="ARPA file to write; gzipped if its name ends in .gz.")],
    exclude: Annotated[tuple[Path, ...], arg(help="Sessions whose prompts the built-in model must not know.")] = (),
) -> None:
    """Probabilities are weighted means. The shares give the text of --fit the highest probability; no model may have
    been made from that text.

    Examples:
      emgscribe lm mix default own.arpa --fit VALIDATION.hdf5 --exclude TEST.hdf5 --out mixed.arpa
    """
    if len(models) < 2:
        raise EmgscribeError("there is nothing to mix", hint="name two or more language models")
    text, sessions = _text(fit), [path for path in session_files([*fit, *exclude]) if is_session_name(path)]
    known = {path: es.LanguageModel.read(path) for path in models if path != _DEFAULT}
    if _DEFAULT in models:
        across = all(model.across for model in known.values())
        known[_DEFAULT] = language_model.default_language_model(exclude=prompts_of(sessions), across=across)
    read = [known[path] for path in models]
    shares = mixing.fitted_shares(read, text)
    mixture = mixing.mix(read, shares)
    mixture.write(out)
    for path, model, share in zip(models, read, shares, strict=True):
        screen.print(f"{path}: share {share:.2f}, {mixing.bits_per_character(model, text):.2f} bits per character")
    screen.print(f"{out}: {mixing.bits_per_character(mixture, text):.2f} bits per character, {_sizes(mixture)}")


def _sizes(model: es.LanguageModel) -> str:
    return ", ".join(f"{len(level)} {length}-grams" for length, level in enumerate(model.ngrams.levels, 1))


def _text(given: Iterable[Path]) -> str:
    """The text of files, and what was on the screen in sessions, those of folders included."""
    return "\n".join(_screen(path) if is_session_name(path) else _read(path) for path in session_files(given))


def _screen(path: Path) -> str:
    return screen_text(es.open_session(path).labels.tolist())


def _read(path: Path) -> str:
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
