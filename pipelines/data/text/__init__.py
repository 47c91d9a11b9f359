"""Plain text: normalising, languages, and measures of its quality."""
