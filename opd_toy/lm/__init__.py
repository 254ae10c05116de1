"""The lab: the losses of the book on language models, in torch.

Import its modules by name, ``opd_toy.lm.losses`` first; the numpy core needs none of them.
"""
