"""Contracts of asking servers. No torch."""

from foundation.contracts import contract


@contract
class Patience:
    """How long one request to a server is tried.

    tries: of one request. first: seconds before the second, doubled each time up to `most`.
    longest: the longest wait in seconds that a server may ask for. timeout: seconds without a byte.
    whole: seconds for one answer. bytes: most of one answer.
    """

    tries: int = 5
    first: float = 1.0
    most: float = 60.0
    longest: float = 300.0
    timeout: float = 30.0
    whole: float = 300.0
    bytes: int = 8 << 20
