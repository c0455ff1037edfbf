"""Verbs about a trained model: score it, read a session with it."""

import sys
from pathlib import Path
from typing import Annotated

import torch
from tyro.conf import Positional, arg

import emgscribe as es
from emgscribe.cli.scores import print_difference, print_evaluation
from emgscribe.cli.terminal import Arpa, ModelFolder, bar, known, log, refuse, screen
from emgscribe.data.hdf5 import session_files, shown_kind
from emgscribe.data.session import Session
from emgscribe.data.splits import Protocol
from emgscribe.decoding.registry import DECODERS, make_decoder
from emgscribe.errors import EmgscribeError
from emgscribe.evaluation import Protocol as Reading
from emgscribe.models.model import best_device
from emgscribe.scoring import count

_PROTOCOLS = (
    "sessions: whole sessions, padded; published: without padding, as in the published numbers; "
    "windows: windows of 4 s one by one, as in the published validation."
)


Lookahead = Annotated[float, arg(help="Lookahead in seconds, for a model with several; 0: the model's own setting.")]
OwnNorm = Annotated[
    float,
    arg(help="0 to 1: how far the norm of each electrode moves to the session's own; uses no keys."),
]


def _loaded(folder: Path, lookahead: float, device: torch.device | str) -> es.Model:
    model = es.load_model(folder, device)
    return model.with_lookahead(lookahead) if lookahead else model


def decoder_names(chosen: str) -> list[str]:
    """The decoders in a choice such as greedy,beam, each once; an unknown one is an error that lists the known ones."""
    return list(dict.fromkeys(known(name.strip(), DECODERS, "decoder") for name in chosen.split(",")))


def evaluate(
    model: ModelFolder,
    sessions: Positional[
        Annotated[tuple[Path, ...], arg(metavar="SESSIONS", help="Session files, or folders of them.")]
    ],
    *,
    decoder: Annotated[str, arg(help="greedy, beam, or greedy,beam, which also compares the two.")] = "greedy",
    lm: Arpa = None,
    protocol: Annotated[Reading, arg(help=_PROTOCOLS)] = "sessions",
    lookahead: Lookahead = 0.0,
    own_norm: OwnNorm = 0.0,
    allow_seen: Annotated[bool, arg(help="Also score training sessions, and mark the result.")] = False,
) -> None:
    """A session is refused if the model, or one that it was made from, was trained on it, or if the beam search was
    tuned on it. The network runs once for all decoders.

    Examples:
      emgscribe evaluate runs/demo-0/best data/SESSION.hdf5
      emgscribe evaluate runs/demo-0/best data/SESSION.hdf5 --decoder greedy,beam
    """
    if not sessions:
        raise EmgscribeError("no session given", hint="name one or more session files after the model")
    names, sessions = decoder_names(decoder), tuple(session_files(sessions))
    loaded, opened = _loaded(model, lookahead, best_device()), es.open_sessions(sessions)
    if not loaded.ancestry.complete:
        log.print(f"Warning: {model} does not list all sessions it was trained on; these may be among them")
    for session in opened:
        if not len(session.labels):
            log.print(f"Warning: {session.name} has no key with a label, and so no error rate")
    # Where no key is known, whatever is read would count as an error.
    opened = [session for session in opened if len(session.labels)] or opened
    readers = {name: make_decoder(name, folder=model, lm=lm, scored=opened) for name in names}
    if any(reader.settings.get("tuned_on") == [] for reader in readers.values()):
        log.print("The beam has its default weights. emgscribe lm tune MODEL SESSIONS tunes them for this model.")
    with bar("reading") as progress:
        found = es.evaluate_all(
            loaded, opened, readers, protocol=protocol, own_norm=own_norm, allow_seen=allow_seen, progress=progress
        )
    chose = loaded.ancestry.validated_on
    for session in (session for session in opened if any(seen.matches(session) for seen in chose)):
        log.print(f"Warning: {session.name} chose the model's best weights: its score is slightly optimistic")
    for name, evaluation in found.items():
        print_evaluation(evaluation, screen, name)
    print_difference(found, screen)


def transcribe(
    file: Positional[Annotated[Path, arg(metavar="SESSION", help="A session file.")]],
    *,
    model: Annotated[Path, arg(help="A model folder, such as runs/demo-0/best.")],
    decoder: Annotated[str, arg(help="greedy or beam.")] = "greedy",
    lm: Arpa = None,
    lookahead: Lookahead = 0.0,
    own_norm: OwnNorm = 0.0,
    on_screen: Annotated[bool, arg(help="Print what a screen would show: backspaces applied, no shift.")] = False,
) -> None:
    """The text is every keystroke, with ⌫ ⏎ and ⇧ as symbols.

    Examples:
      emgscribe transcribe data/SESSION.hdf5 --model runs/demo-0/best
      emgscribe transcribe data/SESSION.hdf5 --model runs/demo-0/best --decoder beam --on-screen
    """
    names = decoder_names(decoder)
    if len(names) > 1:
        raise EmgscribeError(f"--decoder is {decoder!r}, but transcribe takes one", hint="name one of them")
    loaded = _loaded(model, lookahead, best_device())
    session = es.open_session(file)
    loaded = loaded.normalized_to(session, own_norm) if own_norm else loaded
    read = loaded.transcribe(session, make_decoder(names[0], folder=model, lm=lm))
    sys.stdout.write((read.screen if on_screen else read.text).replace("⏎", "⏎\n") + "\n")


