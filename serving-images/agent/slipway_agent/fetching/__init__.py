"""One version on its way from its source to the repository, and the cache that replicas share."""
