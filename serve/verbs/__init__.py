"""`rayse serve` and `rayse chat`."""
