"""Single bits flipped on the wire, in state and on the target."""
