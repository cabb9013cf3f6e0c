"""The real landing, store, manifest and journal over simulated disks that crash. See docs/RELIABILITY.md."""
