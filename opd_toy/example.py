"""The example that the whole book computes on: the notes' two distributions, and two small trees.

At one position three tokens t1, t2, t3, drawn by the student with STUDENT and wanted by the
teacher with TEACHER: t1 is too rare, t3 too frequent, t2 a little too frequent.  Over two
positions, STUDENT_TREE and TEACHER_TREE begin with this pair and go on as chapter 6 has it.
"""

import numpy as np

from opd_toy.sequences.trees import TokenTree

STUDENT = np.array([0.2, 0.3, 0.5])
TEACHER = np.array([0.7, 0.2, 0.1])
TOKENS = ("t₁", "t₂", "t₃")

STUDENT_TREE = TokenTree(
    (
        np.log([STUDENT]),
        np.log([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3]]),
    )
)
TEACHER_TREE = TokenTree(
    (
        np.log([TEACHER]),
        np.log([[0.5, 0.4, 0.1], [0.8, 0.1, 0.1], [0.3, 0.3, 0.4]]),
    )
)

for _array in (STUDENT, TEACHER):
    _array.setflags(write=False)  # everybody shares it
