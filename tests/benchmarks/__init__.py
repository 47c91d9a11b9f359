"""Benchmarks: figures and ratios to bare loops, TRL and bare vLLM; never tests with a clock. `make bench` runs them."""
