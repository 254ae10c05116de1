"""The task of the lab held to an independent writing of it in plain Python."""

import itertools
import random
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opd_toy.lm.model import uniforms
from opd_toy.lm.tasks import MOST_TERMS, SYMBOLS, Sums, is_test

SUMS = Sums()
TASKS = [
    Sums(),
    Sums(terms=2, digits=1),
    Sums(terms=4, digits=2, base=3, vocabulary=16),
    Sums(terms=3, digits=2, base=100, vocabulary=128),
]


def to_base(number, base):
    return [number % base] + (to_base(number // base, base) if number >= base else [])


def write(task, terms, order):
    """The response for ``terms`` added in ``order``, a list of tokens, from the definition."""
    symbol = lambda character: task.base + SYMBOLS.index(character)
    total, tokens = terms[order[0]], to_base(terms[order[0]], task.base)
    for place in order[1:]:
        total += terms[place]
        tokens += [
            symbol("+"),
            *to_base(terms[place], task.base),
            symbol("="),
            *to_base(total, task.base),
        ]
    return tokens + [symbol(".")]


def write_prompt(task, terms):
    separators = [" "] * (len(terms) - 1) + [":"]
    return sum(
        (
            [*to_base(term, task.base), task.base + SYMBOLS.index(mark)]
            for term, mark in zip(terms, separators)
        ),
        [],
    )


def read_reward(task, tokens):
    """Whether the digits right before the first end are those of the sum; ``tokens`` a list."""
    prompt, response = tokens[: task.prompt_length], tokens[task.prompt_length :]
    if task.end not in response:
        return 0
    before, number = response[: response.index(task.end)], []
    while before and before[-1] < task.base:
        number.insert(0, before.pop())
    return int(number == to_base(sum(read_terms(task, prompt)), task.base))


def read_terms(task, prompt):
    size = task.digits + 1
    return [
        sum(digit * task.base**place for place, digit in enumerate(prompt[at : at + task.digits]))
        for at in range(0, len(prompt), size)
    ]


def read_working(task, tokens):
    terms, response = read_terms(task, tokens[: task.prompt_length]), tokens[task.prompt_length :]
    response = response[: response.index(task.end) + 1] if task.end in response else response
    right = [write(task, terms, order) for order in itertools.permutations(range(task.terms))]
    return right.index(response) if response in right else -1


def middles(task):
    """One number for each order, in the middle of its share of [0, 1)."""
    ends = task.order_probabilities.cumsum(0)
    return ends - task.order_probabilities / 2


def every_order(task, count, *key):
    """Demonstrations of ``count`` prompts in each order (count * terms!, P + T), and the orders."""
    prompts = task.prompts(count, *key).repeat_interleave(len(task.orders), 0)
    return task.demonstrations(prompts, middles(task).repeat(count)), torch.arange(
        len(task.orders)
    ).repeat(count)


def padded(task, response):
    return response + [task.pad] * (task.length - len(response))


# --- demonstrations ----------------------------------------------------------------------


def test_the_sum_of_the_docstring():
    prompt = torch.tensor([write_prompt(SUMS, [27, 58, 36])])
    text = SUMS.demonstrations(prompt, middles(SUMS)[[SUMS.orders.index((1, 0, 2))]])[0]
    assert SUMS.read(text) == "72 85 63:85+72=58+63=121."
    assert (
        SUMS.rewards(text[None]).tolist() == [1.0]
        and SUMS.rewards(text[None]).dtype == torch.float32
    )
    assert SUMS.workings(text[None]).tolist() == [SUMS.orders.index((1, 0, 2))]


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_every_order_of_every_sum_is_written_as_defined_and_is_right(task):
    texts, orders = every_order(task, 25, 1)
    for text, index in zip(texts.tolist(), orders.tolist()):
        terms = read_terms(task, text[: task.prompt_length])
        assert text == write_prompt(task, terms) + padded(
            task, write(task, terms, task.orders[index])
        )
    assert task.rewards(texts).tolist() == [1.0] * len(texts)
    assert task.workings(texts).equal(orders)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(2, 4),
    st.integers(1, 3),
    st.integers(9, 40),
    st.integers(0, 9),
    st.integers(0, 1 << 20),
)
def test_whatever_the_sizes_demonstrations_fit_and_use_no_entry_of_the_padding(
    terms, digits, base, spare, key
):
    task = Sums(terms, digits, base, base + 6 + spare)
    prompts = task.prompts(8, key)
    texts = task.demonstrations(prompts, uniforms(key, shape=(8,)))
    assert texts.shape == (8, task.prompt_length + task.length) and prompts.shape == (
        8,
        task.prompt_length,
    )
    assert texts.dtype == torch.int64 and texts.min() >= 0 and texts.max() < base + 6
    assert task.rewards(texts).eq(1).all() and task.workings(texts).ge(0).all()
    for text in texts.tolist():
        assert (
            read_reward(task, text) == 1
            and read_working(task, text) == task.workings(torch.tensor([text])).item()
        )


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_the_longest_response_is_as_long_as_said(task):
    highest = [task.base**task.digits - 1 - i for i in range(task.terms)]
    texts = task.demonstrations(
        torch.tensor([write_prompt(task, highest)]), torch.zeros(1, dtype=torch.float64)
    )
    assert texts[0, -1] == task.end


def test_orders_are_drawn_with_the_stated_probabilities():
    assert SUMS.order_probabilities.tolist() == pytest.approx(
        [1 / k / (1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5 + 1 / 6) for k in range(1, 7)]
    )
    many = 6000
    grid = (torch.arange(many, dtype=torch.float64) + 0.5) / many
    counts = SUMS.workings(SUMS.demonstrations(SUMS.prompts(1).expand(many, -1), grid)).bincount(
        minlength=6
    )
    assert (counts - many * SUMS.order_probabilities).abs().max() <= 1
    assert SUMS.orders[0] == (0, 1, 2) and len(set(SUMS.orders)) == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        apart = SUMS.demonstrations(SUMS.prompts(2), torch.tensor([0.0, 9, 1, 9]).double()[::2])
    assert SUMS.workings(apart).tolist() == [0, 5]  # one is behind the last share


# --- rewards and workings ----------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS[:3], ids=str)
def test_any_one_token_changed_is_seen(task):
    texts, orders = every_order(task, 2, 2)
    rows, due = [], []
    for tokens in texts.tolist():
        end = tokens.index(task.end)
        number = end - len(to_base(sum(read_terms(task, tokens[: task.prompt_length])), task.base))
        for position in range(task.prompt_length, end + 1):
            for token in set(range(task.vocabulary)) - {tokens[position]}:
                rows.append([*tokens[:position], token, *tokens[position + 1 :]])
                # A digit of the result or its end; a digit before it, which makes it longer; a
                # step before, which no reward sees.
                due.append(
                    0.0
                    if position >= number or token == task.end
                    else float(position != number - 1 or token >= task.base)
                )
    assert task.rewards(torch.tensor(rows)).tolist() == due
    assert (task.workings(torch.tensor(rows)) == -1).all(), (
        "a wrong step is no working, though its result be right"
    )


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_texts_with_random_changes_are_read_as_by_plain_python(task):
    generator = random.Random(3)
    texts, _ = every_order(task, 40, 3)
    rows = []
    for text in texts.tolist():
        for _ in range(generator.choice((0, 1, 1, 2, 5))):
            place = generator.randrange(task.prompt_length, len(text))
            change = generator.choice(("put", "cut", "insert"))
            token = generator.choice(
                (generator.randrange(task.vocabulary), task.end, generator.randrange(task.base))
            )
            tail = {
                "put": [token, *text[place + 1 :]],
                "cut": [*text[place + 1 :], task.pad],
                "insert": [token, *text[place:-1]],
            }[change]
            text = text[:place] + tail
        rows.append(text)
    rewards, workings = (
        task.rewards(torch.tensor(rows)).tolist(),
        task.workings(torch.tensor(rows)).tolist(),
    )
    assert rewards == [read_reward(task, row) for row in rows]
    assert workings == [read_working(task, row) for row in rows]
    assert 0 < sum(rewards) < len(rows) and any(
        reward and working < 0 for reward, working in zip(rewards, workings)
    )


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_garbage_empty_and_endless_texts_earn_nothing(task):
    prompt = task.prompts(1)[0].tolist()
    total = to_base(sum(read_terms(task, prompt)), task.base)
    responses = {
        "empty": [task.end], "padding": [], "no end": [0] * task.length,
        "the end twice": [task.end, *total, task.end][: task.length],
        "the sum without an end": total, "a zero above the sum": [*total, 0, task.end],
    }  # fmt: skip
    texts = torch.tensor([prompt + padded(task, response) for response in responses.values()])
    assert task.rewards(texts).tolist() == [0.0] * len(texts)
    assert task.workings(texts).tolist() == [-1] * len(texts)
    alone = torch.tensor([prompt + padded(task, [*total, task.end])])
    assert task.rewards(alone).item() == 1.0 and task.workings(alone).item() == -1, (
        "the answer alone pays and is no working"
    )


def test_what_stands_after_the_end_does_not_matter():
    texts, orders = every_order(SUMS, 3, 4)
    ended = (texts == SUMS.end).cumsum(1) - (texts == SUMS.end).long() > 0
    noisy = torch.where(
        ended,
        torch.randint(0, SUMS.vocabulary, texts.shape, generator=torch.Generator().manual_seed(0)),
        texts,
    )
    assert SUMS.rewards(noisy).eq(1).all() and SUMS.workings(noisy).equal(orders)


# --- prompts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task", [Sums(), Sums(terms=2, digits=1), Sums(terms=2, digits=2)], ids=str
)
def test_no_sum_for_training_is_one_for_tests_in_whatever_order(task):
    seen = {
        split: {
            frozenset(terms)
            for terms in task.read_terms(task.prompts(4000, 5, split=split)).tolist()
        }
        for split in ("train", "test")
    }
    assert seen["train"] and seen["test"] and not seen["train"] & seen["test"]
    assert all(
        len(terms) == task.terms
        and min(terms) >= task.base ** (task.digits - 1)
        and max(terms) < task.base**task.digits
        for split in seen.values()
        for terms in split
    )
    if task == Sums(terms=2, digits=1):
        assert len(seen["train"] | seen["test"]) == 36, "all sums of two different digits come up"


