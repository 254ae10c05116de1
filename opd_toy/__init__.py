"""On-policy distillation made exact.

When a method "changes the KL", does it change what is learned, or how it is learned?

What is learned    ``objectives``: a number and its gradient in the student's logits
How it is learned  ``estimators`` at one position, ``off_policy`` where another policy drew the
                   token, ``sequences`` over whole texts: tables that hold the gradient
                   applied for each outcome
In what framework  ``lm``: the same losses on a transformer

``distributions`` has the probabilities below them and ``example`` the book's own pair.  These
need numpy only; ``derivations`` prove their formulas, and ``audit`` tells of any loss what it
optimises.
"""
