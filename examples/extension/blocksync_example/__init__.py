"""A source and a target for blocksync, as another package would add them."""
