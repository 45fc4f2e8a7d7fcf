"""micro_lit: reward models for people who disagree."""

__version__ = "0.1.0"
