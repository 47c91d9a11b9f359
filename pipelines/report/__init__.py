"""The report card of a run: figures, a table, and a self-contained page with plots."""
