"""The store: immutable artifacts, the drafts they are made in, leases, digests, lineage and records of runs."""
