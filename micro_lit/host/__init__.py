"""Utilities for the host machine: files, SQLite, processes, signals, threads, devices. Independent of reward models."""
