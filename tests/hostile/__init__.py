"""Hostile peers and strangers; ``python -m tests.hostile flood`` measures what ten thousand sockets cost a transfer."""
