"""Calling a loss on sequences, whatever its axes and its mask."""

import numpy as np
import torch

from opd_toy.audit import calling, formats
from opd_toy.audit.calling import AuditError, NoGradient, gradient_of
from opd_toy.audit.ways import TEXTS, as_way


class SequenceCall:
    """The loss with its axes and mask put right; remembers what all calls had in common.

    ``count`` calls were made, ``without_gradient`` of them had none (``no_gradient`` is the
    last one's error); ``touched``: names of inputs that the loss wrote into.
    """

    def __init__(self, loss, batched):
        self.loss, self.batched = as_way(loss, TEXTS, batched=batched), batched
        self.arguments = self.loss.count
        self.takes_mask = self.arguments == 4
        self.count, self.without_gradient, self.no_gradient = 0, 0, None
        self.touched, self.teacher_gradient = set(), False
        self.probe = _probe(batched)
        self.mask_type, self.first = self._try_out()

    def __call__(self, student, teacher, tokens, mask=None):
        """-> Called; arrays (T, V) and (T,), or with a batch axis where ``batched``."""
        self.count += 1
        rest = self._rest(tokens, mask)
        return gradient_of(self.loss, student, teacher, *rest)

    def one(self, student, teacher, tokens, mask=None):
        """(value, gradient (T, V)) of one sequence; gradient 0 where none reaches the student."""
        arguments = [student, teacher, tokens, mask]
        if self.batched:
            arguments = [None if a is None else np.asarray(a)[None] for a in arguments]
        value, gradient = self.several(*arguments)
        return value, gradient[0] if self.batched else gradient

    def texts(self, *inputs):
        """The gradient (B, T, V) of texts (B, T, V) that the loss takes together; B = 1 of one."""
        return self.valued(*inputs)[1]

    def valued(self, *inputs):
        """(value, gradient (B, T, V)) of the same: student, teacher, tokens and mask."""
        if self.batched:
            return self.several(*inputs)
        value, gradient = self.several(*(x[0] for x in inputs))
        return value, gradient[None]

    def several(self, student, teacher, tokens, mask=None):
        """The same with the loss's own axes."""
        try:
            called = self(student, teacher, tokens, mask)
        except NoGradient as error:
            self.without_gradient, self.no_gradient = self.without_gradient + 1, error
            return np.nan, np.zeros(np.shape(student))
        self.touched |= set(called.touched)
        self.teacher_gradient |= called.reaches_teacher
        return called.value, called.student_gradient

    def formats_inside(self):
        """Names of the formats in which arrays inside the loss are computed."""
        student, teacher, tokens = self.probe
        return formats.formats_inside(self.loss, student, teacher, *self._rest(tokens))

    def format_by_rounding(self):
        """The name of the format whose rounding shows in the gradient, in scalars too."""
        student, teacher, *rest = self.probe
        away = np.cos(np.arange(np.size(student))).reshape(np.shape(student))

        def numbers_at(step):
            return self.several(student + step * away, teacher - step * away, *rest)[1].ravel()

        return formats.by_rounding(numbers_at)

    def check_unchanged(self):
        """AuditError where the first call, made again, gives something else."""
        if self.first:
            self._probed(calling.check_unchanged, self.first)

    def _rest(self, tokens, mask=None, mask_type=None):
        """The arguments after the logits, as tensors: as many as the loss takes."""
        tokens = torch.as_tensor(np.array(tokens, dtype=np.int64))
        mask = np.ones(tokens.shape) if mask is None else np.asarray(mask)
        mask = torch.as_tensor(mask.astype(mask_type or self.mask_type))
        return [tokens, mask][: self.arguments - 2]

    def _probed(self, check, *before, mask_type=None):
        student, teacher, tokens = self.probe
        rest = self._rest(tokens, mask_type=mask_type)
        return check(self.loss, *before, student, teacher, *rest)

    def _try_out(self):
        """(type of mask that the loss takes, Called or None where the probe has no gradient).

        AuditError for a loss that cannot be called, or gives another result every time.
        """
        refusals = []
        for mask_type in (bool, np.float64) if self.takes_mask else (bool,):
            try:
                first = self._probed(calling.check_deterministic, mask_type=mask_type)
                return mask_type, first
            except NoGradient:
                return mask_type, None  # perhaps this sequence alone; all are tried
            except AuditError as error:
                refusals.append(error)
        raise refusals[0] from refusals[0].__cause__


def _probe(batched):
    """Logits and tokens of one sequence; of two where ``batched``.

    Some losses divide by what a batch of one does not have, such as its spread.
    """
    student, teacher = np.random.default_rng(0).standard_normal((2, 3, 3))
    arrays = student, teacher, np.array([0, 2, 1])
    return [np.stack([x, x[::-1]]) for x in arrays] if batched else list(arrays)
