"""In place of pandas, which MLServer imports for a codec of data frames that ONNX models have no use for.

The real one would be a third of the image (46 MB), 33 MiB of memory and half of the start.
"""


class Series:
    """A name for MLServer's annotations."""


class DataFrame:
    """A name for MLServer's annotations; nothing is ever one."""
