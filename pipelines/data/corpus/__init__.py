"""Corpora: documents, filters, fuzzy deduplication, and the held-out split."""
