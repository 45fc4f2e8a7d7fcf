"""The machine: files, databases, processes, signals, threads and devices. Nothing of reward models."""
