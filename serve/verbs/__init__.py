"""The verbs `rayse serve` and `rayse chat`."""
