"""Which errors of a service may pass."""

from __future__ import annotations

#: Timeout, too many requests, and what a gateway answers when the service behind it does not.
STATUS_CODES = frozenset({408, 425, 429, 500, 502, 503, 504})
#: Of the package requests, through which services are reached; they are not Python's own of these names.
NETWORK_ERRORS = frozenset({"ConnectionError", "ConnectTimeout", "ReadTimeout", "Timeout", "ChunkedEncodingError"})


def is_transient(error: BaseException) -> bool:
    """Whether an error of a job, or what caused it, is of the network or of a service that is busy.

    Example:
        >>> is_transient(ValueError("the circuit is wrong"))
        False
    """
    cause: BaseException | None = error
    while cause is not None:
        if getattr(cause, "status_code", None) in STATUS_CODES or isinstance(cause, ConnectionError | TimeoutError):
            return True
        kinds = type(cause).__mro__
        if any(k.__module__.startswith("requests.") and k.__name__ in NETWORK_ERRORS for k in kinds):
            return True
        cause = cause.__cause__
    return False
