"""Experiments that need root: real nodes that are really lost. Run by hand; pytest runs only the tests among them."""
