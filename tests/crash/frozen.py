"""Imported last by the server that lives are forked from: what is in memory by then is no garbage.

The product collects garbage once when it starts. In a forked process that would look at, and so copy, every page that
it shares with all others: two thirds of what a start costs.
"""

import gc

gc.collect()
gc.freeze()
