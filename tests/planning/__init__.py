"""Tests of pipelines/planning."""
