"""Getting tokens and log-probabilities out of a model: the engine that answers, and the proof of its weights."""
