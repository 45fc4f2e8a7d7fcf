"""Irreducible error: what a predictor of a given kind can never do better than."""
