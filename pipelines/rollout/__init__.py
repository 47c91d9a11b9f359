"""Getting tokens and log-probabilities out of a model: what is asked, the engine that answers, the proof of its weights."""
