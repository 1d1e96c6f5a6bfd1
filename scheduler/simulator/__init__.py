"""Traces of real clusters, run against the scheduler in virtual time."""
