"""The least time in which a setting's operations could be done: its floor, and what is above it.

From logits a loss has to read both models' logits, to take the exponentials of its formula, two
a token (the JSD one logarithm besides), and to write the gradient.  The floor is one sweep over
blocks that fit the cache which does this and nothing else: exp2 of both, one operation to
combine them, written as the gradient.  Memory and arithmetic overlap in it as far as the
machine lets them, so it is neither the larger of the two nor their sum, but measured.  It needs
no softmax, whose largest logit and sum a loss must know before its first probability, and
writes to pages that are there already.

From hidden states the floor is the four products with the heads: both models' logits, and the
student's gradients of hidden states and of head.  Results are float32.  torch.mm makes them,
or, as one of the candidates, what the losses use (``opd_toy.lm.heads``): the two gradients'
products by oneDNN where that is faster.

Both use torch's operations alone and as many threads as the loss.  Several block sizes are
tried, and the fastest counts.
"""

import gc
import time
from dataclasses import replace
from functools import partial

import torch

from opd_toy.lm import heads
from opd_toy.lm.bench.cases import loss_function, make_inputs, one_pass
from opd_toy.lm.rows import in_threads, keep_freed_memory, large_pages

SWEPT = (1 << 16, 1 << 17, 1 << 18)  # logits in a block, of 4 bytes
TILE_BYTES = (1 << 20, 4 << 20)  # of a float32 head
LEAST_TILE_ROWS = 128
TOKENS_TOGETHER = 64  # or all
TRIALS, PASSES = 2, 3
PAGES_BYTES = 256 << 20  # what fresh memory costs is measured on no more

WORDS = {
    "apart": "floor: reads both logits, exponentials, writes the gradient",
    "over": "floor: reads both logits, exponentials, writes over the student's",
    "products": "floor: the four products alone",
}


def kinds(setting):
    """The floors that a setting has, by name."""
    if setting.width:
        return ("products",)
    return ("apart", "over") if "ours_overwrite" in setting.cases else ("apart",)


