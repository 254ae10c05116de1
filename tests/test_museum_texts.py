"""The museum's exhibits on whole texts: wrong in just the way its ``mistake`` says.

All texts of a small tree are enumerated and differentiated by autograd; what comes out is
compared with the gradient of the KL between the laws of whole texts.
"""

import itertools

import numpy as np
import pytest
import torch

from opd_toy.audit import audit_sequence
from opd_toy.audit.exhibits import museum
from opd_toy.distributions import log_softmax, softmax
from opd_toy.objectives import reverse_kl_logit_gradient
from tests.test_museum import close

pytestmark = pytest.mark.usefixtures("one_thread")

# ---- what the auditor says, which sees nothing but the code ----

VERDICTS_ON_TEXTS = {
    museum.sum_over_tokens: ("sum of local reverse KLs", None),
    museum.mean_over_tokens: ("1/T × sum of local reverse KLs", None),
    museum.padding_in_reward_to_go: (
        "sequence reverse KL where nothing is masked",
        "what masked positions hold changes the gradient of the valid ones",
    ),
    museum.mask_forgotten_in_the_return: (
        "sequence reverse KL where nothing is masked",
        "masked positions get a gradient",
    ),
    museum.masked_reward_to_go: ("sequence reverse KL", None),
}


@pytest.mark.parametrize("loss", VERDICTS_ON_TEXTS, ids=lambda loss: loss.__name__)
def test_the_auditor_tells_wrong_from_right_on_whole_texts(loss):
    verdict, finding = VERDICTS_ON_TEXTS[loss]
    report = audit_sequence(loss)
    assert report.optimises == verdict
    broken = [edge["finding"] for edge in report.edges if edge["severity"] == "broken"]
    assert len(broken) == (finding is not None) and all(
        found.startswith(finding) for found in broken
    ), broken


# ---- enumerated ----


def tree(vocabulary, length, seed):
    """Logits of the next token after every prefix: {prefix: (V,)}."""
    random = np.random.default_rng(seed)
    return {
        prefix: random.normal(0, 1, vocabulary)
        for t in range(length)
        for prefix in itertools.product(range(vocabulary), repeat=t)
    }


def leaves(logits):
    return {prefix: torch.tensor(z, requires_grad=True) for prefix, z in logits.items()}


def gradient_of(value, parameters):
    found = torch.autograd.grad(
        value, list(parameters.values()), allow_unused=True, materialize_grads=True
    )
    return torch.cat(found).numpy()


def everywhere(t):
    return True


def over_texts(loss, student, teacher, length, mask_of=None, written=everywhere):
    """Expected gradient in the logits after every prefix.

    ``mask_of(tokens)`` is the mask of a text; ``written(t)`` says whether position t is drawn
    from the student, else its token comes with equal chances from elsewhere.
    """
    vocabulary, parameters = len(student[()]), leaves(student)
    total = 0
    for tokens in itertools.product(range(vocabulary), repeat=length):
        z = torch.stack([parameters[tokens[:t]] for t in range(length)])
        q = torch.tensor(np.array([teacher[tokens[:t]] for t in range(length)]))
        chances = [
            softmax(student[tokens[:t]])[token] if written(t) else 1 / vocabulary
            for t, token in enumerate(tokens)
        ]
        rest = [] if mask_of is None else [torch.tensor(mask_of(tokens))]
        total = total + np.prod(chances) * loss(z, q, torch.tensor(tokens), *rest)
    return gradient_of(total, parameters)


def text_kl_gradient(student, teacher, length, end=None, written=everywhere):
    """Of the KL between the laws of whole texts, by autograd through the product of chances.

    A text is over after token ``end``; positions that the student has not ``written`` have one law.
    """
    vocabulary, parameters = len(student[()]), leaves(student)
    total = 0
    for tokens in itertools.product(range(vocabulary), repeat=length):
        last = tokens.index(end) + 1 if end in tokens else length
        if any(token != 0 for token in tokens[last:]):
            continue  # one padded writing of each text
        log_chance, cost = torch.zeros((), dtype=torch.float64), 0.0
        for t in range(last):
            if not written(t):
                log_chance = log_chance - np.log(vocabulary)
                continue
            log_p = torch.log_softmax(parameters[tokens[:t]], -1)[tokens[t]]
            log_chance = log_chance + log_p
            cost = cost + log_p - log_softmax(teacher[tokens[:t]])[tokens[t]]
        total = total + log_chance.exp() * cost
    return gradient_of(total, parameters)


def test_a_sum_over_tokens_is_the_mean_times_the_length():
    for length in (2, 3):
        student, teacher = tree(2, length, 1), tree(2, length, 2)
        by_sum, by_mean = (
            over_texts(loss, student, teacher, length)
            for loss in (museum.sum_over_tokens, museum.mean_over_tokens)
        )
        close(by_sum, length * by_mean)
        # each is a sum or mean of the local reverse KLs at the prefixes visited
        root = by_mean[:2] * length
        close(root, reverse_kl_logit_gradient(softmax(student[()]), softmax(teacher[()])))


END = 1  # the token after which a text is padding


def valid(tokens):
    last = tokens.index(END) + 1 if END in tokens else len(tokens)
    return [1.0] * last + [0.0] * (len(tokens) - last)


def test_padding_in_the_reward_to_go_biases_it_and_the_mask_mends_it():
    student, teacher = tree(2, 4, 3), tree(2, 4, 4)
    right = over_texts(museum.masked_reward_to_go, student, teacher, 4, valid)
    wrong = over_texts(museum.padding_in_reward_to_go, student, teacher, 4, valid)
    exact = text_kl_gradient(student, teacher, 4, end=END)
    close(right, exact, scale=1)
    assert np.abs(wrong - exact).max() > 0.05 * np.abs(exact).max()


def test_what_stands_in_the_padding_changes_the_wrong_one_only():
    random = np.random.default_rng(5)
    logits, teacher = random.normal(0, 1, (2, 5, 4))
    tokens, mask = torch.tensor([2, 0, 1, 3, 3]), torch.tensor([1.0, 1, 1, 0, 0])
    for loss, immune in (
        (museum.masked_reward_to_go, True),
        (museum.padding_in_reward_to_go, False),
    ):
        gradients = []
        for garbage in (0.0, 7.0):
            z = torch.tensor(logits, requires_grad=True)
            q = torch.tensor(teacher)
            q[3:, 0] += garbage
            loss(z, q, tokens, mask).backward()
            gradients.append(z.grad.numpy())
            assert np.abs(gradients[-1][3:]).max() == 0
        assert np.array_equal(*gradients) == immune


def test_a_mask_forgotten_in_the_return_trains_what_the_student_has_not_written():
    written = lambda t: t != 1  # position 1 is a tool's output
    student, teacher = tree(3, 3, 6), tree(3, 3, 7)
    mask_of = lambda tokens: [1.0, 0.0, 1.0]
    right, wrong = (
        over_texts(loss, student, teacher, 3, mask_of, written)
        for loss in (museum.masked_reward_to_go, museum.mask_forgotten_in_the_return)
    )
    exact = text_kl_gradient(student, teacher, 3, written=written)
    tool = slice(3, 12)  # the three prefixes of length 1
    close(right, exact, scale=1)
    assert np.abs(exact[tool]).max() == 0 and np.abs(wrong[tool]).max() > 0.05
    same = np.r_[0:3, 12:39]
    close(wrong[same], exact[same], scale=1)
    # and so does the other mistake: the tool's costs in the returns
    padding = over_texts(museum.padding_in_reward_to_go, student, teacher, 3, mask_of, written)
    assert np.abs(padding - exact).max() > 0.01
