"""Tokenizers, packed rows of tokens, and the chat template."""
