"""emgscribe: the text that the wearer of two EMG wristbands types.

Importing the package is cheap on purpose: each stage is a module of its own (`emgscribe.data.hdf5`,
`emgscribe.models.model`, ...), and the heavy ones are loaded when they are asked for.
"""

from importlib.metadata import version

from emgscribe.errors import EmgscribeError

__all__ = ["EmgscribeError", "__version__"]
__version__ = version("emgscribe")
