"""Asking the system what changed since the last pass, instead of reading everything again.

Nothing is trusted for it: what a tracker calls unchanged is sampled in each pass, and a mismatch means a full pass.
"""
