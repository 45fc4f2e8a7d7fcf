"""Generators of pairs, each of one kind: files, what reads them, and what has to come of it."""
