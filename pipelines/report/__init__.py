"""The report on a run: its facts and figures, the terminal table, and a self-contained page with plots."""
