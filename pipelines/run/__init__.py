"""A run: one walk of one recipe, planned, metered, and shown while it works."""
