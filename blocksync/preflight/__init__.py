"""What can be known before a transfer: findings, each with a code that stays, and a remedy."""
