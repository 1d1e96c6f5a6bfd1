"""Benchmarks, compared within one run: `python -m tests.bench [NAME...]` prints JSON and a table."""
