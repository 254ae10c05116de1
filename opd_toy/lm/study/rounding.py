"""Numbers as a record has them."""

import math


def rounded(value, digits=5):
    """Numbers of nested lists and dicts to so many digits; what is not finite becomes None."""
    if isinstance(value, dict):
        return {key: rounded(each, digits) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(each, digits) for each in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value
