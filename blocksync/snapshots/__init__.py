"""Making a source stand still, for as long as it takes to look at it."""
