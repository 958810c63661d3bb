"""What a device is: profiles of known ones, finding out which one this is, and what its sensors say.

Imports nothing of the rest of foredraft, so that a robot's own software can use it alone.
"""

from .probe import Device, probe
from .profiles import Profile, profiles
from .telemetry import Reading, read_sensors

__all__ = ["Device", "Profile", "Reading", "probe", "profiles", "read_sensors"]
