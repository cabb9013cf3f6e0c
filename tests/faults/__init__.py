"""Faults of real processes: ``python -m tests.faults`` kills them and makes their system calls fail."""
