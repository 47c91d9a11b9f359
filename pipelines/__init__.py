"""What happens: recipes, stages, artifacts, and the crafts that stages are made of."""
