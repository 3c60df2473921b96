"""The exceptions of this package. A peer's fault is never one of them: it is a `Violation`."""


class MultiFDError(Exception):
    """Base of all exceptions that this package raises on purpose."""


class CaptureError(MultiFDError):
    """The input is not a capture that can be read: says file, place, value seen and demanded."""


class CatalogueError(MultiFDError):
    """The requirement catalogue in `spec/` contradicts itself or the code."""


class PeerError(MultiFDError):
    """A live peer could not be started, reached or understood."""
