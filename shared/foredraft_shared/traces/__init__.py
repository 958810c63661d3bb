"""What happened when: one record a round, written by the edge while it runs, and what can be made of it afterwards.

:mod:`.records` says what a trace holds, :mod:`.writer` writes it, :mod:`.reader` reads it back, :mod:`.timeline` lays
edge, link and cloud side by side on the edge's clock, :mod:`.chrome` draws that for Perfetto, and :mod:`.summary` adds
it up.
"""

from .reader import Trace, read_trace
from .records import HintRecord, RoundRecord, TraceHeader
from .writer import TraceWriter

__all__ = ["HintRecord", "RoundRecord", "Trace", "TraceHeader", "TraceWriter", "read_trace"]
