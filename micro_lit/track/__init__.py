"""The record of a command: curves while it runs and one `RunRecord` in the end, for every logger of its settings.

A logger implements `Logger`, or `Recorder` beside a logger of Lightning; whatever fails in it, the run goes on.
"""

from micro_lit.track.contract import Logger, Recorder
from micro_lit.track.loggers import Loggers, publish
from micro_lit.track.record import Artifact, RunRecord

__all__ = ["Artifact", "Logger", "Loggers", "Recorder", "RunRecord", "publish"]
