"""The pictures of a report, one question a module; each gives a figure, or ``None`` where there is nothing to show."""

from .breakdown import waterfall
from .flow import gap_distributions
from .hints import reliability_diagram
from .programs import other_programs
from .rounds import timeline
from .speed import speed_against_round_trip, speed_by
from .style import svg

__all__ = [
    "gap_distributions",
    "other_programs",
    "reliability_diagram",
    "speed_against_round_trip",
    "speed_by",
    "svg",
    "timeline",
    "waterfall",
]
