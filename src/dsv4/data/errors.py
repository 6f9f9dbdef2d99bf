"""What can be wrong with text and with what was made of it."""


class DataError(ValueError):
    """Data that cannot be read or trained on: the message names the file and the remedy."""


class CorpusError(OSError):
    """A source that could not be fetched or unpacked: the message says what to do."""
