"""Who splits the traffic, and how: weights → objects, objects → weights in force.

`router`: Envoys of ours; `replicas`: the ratio of ready pods. Neither decides who gets how much: `rollout` does.
Pure.
"""
