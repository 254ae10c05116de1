"""What the distillation losses of TRL, Liger, verl and tinker-cookbook optimise, by their own code.

One module a library: an adapter for every function audited, and the options it is audited
with.  An adapter brings one position (or one text) into the shapes that the library wants,
calls the library, and returns its loss.  Nothing of a library is written again here; where
a function is a method, it gets a plain namespace in the place of its trainer.

``record`` audits them all, ``measurements`` checks what the chapter says of them beside the
verdicts, ``settings`` says which setting of which library does what.
``python -m opd_toy.audit.exhibits.libraries`` prints the record of figures/, ``--record``
makes it anew with the libraries of ``make peers``; ``make audit-peers`` does both.
"""
