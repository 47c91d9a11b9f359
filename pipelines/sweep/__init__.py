"""A sweep of a recipe: its record, its trials under Ray Tune."""
