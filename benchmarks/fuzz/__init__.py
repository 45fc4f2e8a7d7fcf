"""A seeded, bounded fuzzer of the commands: settings, restored run folders, feature stores, data.

Each case declares its expected outcome (`cases.Expect`), so that a traceback fails, and so does the silent success of
an invalid case. Cases run in forked child processes: torch is imported only once, and cases do not affect each other.
"""
