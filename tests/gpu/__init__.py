"""What only a GPU can show: `make gpu` (see __main__.py)."""
