"""The architectures: `ENCODERS` names the configuration of each; a new one is one file here and one line below.

Most of them read the frames of another encoder (their field `base`), so that a combination is a value and not a file:
`RecurrentConfig(base=TdsConfig(dropout=0.3), cell="lstm")` is the TDS network with an LSTM behind it.
"""

from emgscribe.models.encoders.conformer import ConformerConfig
from emgscribe.models.encoders.contract import Encoder, EncoderConfig
from emgscribe.models.encoders.linear_recurrence import LinearRecurrenceConfig
from emgscribe.models.encoders.mlp import MlpConfig
from emgscribe.models.encoders.recurrent import RecurrentConfig
from emgscribe.models.encoders.residual_cnn import ResidualCnnConfig
from emgscribe.models.encoders.split_share import SplitShareConfig
from emgscribe.models.encoders.tds import TdsConfig
from emgscribe.models.encoders.transformer import TransformerConfig

__all__ = [
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
