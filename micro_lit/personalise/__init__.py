"""Profiles of single people: labels in, weights over the heads of a run and ranked responses out."""
