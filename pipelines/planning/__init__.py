"""What a recipe would cost, before anything runs: memory of a rank, disk, time, and whether it fits the nodes.

config.json ──meta tensors──► parameters ─┐
options, sizes of the sources ──► tokens ─┼──► Estimate of each stage that trains ──► `rayse plan`
--nodes 1x8xH100, or this machine ────────┘
"""
