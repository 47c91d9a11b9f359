"""The guard: rules and a small classifier that decline unsafe requests and replies."""
