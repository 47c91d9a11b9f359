"""Recipes: everything a user may change, read strictly from one YAML file."""
