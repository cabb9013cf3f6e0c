"""Benchmarks for people: ``python -m benchmarks.compare``. See benchmarks/README.md."""
