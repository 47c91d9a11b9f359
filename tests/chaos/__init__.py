"""Proofs that need more than pytest may ask of a machine: real nodes that are really lost. Run by hand, as root."""