def pace_floor(pipe, kind, setting, threads):
    """A process: says which block is best, then answers each message with the seconds of a pass.

    The message "parts" is answered with ``parts``, "pages" with ``fill_twice``.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()
    inputs = make_inputs(setting)
    passes = products(setting, inputs) if setting.width else sweeps(setting, inputs, kind)
    tried = {how: min(one() for _ in range(TRIALS)) for how, one in passes.items()}
    best = min(tried, key=tried.get)
    pipe.send(best)
    while True:
        try:
            message = pipe.recv()
        except EOFError:
            return
        gc.collect()
        if message == "parts":
            pipe.send(parts(setting, inputs, passes))
        elif message == "pages":
            pipe.send(fill_twice(setting))
        else:
            pipe.send(passes[best]())


def seconds_of(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def all_done(work, items, like):
    """``in_threads`` for its effects."""
    for _ in in_threads(work, items, like):
        pass


# --- from logits ---------------------------------------------------------------------------


def sweeps(setting, inputs, kind):
    """{the block in words: a function that makes a pass and returns its seconds}."""
    student, teacher = (each.view(-1) for each in inputs)
    kept = student.clone() if kind == "over" else None
    gradient = student if kind == "over" else large_pages(torch.empty_like(student)).zero_()
    work = sweep_of_jsd if 0 < setting.beta < 1 else sweep_of_kl

    def one_pass(size):
        if kept is not None:
            student.copy_(kept)
        blocks = zip(student.split(size), teacher.split(size), gradient.split(size))
        return seconds_of(lambda: all_done(work, blocks, student))

    return {
        f"blocks of {size} logits": lambda size=size: one_pass(size)
        for size in SWEPT
        if size <= len(student) or size == SWEPT[0]
    }


def sweep_of_kl(z, y, gradient):
    p, q = torch.exp2(z.float()), torch.exp2(y.float())
    torch.sub(p, q, out=gradient)


def sweep_of_jsd(z, y, gradient):
    p, q = torch.exp2(z.float()), torch.exp2(y.float())
    torch.sub(p, q.add_(p).log_(), out=gradient)


# --- from hidden states ----------------------------------------------------------------------


def products(setting, inputs):
    """{the blocks in words: a function that makes the products and returns their seconds}."""
    n, V, found = setting.tokens, setting.vocabulary, {}
    to_hidden = torch.zeros(n, setting.width)
    to_head = large_pages(torch.empty(V, setting.width)).zero_()
    logits = large_pages(torch.empty(2, n, V)).zero_()
    for rows in dict.fromkeys((n, min(n, TOKENS_TOGETHER))):
        if setting.dtype == "float32":
            found[f"{rows} tokens, whole heads"] = (rows, V, False)
        for size in TILE_BYTES:
            tile = min(V, max(LEAST_TILE_ROWS, size // (4 * setting.width)))
            found[f"{rows} tokens, {tile} rows of the heads"] = (rows, tile, True)

    def by_torch(rows, *how):
        for a in range(0, n, rows):
            four_products(inputs, logits, to_hidden, to_head, slice(a, a + rows), *how)

    def by_loss(rows):
        for a in range(0, n, rows):
            losses_products(inputs, logits, to_hidden, to_head, slice(a, a + rows))

    works = {how: partial(by_torch, *blocks) for how, blocks in found.items()}
    for rows in dict.fromkeys((n, min(n, heads.chunk_size(inputs[1])))):
        works[by_loss_words(rows)] = partial(by_loss, rows)
    return {how: partial(seconds_of, work) for how, work in works.items()}


def by_loss_words(rows):
    return f"{rows} tokens, as the loss makes them"


def losses_products(inputs, logits, to_hidden, to_head, here):
    """Those of the tokens ``here`` by the functions that the loss calls."""
    hidden, head, teacher, teacher_head = inputs
    z, y = logits[:, : len(hidden[here])]
    heads.logits(hidden[here], head, z), heads.logits(teacher[here], teacher_head, y)
    to_hidden[here] = heads.times_head(z, head)
    heads.add_to_head(to_head, z, hidden[here], first=here.start == 0)


def four_products(inputs, logits, to_hidden, to_head, here, tile, threaded):
    """Those of the tokens ``here``, so many rows of the heads at a time; each product in turn.

    threaded: a tile for each thread; else each torch.mm has all of them.
    """
    hidden, head, teacher, teacher_head = inputs
    h, t = hidden[here].float(), teacher[here].float()
    z, y = logits[:, : len(h)]
    tiles = [slice(a, a + tile) for a in range(0, len(head), tile)]
    add = here.start > 0

    def of_student(part):
        torch.mm(h, head[part].float().T, out=z[:, part])

    def of_teacher(part):
        torch.mm(t, teacher_head[part].float().T, out=y[:, part])

    def for_hidden(part):
        return torch.mm(z[:, part], head[part].float())

    def for_head(part):
        to_head[part].addmm_(z[:, part].T, h, beta=int(add))

    def each(work):
        if threaded:
            return list(in_threads(work, ((part,) for part in tiles), z))
        return [work(part) for part in tiles]

    each(of_student), each(of_teacher)
    to_hidden[here] = sum(each(for_hidden))
    each(for_head)


# --- what a loss's time consists of --------------------------------------------------------


def parts(setting, inputs, passes):
    """Seconds of what a loss does, each measured alone.

    From logits, memory: both logits read and the gradient written, by an addition;
    exponentials: the floor's sweep, over one block that stays in the cache; formula: the loss's
    value and gradient of as many tokens, all of one row, which stays in the cache; not written.
    From hidden states, products: the four as the loss makes them, in its own chunks; formula:
    the loss of as many logits, which the gradient overwrites.
    """
    n, V = setting.tokens, setting.vocabulary
    if setting.width:
        rows = min(n, heads.chunk_size(inputs[1]))
        own = passes[by_loss_words(rows)]
        found = {"products": min(own() for _ in range(PASSES))}
        found["formula"] = _seconds_of_formula(replace(setting, width=0, tokens=rows)) * n / rows
    else:
        found = _parts_of_sweep(setting, inputs)
        z, y = (each[0, :1].expand(n, V) for each in inputs)
        loss = loss_function("ours", setting)
        with torch.no_grad():
            found["formula"] = _fastest(lambda: loss(z, y))
    return found


def _seconds_of_formula(setting):
    """The fastest pass of the loss from float32 logits, which the gradient overwrites."""
    setting = replace(setting, dtype="float32")
    loss, inputs = loss_function("ours_overwrite", setting), make_inputs(setting)
    kept, seconds = inputs[0].clone(), []
    for _ in range(PASSES):
        inputs[0].copy_(kept)
        seconds.append(one_pass(loss, inputs)[0])
    return min(seconds)


def _parts_of_sweep(setting, inputs):
    student, teacher = (each.view(-1) for each in inputs)
    gradient, size = large_pages(torch.empty_like(student)), SWEPT[1]
    work = sweep_of_jsd if 0 < setting.beta < 1 else sweep_of_kl
    blocks = [each.split(size) for each in (student, teacher, gradient)]
    add = lambda a, b, out: torch.add(a, b, out=out)
    block = [each[:size].clone() for each in (student, teacher)]

    def cached(_):
        work(*block, torch.empty_like(block[0]))

    whole = [(part,) for part in range(max(1, len(student) // size))]
    return {
        "memory": _fastest(lambda: all_done(add, zip(*blocks), student)),
        "exponentials": _fastest(lambda: all_done(cached, whole, student)),
    }


def _fastest(work):
    return min(seconds_of(work) for _ in range(PASSES))


def fill_twice(setting):
    """Seconds to write fresh memory for the setting's largest gradient, and to write it again."""
    if setting.width:
        size = 4 * setting.vocabulary * setting.width
    else:
        size = setting.tokens * setting.vocabulary * getattr(torch, setting.dtype).itemsize
    measured = min(size, PAGES_BYTES)
    memory = large_pages(torch.empty(measured, dtype=torch.uint8))
    return [seconds_of(memory.zero_) * size / measured for _ in range(2)]


def seconds_of_pages(fills):
    """What fresh memory costs beyond memory that is there, of many ``fill_twice``.

    The least of each: the system now and then takes long to find large pages.
    """
    return max(0.0, min(fresh for fresh, _ in fills) - min(again for _, again in fills))
