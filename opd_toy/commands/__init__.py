"""One module a command of ``python -m opd_toy``."""
