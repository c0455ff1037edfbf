"""The users, and how the bands sit on their forearms in one session."""

from dataclasses import dataclass, replace

import numpy as np

from emgscribe.simulation.arrays import HANDS, Float32, Rng
from emgscribe.simulation.config import SimulationConfig
from emgscribe.simulation.electrodes import Fibres, Ring
from emgscribe.simulation.keyboard import LEFT
from emgscribe.simulation.motor_units import MotorUnits
from emgscribe.simulation.muscles import NUM_MUSCLES, POSITIONS, MotorHabits
from emgscribe.simulation.typist import Habits

_ELECTRODE = 2 * np.pi / 16  # radians between the electrodes of a published band
_PERSON_STREAM = 0x9E37

# Standard deviations between people at `users_differ` 1; for the radius, the fat and the depths, of the logarithm.
_ARM_SIZE, _FAT, _DEPTH, _MUSCLE_DEGREES, _ZONE_MM = 0.12, 0.45, 0.45, 18.0, 18.0
_WORN_ELECTRODES, _WORN_MM = 1.2, 9.0  # where a person usually wears the band: around and along the arm
# Standard deviations between the donnings of a person at `redonning` and `difficulty` 1.
_AGAIN_ELECTRODES, _AGAIN_MM, _AGAIN_GAIN = 0.72, 3.6, 0.18
# Standard deviations between the motor units of a muscle in mm.
_UNIT_DEPTH, _UNIT_SIDEWAYS, _UNIT_ZONE, _UNIT_LENGTH = 1.2, 2.5, 8.0, 10.0
# In mm. Innervation zones lie between band and elbow; fibres end under the band or a little beyond it.
_ZONE, _TOWARDS_HAND, _TOWARDS_ELBOW = -38.0, 55.0, 50.0
_DISPERSION, _UNIT_DISPERSION = 0.0013, 1.1  # s, and standard deviation of its logarithm: fitted to recorded spectra


@dataclass(frozen=True)
class Forearm:
    """One forearm: its motor units, their fibres, and where its owner usually wears the band."""

    units: MotorUnits
    fibres: Fibres
    motor_habits: MotorHabits
    usual: Ring

    @classmethod
    def of_user(cls, hand: int, rng: Rng, config: SimulationConfig) -> "Forearm":
        """A random forearm; with `users_differ` 0, only the scatter of units within a muscle is random."""
        spread = config.users_differ
        units = MotorUnits.pools(config.units_per_muscle, rng)
        radius = config.wrist_radius * float(np.exp(_ARM_SIZE * spread * rng.standard_normal()))
        fat = config.fat_thickness * float(np.exp(_FAT * spread * rng.standard_normal()))
        angles = np.deg2rad(POSITIONS[:, 0] + _MUSCLE_DEGREES * spread * rng.standard_normal(NUM_MUSCLES))
        depths = POSITIONS[:, 1] * np.exp(_DEPTH * spread * rng.standard_normal(NUM_MUSCLES))
        zones = _ZONE + _ZONE_MM * spread * rng.standard_normal(NUM_MUSCLES)
        scatter = rng.standard_normal((6, len(units.size)))
        inner = np.clip(radius - fat - depths[units.muscle] - _UNIT_DEPTH * scatter[0], 2.0, radius - fat - 0.5)
        fibres = Fibres(
            # The arms mirror each other; the electrodes of both bands are numbered in the same direction.
            angle=(-1 if hand == LEFT else 1) * (angles[units.muscle] + _UNIT_SIDEWAYS * scatter[1] / inner),
            radius=inner,
            innervation=zones[units.muscle] + _UNIT_ZONE * scatter[2],
            towards_hand=np.clip(_TOWARDS_HAND + _UNIT_LENGTH * scatter[3], 15, None),
            towards_elbow=np.clip(_TOWARDS_ELBOW + _UNIT_LENGTH * scatter[4], 15, None),
            # Conduction is faster in large units (Andreassen and Arendt-Nielsen 1987).
            velocity=1000 * config.conduction_velocity * (0.9 + 0.2 * units.threshold / units.threshold.max()),
            dispersion=_DISPERSION * np.exp(_UNIT_DISPERSION * scatter[5]),
        )
        motor_habits = MotorHabits.of_user(rng, spread)
        rotation = float(_WORN_ELECTRODES * spread * _ELECTRODE * rng.standard_normal())
        along = float(_WORN_MM * spread * rng.standard_normal())
        return cls(units, fibres, motor_habits, Ring(radius, rotation, along, config.pole_distance, config.electrodes))

    def don(self, rng: Rng, config: SimulationConfig) -> tuple[Ring, Ring, Float32]:
        """How the band sits at the start and, after the slip, at the end of a session; the electrodes' gains."""
        again = config.redonning * config.difficulty
        rotation = self.usual.rotation + _AGAIN_ELECTRODES * again * _ELECTRODE * rng.standard_normal()
        along = self.usual.along + _AGAIN_MM * again * rng.standard_normal()
        slipped = config.slip * config.difficulty * _ELECTRODE * rng.standard_normal()
        gains = np.exp(_AGAIN_GAIN * again * rng.standard_normal(config.electrodes)).astype(np.float32)
        first = replace(self.usual, rotation=rotation, along=along)
        return first, replace(first, rotation=rotation + slipped), gains


def draw_person(user: int, config: SimulationConfig) -> tuple[Habits, list[Forearm]]:
    """What stays the same in all sessions of a user; the seed of the sessions does not matter."""
    rng = np.random.default_rng([_PERSON_STREAM, user])
    return Habits.of_user(rng, config.users_differ), [Forearm.of_user(hand, rng, config) for hand in range(HANDS)]
