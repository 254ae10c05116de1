"""On-policy distillation made exact.

``distributions`` holds probabilities and divergences, ``objectives`` says what is
learned, ``estimators`` how it is learned at one position, ``sequences`` over whole
sequences.  The numpy core imports nothing else.
"""
