"""The error of a data set that cannot be used as asked."""


class DatasetError(ValueError):
    """A data set is unknown, not prepared, unsuitable or too large. The message says what to do."""