def ensemble(
    models: Positional[Annotated[tuple[Path, ...], arg(metavar="MODELS", help="Model folders, two or more.")]],
    *,
    out: Annotated[Path, arg(help="Folder to write the model to.")],
) -> None:
    """The models need the same features and frame rate. The new one takes as long to run as all of them.

    Examples:
      emgscribe ensemble runs/baseline-1501/best runs/baseline-1502/best --out models/two
      emgscribe ensemble runs/mine-*/best --out models/mine
    """
    made = es.ensemble([es.load_model(folder) for folder in models])
    es.save_model(made, out)
    screen.print(f"{made!r}: {out}")


def adapt(
    model: ModelFolder,
    sessions: Positional[Annotated[tuple[Path, ...], arg(metavar="SESSIONS", help="Sessions of one person.")]],
    *,
    out: Annotated[Path, arg(help="Folder of the run; the new model is in its subfolder best.")],
    seed: Annotated[int, arg(help="Random seed.")] = 0,
) -> None:
    """Takes minutes on a CPU. The last fifth of what was typed chooses the best weights; the model trains on the rest.

    Examples:
      emgscribe adapt live recordings/SESSION.hdf5 --out runs/mine
    """
    if not sessions:
        raise EmgscribeError("no session given", hint="name one or more session files after the model")
    es.adapt(model, es.open_sessions(session_files(sessions)), out, seed=seed, console=log)
    screen.print(f"model: {out / 'best'}")


def import_(
    checkpoint: Positional[Annotated[Path, arg(metavar="CHECKPOINT", help="A Lightning checkpoint (.ckpt).")]],
    *,
    out: Annotated[Path, arg(help="Folder to write the model to.")],
    trained_on: Annotated[Protocol | None, arg(help="Published split that trained it, such as generic.")] = None,
    hop: Annotated[int, arg(help="Samples from one frame to the next, which a checkpoint does not hold.")] = 16,
) -> None:
    """Without --trained-on the sessions that trained the model are unknown, and each score says so.

    Examples:
      emgscribe import generic.ckpt --out models/generic --trained-on generic
    """
    model = es.import_checkpoint(checkpoint, trained_on=trained_on, hop=hop)
    es.save_model(model, out)
    screen.print(f"{model!r}: {out}")


def export(
    model: ModelFolder,
    *,
    out: Annotated[Path, arg(help="File to write, ending in .ckpt or .onnx; with --web, a folder.")],
    frames: Annotated[int, arg(help="Frames of emissions that each call of the .onnx returns.")] = 1,
    lookahead: Lookahead = 0.0,
    int8: Annotated[bool, arg(help="Also write NAME-int8.onnx, with 8-bit weights.")] = False,
    web: Annotated[bool, arg(help="Write the page of live as a site: the browser alone reads a session.")] = False,
    sessions: Annotated[tuple[Path, ...], arg(help="Session files to compare .onnx files on, or for the page.")] = (),
) -> None:
    """As .ckpt the network must be of the baseline's kind: spectrogram, MLPs, TDS blocks. As .onnx it must be one that
    can be streamed; the file takes samples and states, and gives emissions and states.

    Examples:
      emgscribe export runs/baseline-1501/best --out baseline.ckpt
      emgscribe export runs/demo-0/best --out demo.onnx --int8 --sessions data/SESSION.hdf5
      emgscribe export live --out site --web
    """
    kind = "--web" if web else out.suffix.lower()
    if kind not in ("--web", ".ckpt", ".onnx"):
        hint = "end it in .onnx or .ckpt, or add --web for a folder"
        raise EmgscribeError(f"--out is {out}, which says no format", hint=hint)
    if kind != ".onnx":
        several = len(sessions) > 1 if web else sessions
        refuse({"--frames": frames != 1, "--int8": int8, "--sessions": several}, kind)
    loaded = _loaded(model, lookahead, "cpu")
    if web:
        from emgscribe.live.web import write_site

        write_site(loaded, out, es.open_session(sessions[0]) if sessions else None)
        screen.print(f"page: {out} (python -m http.server --directory {out} shows it)")
        return
    if kind == ".ckpt":
        es.export_checkpoint(loaded, out)
        screen.print(f"checkpoint: {out}")
        return
    from emgscribe.models.onnx import export_onnx

    opened, label = es.open_sessions(sessions) if sessions else [], ""
    if opened:
        scored = es.evaluate(loaded, opened)
        kind = shown_kind(simulated=scored.simulated, real_keys=scored.real_keys)
        label = f", {kind}" * scored.simulated
        screen.print(f"{model}: CER {scored.cer:.2f} %{label}")
    for path, small in ((out, False), (out.with_stem(f"{out.stem}-int8"), True))[: 1 + int8]:
        export_onnx(loaded, path, frames=frames, int8=small)
        size = f"{path}: {path.stat().st_size / 1e6:.1f} MB"
        screen.print(f"{size}, CER {_onnx_cer(path, opened):.2f} %{label}" if opened else size)


def _onnx_cer(path: Path, sessions: list[Session]) -> float:
    """The CER of greedy decoding of what onnxruntime computes."""
    from emgscribe.models.onnx import OnnxModel

    model, counts = OnnxModel(path), es.Counts()
    for session in sessions:
        counts += count(session.labels.tolist(), es.GreedyDecoder().decode(model.log_probs(session.emg)).labels)
    return counts.cer
