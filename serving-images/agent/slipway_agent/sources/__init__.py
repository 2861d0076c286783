"""Where model versions come from: one module each; `by_scheme` says which URI leads to which."""
