"""A seeded, bounded fuzzer of the commands: settings, restored run folders, feature stores, data.

Each case declares what has to come of it (`cases.Expect`), so that neither a traceback nor a silent success of nonsense
counts as done. Cases run in forked children: torch is imported once, and no case sees what another has left.
"""
