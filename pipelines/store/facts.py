"""Facts: the figures an artifact carries in its manifest."""

Facts = dict[str, float | int | str]
"""Flat figures of an artifact, named `area/what_unit`: {"train/loss_nats": 3.1, "documents/kept": 1200}."""
