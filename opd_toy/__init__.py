"""On-policy distillation made exact.

``distributions`` holds probabilities and divergences, ``objectives`` says what is
learned, ``estimators`` how it is learned.  The numpy core imports nothing else.
"""
