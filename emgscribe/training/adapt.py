"""Minutes of a person's own typing -> a model of their own, fine-tuned from one of many people."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from emgscribe.config import require
from emgscribe.data.session import Session
from emgscribe.data.shape import PUBLISHED_RATE
from emgscribe.data.windows import WindowConfig
from emgscribe.errors import EmgscribeError
from emgscribe.evaluation import evaluate
from emgscribe.models.augment import AlignmentJitter, Augmentation, SpecAugment
from emgscribe.models.model import best_device, load_model, save_model
from emgscribe.training.config import Recipe, TrainConfig
from emgscribe.training.run import Trained, train

_HELD_OUT = 0.2  # of the samples, at the end, which choose the best weights
_STEPS, _MAX_EPOCHS = 450, 60  # of training, however many minutes there are; a few minutes are soon overfitted
_CHECKS = 10  # times that the held-out part is read
_WINDOW, _BATCH = WindowConfig(left=0, right=0), 8  # of 4 s; windows in a step
_MIN_MINUTES = 0.5  # minutes


def adapt(
    model: Path | str, sessions: Sequence[Session], out: Path | str, *, seed: int = 0, console: Console | None = None
) -> Trained:
    """Fine-tune the model in the folder `model` on sessions of one person; the new one is in `out`/best.

    The last fifth of the samples chooses the best weights, which may be the original ones; the model trains on the
    rest. This takes about as long for a few minutes as for many. After an interruption the same call resumes. `console`
    gets a line for each epoch.
    Raises `EmgscribeError` for less than half a minute, and where `train` does.
    """
    minutes = sum(session.minutes for session in sessions)
    require(minutes >= _MIN_MINUTES, "minutes of the sessions", round(minutes, 2), f"{_MIN_MINUTES} or more")
    loaded = load_model(model, best_device())
    for session in sessions:
        loaded.require_shape(session)
    trained, held_out = _parts(sessions)
    if not any(len(session.labels) for session in held_out):
        hint = "record a little more, and type until the end"
        raise EmgscribeError("no key was pressed in the last fifth of the sessions", hint=hint)
    console = console or Console(quiet=True)
    before = evaluate(loaded, held_out).cer
    console.print(f"before: CER {before:.1f} % on the last fifth", highlight=False)
    steps = sum(session.minutes for session in trained) * 60 * PUBLISHED_RATE / _WINDOW.length / _BATCH  # an epoch
    every = max(1, round(min(_STEPS / max(1.0, steps), _MAX_EPOCHS) / _CHECKS))
    recipe = Recipe(
        model=loaded.config.at_rate(PUBLISHED_RATE / loaded.shape.rate),  # a recipe is for 2 kHz
        windows=_WINDOW,
        augment=Augmentation(jitter=AlignmentJitter(40), spec=SpecAugment(2, 6, 1, 2)),
        train=TrainConfig(
            epochs=_CHECKS * every, validate_every=every, batch_size=_BATCH, optimizer="adamw", lr=5e-4, lr_start=1e-5,
            lr_end=1e-5, warmup_epochs=0.05 * _CHECKS * every, weight_decay=1e-2, clip_norm=1.0, keypress_weight=0.5,
            keypress_fraction=1.0, seed=seed,
        ),
    )  # fmt: skip
    done = train(recipe, trained, held_out, out=out, start=model, console=console)
    after = evaluate(done.model, held_out, allow_seen=True).cer  # its sessions, but not this part of them, trained it
    console.print(f"after: CER {after:.1f} % on the last fifth, which also chose the weights", highlight=False)
    if after < before:
        return done
    known = {session.user for session in sessions} <= {seen.user for seen in loaded.ancestry.trained_on}
    hint = "It was already trained on this person." if known else "More minutes of typing may help."
    console.print(f"This is no better, so the model stays as it was. {hint}")
    save_model(loaded, done.folder / "best")
    return replace(done, model=loaded)


def _parts(sessions: Sequence[Session]) -> tuple[list[Session], list[Session]]:
    """All but the last `_HELD_OUT` of the samples, and that last part."""
    left = round((1 - _HELD_OUT) * sum(map(len, sessions)))
    trained, held_out = list[Session](), list[Session]()
    for session in sessions:
        if left > 0:
            trained.append(session.first(left))
        if left < len(session):
            held_out.append(session.part(max(0, left), len(session)))
        left -= len(session)
    return trained, held_out
