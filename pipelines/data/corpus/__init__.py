"""Corpora: documents, filters, near-duplicates, and the held-out split."""
