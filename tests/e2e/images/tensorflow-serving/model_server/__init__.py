"""A stand-in for TensorFlow Serving's model server, for tests only. See the README beside it."""
