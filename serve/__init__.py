"""What users meet: a raised model behind an OpenAI-compatible API, and in the terminal. Not written yet."""
