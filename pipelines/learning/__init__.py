"""How a model learns: losses (pure), packed batches, schedules, the DeepSpeed engine and the loop around it. No Ray."""
