"""Settings of a simulation."""

from dataclasses import dataclass
from typing import Annotated, Literal

from emgscribe.config import Range, Settings, Share
from emgscribe.data.shape import Band, Shape
from emgscribe.errors import EmgscribeError
from emgscribe.simulation.text import Prompts, prompts_of_text

Scale = Annotated[float, Range(0, 4)]
Level = Annotated[float, Range(0, 100)]


@dataclass(frozen=True)
class SimulationConfig(Settings):
    """The typist, the forearms and the bands of a simulation.

    `difficulty` multiplies the settings that make decoding hard: `redonning`, `slip`, `noise`, `hum`,
    `artefacts_per_minute`, `poor_contact` and `band_offset`, and how much muscle activity varies from press to press.
    What is typed, and when, does not depend on it.
    """

    section = "simulation"

    prompts: Prompts = "words"  # words: as in the data set; mixed: sentences with capitals, digits and punctuation
    keys_per_second: Annotated[float, Range(0.5, 12)] = 4.4  # typing rate in keys/s, with pauses; mean over users
    difficulty: Scale = 1.0  # scales all that makes decoding hard; 0: a clean laboratory, 2: a bad day
    typo_rate: Annotated[float, Range(0, 0.3)] = 0.028  # typos per character of the text
    users_differ: Annotated[float, Range(0, 2)] = 1.0  # how much users differ in body, habits and placement
    wrist_radius: Annotated[float, Range(15, 50)] = 28.0  # radius of the forearm under the band in mm
    fat_thickness: Annotated[float, Range(0.5, 15)] = 3.5  # thickness of fat and skin in mm
    conduction_velocity: Annotated[float, Range(2, 6)] = 4.2  # speed of action potentials along fibres in m/s
    units_per_muscle: Annotated[int, Range(4, 200)] = 80  # simulated motor units in each of the 20 muscles
    pole_distance: Annotated[float, Range(2, 40)] = 17.5  # distance between an electrode's poles, along the arm, in mm
    redonning: Scale = 1.0  # change of placement between sessions of a user; 0: the band is never taken off
    slip: Annotated[float, Range(0, 2)] = 0.1  # rotation in a session, in electrode spacings (standard deviation)
    noise: Level = 1.3  # root mean square of one electrode's noise in µV
    hum: Level = 0.5  # amplitude of the mains hum in µV
    mains_frequency: Annotated[float, Range(40, 70)] = 60.0  # frequency of the hum in Hz
    artefacts_per_minute: Annotated[float, Range(0, 60)] = 1.0  # mean number of movement artefacts per band
    poor_contact: Share = 0.01  # share of the electrodes that lose contact for part of a session
    band_offset: Annotated[float, Range(0, 0.2)] = 0.02  # clock offset between the bands in s (standard deviation)
    bands: tuple[Band, ...] = ("left", "right")  # bands that are worn: left, right or both
    electrodes: Annotated[int, Range(1, 64)] = 16  # electrode channels around each band
    sample_rate: Literal[2000, 1000, 500, 400, 250, 200] = 2000  # samples a second
    highpass: Annotated[float, Range(1, 200)] = 40.0  # cut-off frequency of the band's high-pass filter in Hz
    text: str = ""  # text to type, one line per prompt, repeated to the end; empty: made-up prompts

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text:
            prompts_of_text(self.text)  # raises for what cannot be typed
        _ = self.shape  # raises for bands in another order

    @property
    def shape(self) -> Shape:
        """The shape of the recordings."""
        return Shape(self.bands, self.electrodes, float(self.sample_rate))


def like(shape: Shape) -> SimulationConfig:
    """The settings for recordings of a shape. One that cannot be simulated raises `EmgscribeError`."""
    try:
        # The settings check the rate themselves.
        return SimulationConfig(bands=shape.bands, electrodes=shape.electrodes, sample_rate=int(shape.rate))  # type: ignore[arg-type]
    except EmgscribeError as error:
        hint = "choose a model of a shape that can be simulated, or another source"
        raise EmgscribeError(f"{shape} cannot be simulated ({error.what})", hint=hint) from error
