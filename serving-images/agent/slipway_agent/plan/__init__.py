"""The agent's whole judgement: what to do next. Pure: no I/O, no clock, no log; imports `config` and `model` alone."""