def test_an_eighth_of_all_sums_is_kept_for_tests():
    sets = torch.combinations(torch.arange(10, 100), 3)
    share = is_test(sets).double()
    assert share.mean() == pytest.approx(1 / 8, abs=0.002)
    for term in (10, 55, 99):
        assert share[(sets == term).any(1)].mean() == pytest.approx(1 / 8, abs=0.02), (
            "of each term's too"
        )


def test_all_orders_of_a_sum_come_up_as_prompts():
    task = Sums(terms=2, digits=1)
    prompts = {tuple(terms) for terms in task.read_terms(task.prompts(4000, 6)).tolist()}
    assert {(b, a) for a, b in prompts} == prompts


def test_prompts_depend_on_their_key_alone():
    state = torch.get_rng_state()
    first = SUMS.prompts(50, 1, "name", 2)
    assert SUMS.prompts(50, 1, "name", 2).equal(first) and torch.get_rng_state().equal(state)
    others = [
        SUMS.prompts(50, 1, "name", 3),
        SUMS.prompts(50, 1, "other", 2),
        SUMS.prompts(50, 1, "name", 2, 0),
        SUMS.prompts(50, 1, "name", 2, split="test"),
    ]
    assert all(not other.equal(first) for other in others)
    assert SUMS.prompts(0, 1).shape == (0, 9)


