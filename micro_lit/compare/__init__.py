"""The comparison: systems judged on the same rows of the same subjects, with the same labels to learn from.

A system is whatever gives log-probabilities of comparisons, a subject is whoever or whatever has codes of its own.
"""
