"""Text in, tables out: sources, filters, dedup, packing. Plain functions on text and Arrow tables; no Ray, no torch."""