def test_a_rare_split_is_not_filled_with_the_same_prompts_again():
    prompts = SUMS.prompts(1000, 7, split="test")
    assert len(prompts.unique(dim=0)) > 980, "of 88 000 there are"


# --- words and errors --------------------------------------------------------------------


def test_texts_are_read_out():
    large = Sums(terms=2, digits=2, base=100, vocabulary=120)
    text = large.demonstrations(
        torch.tensor([[7, 1, 100, 99, 2, 101]]), torch.zeros(1, dtype=torch.float64)
    )[0]
    assert large.read(text) == "7 1 | 99 2 : 7 1 + 99 2 = 6 4 ."  # 107 + 299 = 406, low digit first
    assert large.read(torch.tensor([119, 3])) == "<119> 3"
    assert large.read(torch.tensor([105, 106])) == "<106>"  # after the padding
    assert Sums(base=11, vocabulary=17).read(torch.tensor([10, 3])) == "10 3"
    assert SUMS.read(torch.tensor([1, 12, 15, 15, 3])) == "1+3"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(terms=1), f"terms is 1; give a whole number \\(an int\\) from 2 to {MOST_TERMS}"),
        (dict(terms=2.0), "terms is 2.0; give a whole number"),
        (dict(digits=0), "digits is 0; give a whole number \\(an int\\) of at least 1"),
        (dict(base=True), "base is True; give a whole number"),
        (dict(base=1), "base is 1; give a whole number \\(an int\\) from 2 to 32768"),
        (dict(vocabulary=0), "vocabulary is 0; give a whole number \\(an int\\) of at least 1"),
        (dict(vocabulary=15), "vocabulary is 15; give at least base \\+ 6 = 16"),
        (dict(digits=16), "digits is 16; with base 10 and 3 terms the sum passes 2\\*\\*53"),
        (
            dict(digits=1, base=3),
            "digits is 1 and base 3, which gives 2 numbers; give more of either for 3 different "
            "terms",
        ),
    ],
)
def test_sizes_that_make_no_task_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sums(**arguments)


def test_prompts_refuse_what_cannot_be():
    with pytest.raises(ValueError, match="split is 'valid'; give one of 'train', 'test'"):
        SUMS.prompts(1, split="valid")
    with pytest.raises(ValueError, match="count is -1; give a whole number"):
        SUMS.prompts(-1)
    with pytest.raises(ValueError, match="split is 'test', in which .* has no sums"):
        Sums(terms=2, digits=1, base=3).prompts(1, split="test")
