"""A run of a recipe: its plan, its execution, its cost and its log."""
