"""Planted bugs: small patches that break one promise each, and the tests that must notice. See docs/RELIABILITY.md."""
