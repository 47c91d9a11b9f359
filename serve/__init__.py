"""What users meet: a raised model behind an OpenAI-compatible API, a chat page, and in the terminal."""
