"""Hyperparameter sweeps: trials side by side under Ray Tune, and their record."""
