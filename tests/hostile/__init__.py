"""Hostile peers: what they say, send and ask for does nothing."""
