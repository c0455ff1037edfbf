"""The architectures: `ENCODERS` names the configuration of each; a new one is one file here and one line below.

Most of them read the frames of another encoder (their field `on`), so that a combination is a value and not a file:
`RecurrentConfig(on=TdsConfig(dropout=0.3), cell="lstm")` is the TDS network with an LSTM behind it.
"""

from emgscribe.config import register_kinds
from emgscribe.encoders.conformer import ConformerConfig
from emgscribe.encoders.contract import Encoder, EncoderConfig
from emgscribe.encoders.linear_recurrence import LinearRecurrenceConfig
from emgscribe.encoders.mlp import MlpConfig
from emgscribe.encoders.recurrent import RecurrentConfig
from emgscribe.encoders.residual_cnn import ResidualCnnConfig
from emgscribe.encoders.split_share import SplitShareConfig
from emgscribe.encoders.tds import TdsConfig
from emgscribe.encoders.transformer import TransformerConfig

__all__ = [
    "ENCODERS",
    "ConformerConfig",
    "Encoder",
    "EncoderConfig",
    "LinearRecurrenceConfig",
    "MlpConfig",
    "RecurrentConfig",
    "ResidualCnnConfig",
    "SplitShareConfig",
    "TdsConfig",
    "TransformerConfig",
]

ENCODERS: dict[str, type[EncoderConfig]] = {
    "tds": TdsConfig,
    "mlp": MlpConfig,
    "residual-cnn": ResidualCnnConfig,
    "recurrent": RecurrentConfig,
    "linear-recurrence": LinearRecurrenceConfig,
    "transformer": TransformerConfig,
    "conformer": ConformerConfig,
    "split-share": SplitShareConfig,
}
register_kinds(EncoderConfig, ENCODERS, "encoder")
