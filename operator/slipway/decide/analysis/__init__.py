"""How a canary is judged by what was counted: accumulators, e-values, and the verdict that they make.

Invariant: counts are differences of raw counters; no data is never success.
Must not import: anything that observes, renders or writes. Pure.
"""
