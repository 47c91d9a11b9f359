"""Plain text: normalisation, languages, and statistics of its quality."""
