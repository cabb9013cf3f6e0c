"""``blocksync demo``: the whole story on loopback, told by real processes on a sample disk."""
