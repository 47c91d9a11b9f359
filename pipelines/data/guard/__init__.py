"""The guard: a small classifier and word lists that decline unsafe requests and replies."""
