"""How it is learned, over whole texts: estimators of the sequence gradient, exact by enumeration.

``trees`` holds the policies, ``table`` a gradient a sequence, ``estimators`` the ways to fill
it, ``independent`` what needs no tree.  All their public names are here.
"""

from opd_toy.sequences.estimators import *
from opd_toy.sequences.estimators import __all__
