"""Features + encoder + head -> emissions, and the folder that a model is stored in.

Shapes, batch first: N items, T samples, F frames, B bands, C electrode channels, K frequency bins, D width, V symbols
with the blank (99).
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_parameter_registration_hook

from emgscribe.config import Settings, from_json, leaves, require, to_json
from emgscribe.data.charset import BLANK, NUM_CLASSES
from emgscribe.data.hdf5 import is_session_name
from emgscribe.data.session import Session
from emgscribe.data.shape import Shape
from emgscribe.data.windows import Batch
from emgscribe.errors import EmgscribeError
from emgscribe.files import open_file, read_json, replacing, write_json
from emgscribe.models.ancestry import Ancestry
from emgscribe.models.attention import AttentionConfig, AttentionDecoder
from emgscribe.models.encoders import EncoderConfig, EnsembleConfig, LookaheadsConfig, TdsConfig
from emgscribe.models.features import FeaturesConfig, SpectrogramConfig
from emgscribe.models.steps import Chain, each

if TYPE_CHECKING:
    from emgscribe.decoding.decoder import Decoder, Emissions
    from emgscribe.transcription import Transcript

T = TypeVar("T")
_FORMAT, _VERSION = "emgscribe-model", 2
# In a model's folder:
_FILES = ("config.json", "model.safetensors", "README.md", "beam.json", "language-model-*.arpa.gz")
SHIPPED = ("live",)
"""The models that come with the package, by their names."""
_OWN = Path(__file__).parent / "shipped"
_HINT = "name a folder that emgscribe train wrote, such as runs/NAME-SEED/best"
_MAX_TENSORS = 3000  # weights of a network, a layer of which has up to 30
_MAX_SECONDS = 60  # context of a window
_HEADER_BYTES = 10 << 20


@dataclass(frozen=True)
class ModelConfig(Settings):
    """The settings that a network is built from."""

    section = "model"
    features: FeaturesConfig = field(default_factory=SpectrogramConfig)  # EMG to features
    encoder: EncoderConfig = field(default_factory=TdsConfig)  # features to frames
    attention: AttentionConfig = field(default_factory=AttentionConfig)  # a second head beside CTC


class Model(nn.Module):
    """EMG -> emissions: log-probabilities of the 99 classes, one frame for every `samples_per_frame` samples.

    `model(batch)` returns emissions (N, F, V) that cover exactly the batch's labelled samples, with
    F = ceil(T / samples_per_frame), and the number of frames of each item (N,), on the CPU. Surplus context is cut off;
    missing context counts as zero. `shape` is that of the recordings that it reads (default: that of the data set),
    `attention` the second head or None, `ancestry` the sessions that the model was trained on, `folder` where it was
    loaded from.
    """

    def __init__(self, config: ModelConfig, shape: Shape | None = None) -> None:
        super().__init__()
        self.config, self.shape = config, shape or Shape()
        self.ancestry = Ancestry()
        self.folder: Path | None = None
        self.features = config.features.build()
        self.encoder = config.encoder.build(*config.features.seen(self.shape), self.features.bins)
        self.head = nn.Linear(self.encoder.width, NUM_CLASSES)
        attention = config.attention
        self.attention = AttentionDecoder(attention, self.encoder.width) if attention.layers else None
        seconds = (sum(self.context) + self.samples_per_frame) / self.shape.rate
        require(seconds <= _MAX_SECONDS, "model.context", seconds, f"up to {_MAX_SECONDS} seconds, frame included")

    def __repr__(self) -> str:
        encoder = self.config.encoder
        what = " + ".join(encoder.chain())
        if isinstance(encoder, EnsembleConfig):
            members = dict.fromkeys(" + ".join(member.chain()) for member in encoder.members)
            what = f"ensemble of {len(encoder.members)}: {', '.join(members)}"
        parameters = sum(parameter.numel() for parameter in self.parameters())
        rate = self.shape.rate / self.samples_per_frame
        return f"<Model {what}, {parameters:,} parameters, {rate:.4g} frames/s>"

    def expect_blank(self, share: float) -> None:
        """Make an untrained head expect the blank with probability `share`, and all symbols equally.

        Otherwise the first steps push all layers toward the blank, which saturates recurrent ones, and training stays
        on CTC's all-blank plateau (LOG.md, 2026-11-22).
        """
        with torch.no_grad():
            self.head.bias.zero_()
            self.head.bias[BLANK] = math.log(share / (1 - share) * (NUM_CLASSES - 1))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    @property
    def samples_per_frame(self) -> int:
        """Samples that one frame of emissions stands for."""
        return self.features.hop * self.encoder.stride

    @property
    def context(self) -> tuple[int, int]:
        """Samples of context (left, right) that the emissions of a whole number of frames depend on."""
        hop, around = self.features.hop, self.features.span - self.features.hop
        left, right = self.encoder.left_context * hop, self.encoder.right_context * hop
        return left + around // 2, right + around - around // 2  # a frame's span is centred on the hop it stands for

    def frames(self, samples: Tensor | int) -> Any:
        """Frames that cover `samples` labelled samples: the ceiling of the ratio."""
        return -(-samples // self.samples_per_frame)

    def featurize(self, batch: Batch) -> Tensor:
        """The batch's features (N, left_context + F * stride + right_context, B, C, K)."""
        frames = self.frames(batch.labelled) * self.encoder.stride
        span = self.features.samples(self.encoder.left_context + frames + self.encoder.right_context)
        surplus = batch.left - self.context[0]
        missing = span - (batch.emg.shape[1] - surplus)
        emg = F.pad(batch.emg, (0, 0, 0, 0, -surplus, missing))  # (N, span, B, C); negative padding crops
        return self.features(emg)

    def encode(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Features from `featurize`, labelled samples of each item (N,) -> frames (N, F, D) for the heads."""
        return self.encoder(features, self.frames(lengths) * self.encoder.stride)

    def classify(self, frames: Tensor) -> Tensor:
        """Frames (N, F, D) -> emissions (N, F, V) in float32."""
        return F.log_softmax(self.head(frames).float(), dim=-1)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        frames = self.encode(self.featurize(batch), batch.lengths)
        return self.classify(frames), self.frames(batch.lengths)

    @property
    def lookaheads(self) -> dict[float, "ModelConfig"]:
        """The lookaheads that the network can run with, in seconds, and its settings with each."""
        encoder = self.config.encoder
        if not isinstance(encoder, LookaheadsConfig):
            return {}
        settings = (replace(encoder, lookahead=frames) for frames in encoder.known)
        seconds = self.samples_per_frame / self.shape.rate
        return {one.lookahead * seconds: replace(self.config, encoder=one) for one in settings}

    def with_lookahead(self, seconds: float) -> "Model":
        """A copy that runs with the known lookahead nearest to `seconds`.

        A model that was not trained with several (`LookaheadsConfig`) raises `EmgscribeError`.
        """
        if not (known := self.lookaheads):
            hint = "leave the lookahead as it is, or train a model of the kind `lookaheads`"
            raise EmgscribeError("the model was trained with one lookahead", where=str(self.folder or ""), hint=hint)
        chosen = known[min(known, key=lambda one: abs(one - seconds))]
        model = Model(chosen, self.shape).to(self.device).train(self.training)
        model.load_state_dict(self.state_dict())
        model.ancestry, model.folder = self.ancestry, self.folder
        return model

    @property
    def streams(self) -> bool:
        """Whether it decodes samples as they come, without waiting for the end of a recording."""
        return to_json(self.config.encoder) == to_json(self.config.encoder.streaming())

    def streamed(self) -> Chain:
        """The steps of a stream: EMG (N, n, B, C), from `context[0]` samples before the first on -> emissions.

        A model that waits for the end of a recording raises `EmgscribeError`.
        """
        if not self.streams:
            found, wanted = (
                dict(leaves(to_json(one))) for one in (self.config.encoder, self.config.encoder.streaming())
            )
            changes = [f"encoder.{name} = {value}" for name, value in wanted.items() if found[name] != value]
            what = "the model cannot be streamed: it needs the whole recording before its first key"
            windows = "--window 4, in Python Stream(model, window=4)"
            hint = f"train a model with {', '.join(changes)}; or use sliding windows: {windows}"
            raise EmgscribeError(what, hint=hint)
        return Chain([*self.features.streamed(), *self.encoder.streamed(), each(self.classify)])

    def require_shape(self, session: Session) -> None:
        """Refuse a session of another shape."""
        if session.shape != self.shape:
            what = f"has {session.shape}, but the model reads {self.shape}"
            raise EmgscribeError(what, where=session.name, hint="train a model on sessions of this shape")

    def log_probs(self, session: Session) -> "Emissions":
        """Natural log-probabilities (F, 99) over a whole session, one frame every `samples_per_frame` samples."""
        from emgscribe.transcription import log_probs

        return log_probs(self, session)

    def normalized_to(self, session: Session, share: float = 0.75) -> "Model":
        """A copy whose norms expect each electrode at the level that it has in a session, whose keys are not used.

        `share` 0 changes nothing, 1 goes all the way. Source: Li et al. 2016 (arXiv 1603.04779). A model without a norm
        over electrodes raises `EmgscribeError`.
        """
        from emgscribe.transcription import normalized_to

        return normalized_to(self, session, share)

    def transcribe(self, session: Session, decoder: "Decoder | None" = None) -> "Transcript":
        """The text of a whole session by a decoder (default: greedy), with the time of each key."""
        from emgscribe.transcription import transcribe

        return transcribe(self, session, decoder)


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """The model in evaluation mode: in training mode batch norms would use the statistics of what is transcribed."""
    modes = {part: part.training for part in model.modules()}  # a caller may have frozen some of them
    model.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def best_device() -> torch.device:
    """A CUDA GPU where there is one, else the CPU; the environment's EMGSCRIBE_DEVICE (cuda, mps or cpu) overrides it.

    Apple's GPU (mps) must be chosen this way: torch has no CTC for it, so CTC is computed on the CPU. A device that is
    not available raises `EmgscribeError`.
    """
    found = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    chosen = os.environ.get("EMGSCRIBE_DEVICE") or ("cuda" if found["cuda"] else "cpu")
    allowed = ", ".join(name for name in found if found[name])
    require(found.get(chosen, False), "EMGSCRIBE_DEVICE", chosen, f"{allowed} (what this machine and its torch have)")
    return torch.device(chosen)


def sketch(config: ModelConfig, shape: Shape | None = None) -> Model:
    """The model without values, on torch's meta device. One that this machine cannot hold raises `EmgscribeError`.

    It costs no memory, and time for `_MAX_TENSORS` weights at most, whatever the settings say.
    """
    numbers = count(1)

    def note(*_: object) -> None:
        if next(numbers) > _MAX_TENSORS:
            raise EmgscribeError(f"the network has more than {_MAX_TENSORS} weights", hint="choose fewer layers")

    hook = register_module_parameter_registration_hook(note)
    try:
        with torch.device("meta"):
            model = Model(config, shape)
    except RuntimeError as error:  # a product of sizes that no tensor can have
        what = f"the network cannot be built ({str(error).splitlines()[0]:.200})"
        raise EmgscribeError(what, hint="choose smaller sizes") from error
    finally:
        hook.remove()
    needed, there = _memory(model), psutil.virtual_memory().total
    if needed > there:
        takes, has = f"{needed / 1e9:,.0f} GB", f"{there / 1e9:.0f}"
        what = f"a minute of signal takes this network about {takes}, and the machine has {has}"
        raise EmgscribeError(what, hint="choose fewer features, or frames that are further apart")
    return model


def _memory(model: Model) -> float:
    """Estimate of the bytes that the weights and a minute's emissions take, 0.6 to 2.3 times what was measured."""
    sizes = [parameter.shape for parameter in model.parameters()]
    # As sessions are read: attention to all of a window sees 4 s at a time, any other network the whole minute.
    windows, seconds = (1, 60) if model.encoder.extrapolates else (15, 4)
    samples = seconds * model.shape.rate + sum(model.context)
    frames, electrodes = samples / model.features.hop, len(model.shape.bands) * model.shape.electrodes
    held = samples * electrodes * model.features.numbers_per_sample + frames * 8 * max(size[0] for size in sizes)
    return 4 * (sum(map(math.prod, sizes)) + windows * held + (windows > 1) * windows * frames**2)


def save_model(model: Model, folder: Path | str) -> None:
    """Write `config.json` and `model.safetensors`; the folder appears whole or not at all.

    An earlier model in it goes, with its card and its beam's weights. A folder that holds anything else raises
    `EmgscribeError`.
    """
    with replacing(Path(folder), _FILES) as temporary:
        temporary.mkdir()
        content = {"format": _FORMAT, "version": _VERSION, "model": to_json(model.config)}
        about = {"shape": to_json(model.shape), "ancestry": to_json(model.ancestry)}
        write_json(temporary / "config.json", content | about)
        weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        (temporary / "model.safetensors").write_bytes(save(weights))  # save_file would let only the owner read it


def load_model(folder: Path | str, device: torch.device | str = "cpu") -> Model:
    """The model that `save_model` wrote, ready for evaluation; "live" is the one that comes with the package.

    A folder that holds no model, or a broken one, raises `EmgscribeError`.
    """
    folder = model_folder(folder)
    config, shape = _stored(ModelConfig, folder, "model"), _stored(Shape, folder, "shape")
    ancestry = load_ancestry(folder)
    try:
        weights = _weights(folder / "model.safetensors", sketch(config, shape))
        model = Model(config, shape)
    except EmgscribeError as error:
        raise EmgscribeError(error.what, where=error.where or str(folder), hint=_HINT) from error
    model.load_state_dict(weights)
    model.ancestry, model.folder = ancestry, folder
    return model.to(device).eval()


def model_folder(name: Path | str) -> Path:
    """The folder itself, or that of a model that comes with the package, by its name."""
    folder, own = Path(name), _OWN / str(name)
    return own if str(name) in SHIPPED and not (folder / "config.json").exists() else folder


def _weights(path: Path, model: Model) -> dict[str, Tensor]:
    """The weights in a file, mapped into memory, that fit `model` and are finite."""
    with open_file(path) as file:
        if int.from_bytes(file.read(8), "little") > _HEADER_BYTES:
            raise EmgscribeError("is not a weights file: its header is too long", where=str(path))
    try:
        weights = load_file(path)
    except Exception as error:  # safetensors has its own class for only some faults
        raise EmgscribeError(f"is not a weights file, or is damaged ({error!s:.200})", where=str(path)) from error
    found, needed = ({name: _described(one) for name, one in of.items()} for of in (weights, model.state_dict()))
    for name in sorted(found.keys() | needed.keys()):
        there, here = found.get(name, "missing"), needed.get(name, "none of the network's weights")
        if there != here:
            raise EmgscribeError(f"does not fit: {name:.80} is {there}, not {here}", where=str(path))
    for name, one in weights.items():
        if not one.isfinite().all() or (name.endswith("running_var") and one.min() < 0):
            raise EmgscribeError(f"{name} is not finite, or a negative variance", where=str(path))
    return weights


def _described(weights: Tensor) -> str:
    return f"{list(weights.shape)} of {weights.dtype}"


def load_ancestry(folder: Path | str) -> Ancestry:
    """What the model in `folder` was trained on, without its weights. Raises the errors of `load_model`."""
    return _stored(Ancestry, model_folder(folder), "ancestry")


def stored_hash(folder: Path | str) -> str:
    """A hash of the model in `folder`: settings, ancestry and weights. Raises the errors of `load_model`."""
    load_ancestry(folder)
    digest = sha256()
    for name in ("config.json", "model.safetensors"):
        with open_file(model_folder(folder) / name) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def _stored(kind: type[T], folder: Path, part: str) -> T:
    path = folder / "config.json"
    if not path.is_file():
        hint = _HINT
        if (folder / "best" / path.name).is_file():
            hint = f"name {folder / 'best'}"
        elif folder.suffix == ".ckpt":
            hint = "import a published checkpoint: emgscribe import NAME.ckpt --out models/NAME"
        elif is_session_name(folder):
            hint = f"this is the name of a session; {_HINT}"
        raise EmgscribeError("no model here: config.json is missing", where=str(folder), hint=hint)
    content = read_json(path)
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (_FORMAT, _VERSION):
        what = f"config.json is not of format {_FORMAT} version {_VERSION}"
        raise EmgscribeError(what, where=str(folder), hint=_HINT)
    return from_json(kind, content.get(part), where=str(path))
