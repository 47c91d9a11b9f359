"""Tokens and log-probabilities from a model: the vLLM sampler, the probe of its weights, what a reply is."""
