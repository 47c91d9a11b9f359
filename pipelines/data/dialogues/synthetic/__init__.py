"""Rows that a model writes: prompts for it, rules on what it answers, and the files of the result."""
