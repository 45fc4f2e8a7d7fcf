"""Generators of data cases, one per kind: files, overrides that read them, and the expected result."""
