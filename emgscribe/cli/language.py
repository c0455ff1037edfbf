"""Verbs about language models: make one from text, tune a model's beam search with one."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from emgscribe.cli.terminal import bar, screen
from emgscribe.errors import EmgscribeError


def train(
    files: Positional[Annotated[tuple[Path, ...], arg(metavar="FILES")]],
    *,
    out: Path,
    order: int = 6,
    across: bool = False,
    min_count: int = 1,
    exclude: tuple[Path, ...] = (),
) -> int:
    """Make a character n-gram model from text and write it as an ARPA file.

    Examples:
      emgscribe lm train mail.txt notes.txt --out words.arpa.gz
      emgscribe lm train book.txt --out book.arpa --exclude data/*.hdf5

    Args:
        files: Text files in UTF-8.
        out: ARPA file to write; gzipped if its name ends in .gz.
        order: Length of the longest n-grams.
        across: Model across word boundaries, with space, digits and punctuation as tokens; by default words of a-z.
        min_count: Leave out n-grams of three or more tokens that were seen fewer times.
        exclude: Session files whose prompts are removed from the text: those that will be read with the model.
    """
    from emgscribe.data.hdf5 import prompts_of
    from emgscribe.decoding import language_model

    if not files:
        raise EmgscribeError("no text given", hint="name one or more text files")
    text = language_model.without_prompts("\n".join(map(_text, files)), prompts_of(exclude))
    model = language_model.train(text, order=order, across=across, min_count=min_count)
    model.write(out)
    sizes = ", ".join(f"{len(level)} {length}-grams" for length, level in enumerate(model.ngrams.levels, 1))
    screen.print(f"{out}: {sizes}")
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise EmgscribeError("is not text in UTF-8", where=str(path), hint="convert it, or leave it out") from error
    except OSError as error:
        raise EmgscribeError(f"cannot be read ({error.strerror})", where=str(path), hint="check the path") from error


def tune(
    model: Positional[Annotated[Path, arg(metavar="MODEL")]],
    sessions: Positional[Annotated[tuple[Path, ...], arg(metavar="SESSIONS")]],
    *,
    lm: Path | None = None,
    exclude: tuple[Path, ...] = (),
    beam: Annotated[int, arg(name="beam-size")] = 50,
) -> int:
    """Find the two weights of the beam search on a model's validation sessions, and store them with the model.

    --decoder beam then uses these weights, and the language model that they were found with. A session that the model
    was trained on is refused, and so is any that did not validate it, since it may be a test session.

    Examples:
      emgscribe lm tune runs/demo-0/best data/SESSION.hdf5
      emgscribe lm tune runs/demo-0/best data/SESSION.hdf5 --lm words.arpa

    Args:
        model: A model folder, such as runs/demo-0/best.
        sessions: The session files that validated it.
        lm: ARPA file; the default is the built-in language model, made without the prompts of these sessions.
        exclude: More session files whose prompts the built-in language model must not contain: the test sessions.
        beam: Number of hypotheses that are kept after each frame.
    """
    from emgscribe.data.hdf5 import prompts_of
    from emgscribe.data.session import open_sessions
    from emgscribe.decoding.beam import BeamConfig
    from emgscribe.decoding.language_model import LanguageModel, default_language_model
    from emgscribe.decoding.tuning import tune_model
    from emgscribe.models.model import best_device, load_model

    if not sessions:
        raise EmgscribeError("no session given", hint="name the session files that validated the model")
    config = BeamConfig(beam_size=beam)
    loaded, opened = load_model(model, best_device()), open_sessions(sessions)
    words = LanguageModel.read(lm) if lm else default_language_model(exclude=prompts_of([*sessions, *exclude]))
    emissions = [loaded.log_probs(session) for session in opened]
    with bar("tuning") as progress:
        best = tune_model(model, loaded.ancestry, opened, emissions, words, config, progress=progress).best
    screen.print(
        f"lm_weight {best.lm_weight:g}, insertion_bonus {best.insertion_bonus:g}: CER {best.counts.cer:.2f} % on the"
        f" sessions they were tuned on; stored in {model / 'beam.json'}"
    )
    return 0
