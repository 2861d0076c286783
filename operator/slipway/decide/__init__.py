"""Snapshot + spec + what the rollout remembers → Plan: which workload carries which revision, pods, weights, and why.

Invariant: the same arguments give the same plan; time comes in as `now`.
Must not import: render, report, controller. Pure.
"""
