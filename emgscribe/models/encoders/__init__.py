"""The architectures, each a file here that registers its settings under a name.

Most of them transform the frames of a base encoder, so a combination is a value: `RecurrentConfig(base=TdsConfig())` is
the TDS network followed by a GRU.
"""

from emgscribe.models.encoders.conformer import ConformerConfig
from emgscribe.models.encoders.contract import Encoder, EncoderConfig
from emgscribe.models.encoders.ensemble import EnsembleConfig
from emgscribe.models.encoders.linear_recurrence import LinearRecurrenceConfig
from emgscribe.models.encoders.lookaheads import LookaheadsConfig
from emgscribe.models.encoders.mlp import MlpConfig
from emgscribe.models.encoders.recurrent import RecurrentConfig
from emgscribe.models.encoders.residual_cnn import ResidualCnnConfig
from emgscribe.models.encoders.split_share import SplitShareConfig
from emgscribe.models.encoders.tds import TdsConfig
from emgscribe.models.encoders.transformer import TransformerConfig

__all__ = ["ConformerConfig", "Encoder", "EncoderConfig", "EnsembleConfig", "LinearRecurrenceConfig"]
__all__ += ["LookaheadsConfig", "MlpConfig", "RecurrentConfig", "ResidualCnnConfig", "SplitShareConfig", "TdsConfig"]
__all__ += ["TransformerConfig"]
