"""The guard: rules, a small classifier and an encoder that decline unsafe requests and replies."""
