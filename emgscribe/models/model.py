"""Features + encoder + head -> emissions, and the folder a model is kept in.

Shapes, batch first: N items, T samples, F frames, B bands (2), C electrode channels (16), K frequency bins, D width,
V symbols with the blank (99).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from emgscribe.config import from_json, to_json
from emgscribe.data.charset import BLANK, NUM_CLASSES
from emgscribe.data.session import Session
from emgscribe.data.windows import Batch
from emgscribe.errors import EmgscribeError
from emgscribe.files import read_json, replacing, write_json
from emgscribe.models.ancestry import Ancestry
from emgscribe.models.attention import AttentionConfig, AttentionDecoder
from emgscribe.models.encoders import EncoderConfig, TdsConfig
from emgscribe.models.features import FeaturesConfig, SpectrogramConfig

if TYPE_CHECKING:
    from emgscribe.decoding.greedy import Decoder, Emissions
    from emgscribe.transcription import Transcript

_FORMAT, _VERSION = "emgscribe-model", 1
_HINT = "name a folder that emgscribe train wrote, such as runs/NAME-SEED/best"


@dataclass(frozen=True)
class ModelConfig:
    """Everything that a network is built from. `attention` with layers is a second head beside that of CTC."""

    features: FeaturesConfig = field(default_factory=SpectrogramConfig)
    encoder: EncoderConfig = field(default_factory=TdsConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)


class Model(nn.Module):
    """EMG -> emissions: log-probabilities of the 99 classes, one frame for every `samples_per_frame` samples.

    `model(batch)` returns emissions (N, F, V) that cover exactly the batch's labelled samples, with
    F = ceil(T / samples_per_frame), and how many frames each item has. Context that the encoder does not need is cut off, context that is missing is
    taken as zero. `attention` is the second head, if it has one, and `ancestry` what the model was trained on.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.ancestry = Ancestry()
        self.folder: Path | None = None  # where it was loaded from
        chosen = len(config.features.bands), len(config.features.electrodes)
        self.features = config.features.build()
        self.encoder = config.encoder.build(*chosen, self.features.bins)
        self.head = nn.Linear(self.encoder.width, NUM_CLASSES)
        layers, width = config.attention.layers, self.encoder.width
        self.attention = AttentionDecoder(config.attention, width) if layers else None

    def expect_blank(self, share: float) -> None:
        """Let an untrained head give the blank about this share of each frame, and all symbols the same of the rest.

        Else the first steps teach it that most frames are blank through all layers, which drives recurrent ones into
        saturation, and they stay on CTC's all-blank plateau (LOG.md, 2026-11-22).
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
        """Samples (2 kHz) that one frame of emissions stands for."""
        return self.features.hop * self.encoder.stride

    @property
    def context(self) -> tuple[int, int]:
        """Samples of context (left, right) that the emissions of a whole number of frames depend on."""
        features, encoder = self.features, self.encoder
        left = encoder.left_context * features.hop + features.before
        return left, encoder.right_context * features.hop + features.span - features.hop - features.before

    def frames(self, samples: Tensor | int) -> Any:
        """Frames that cover `samples` labelled samples: the ceiling of the ratio."""
        return -(-samples // self.samples_per_frame)

    def featurize(self, batch: Batch) -> Tensor:
        """The batch's features (N, left_context + F * stride + right_context, B, C, K)."""
        left, _ = self.context
        frames = self.frames(batch.labelled) * self.encoder.stride
        span = self.features.samples(self.encoder.left_context + frames + self.encoder.right_context)
        surplus = batch.left - left
        missing = span - (batch.emg.shape[1] - surplus)
        emg = F.pad(batch.emg, (0, 0, 0, 0, -surplus, missing))  # (N, span, B, C); negative padding crops
        features: Tensor = self.features(emg)
        return features

    def encode(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Features as `featurize` makes them, labelled samples of each item (N,) -> frames (N, F, D) for the heads."""
        hidden: Tensor = self.encoder(features, self.frames(lengths) * self.encoder.stride)
        return hidden

    def classify(self, frames: Tensor) -> Tensor:
        """Frames (N, F, D) -> emissions (N, F, V) in float32."""
        return F.log_softmax(self.head(frames).float(), dim=-1)

    def log_probs(self, session: Session) -> "Emissions":
        """Natural log-probabilities (F, 99) over a whole session, a frame every `samples_per_frame` samples."""
        from emgscribe.transcription import log_probs

        with evaluating(self):
            return log_probs(self, session)

    def transcribe(self, session: Session, decoder: "Decoder | None" = None) -> "Transcript":
        """What a decoder (default: greedy) reads in a whole session: text, and when each key was pressed."""
        from emgscribe.transcription import transcribe

        with evaluating(self):
            return transcribe(self, session, decoder)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """A batch -> emissions (N, F, V) over its labelled samples, and the frames (N,) that each item has, on the CPU."""
        frames = self.encode(self.featurize(batch), batch.lengths)
        return self.classify(frames), self.frames(batch.lengths)


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """The model in evaluation mode: in training mode it would be scored by its batches' statistics."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def best_device() -> torch.device:
    """A CUDA GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def save_model(model: Model, folder: Path | str) -> None:
    """Write `config.json` and `model.safetensors`; the folder appears whole or not at all."""
    with replacing(Path(folder)) as temporary:
        temporary.mkdir()
        content = {"format": _FORMAT, "version": _VERSION, "model": to_json(model.config)}
        content["ancestry"] = to_json(model.ancestry)
        write_json(temporary / "config.json", content)
        weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        try:
            save_file(weights, temporary / "model.safetensors")
        except SafetensorError as error:  # it has no class of its own for a full disk
            raise OSError(str(error)) from error


def load_model(folder: Path | str, device: torch.device | str = "cpu") -> Model:
    """Read what `save_model` wrote, ready for evaluation. A foreign or broken folder is an `EmgscribeError`."""
    folder = Path(folder)
    content = _described(folder)
    model = Model(from_json(ModelConfig, content.get("model"), where=str(folder / "config.json")))
    model.ancestry, model.folder = _ancestry(content, folder), folder
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, SafetensorError, RuntimeError) as error:
        what = f"model.safetensors does not fit ({str(error).strip().splitlines()[-1].strip()})"
        raise EmgscribeError(what, where=str(folder), hint=_HINT) from error
    return model.to(device).eval()


def load_ancestry(folder: Path) -> Ancestry:
    """What the model in `folder` was trained on, without its weights; the same errors."""
    return _ancestry(_described(folder), folder)


def stored_hash(folder: Path) -> str:
    """A hash of what `save_model` wrote into `folder`, ancestry and weights, wherever that is; the same errors."""
    _described(folder)
    try:
        files = [(folder / name).read_bytes() for name in ("config.json", "model.safetensors")]
    except OSError as error:
        raise EmgscribeError(f"cannot be read ({error.strerror})", where=str(error.filename), hint=_HINT) from error
    return sha256(b"".join(files)).hexdigest()[:16]


def _described(folder: Path) -> dict[str, Any]:
    """The content of a model's config.json, as far as every version of the format has it."""
    if not (folder / "config.json").is_file():
        raise EmgscribeError("no model here: config.json is missing", where=str(folder), hint=_HINT)
    content = read_json(folder / "config.json")
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (_FORMAT, _VERSION):
        what = f"config.json is not of format {_FORMAT} version {_VERSION}"
        raise EmgscribeError(what, where=str(folder), hint=_HINT)
    return content


def _ancestry(content: dict[str, Any], folder: Path) -> Ancestry:
    if "ancestry" not in content:  # written before models kept it
        return Ancestry(complete=False)
    return from_json(Ancestry, content["ancestry"], where=str(folder / "config.json"))
