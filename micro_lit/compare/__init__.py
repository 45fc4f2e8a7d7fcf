"""Comparison of systems on the same rows of the same subjects, with the same labels to learn from.

A system returns log-probabilities of comparisons. A subject is an attribute or a user, with codes of its own.
"""
