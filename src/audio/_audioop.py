"""``audioop``, without the warning of its deprecation. From Python 3.13 on the package audioop-lts has it."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

__all__ = ["audioop"]
