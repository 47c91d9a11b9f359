"""Tokenizers, sequence packing, and the chat template."""
