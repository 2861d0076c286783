"""The model servers that the agent stands beside: one module or package each, `by_runtime` alone knows them all."""
