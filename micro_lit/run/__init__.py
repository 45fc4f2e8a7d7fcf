"""A run: built from settings, trained in workers, kept in one folder, restored from it; and sweeps of many runs."""

from micro_lit.host.lazy import lazy

__getattr__, __all__ = lazy(
    __name__,
    {
        "callbacks": ["Preemption", "StepLine"],
        "sweeps": ["Sweep"],
    },
)
