"""What the losses of public trainers optimise: by their own code, or as read.

One module a library: an adapter for every function audited, and the options it is audited
with.  An adapter brings one position (or one text) into the shapes that the library wants,
calls the library, and returns its loss.  Nothing of a library is written again here; where
a function is a method, it gets a plain namespace in the place of its trainer, and where its
file imports more than the loss needs, ``loading`` puts stand-ins there.  ``as_read`` and
``as_read_drawn`` are readings of code that is not to be had as a package; ``old_texts`` has
losses with a third model, by their own code and as read.

``record`` audits them all, ``measurements`` checks what the chapter says of them beside the
verdicts, ``settings`` says which setting of which library does what, ``index`` puts the
verdicts into words, ``differences`` compares two records.
``python -m opd_toy.audit.exhibits.libraries`` prints the record of figures/, ``--record``
makes it anew with the libraries of ``make peers``; ``make audit-peers`` does both.
``--against OLD.json`` says what changed since an older record.
"""
