"""A step of the lab beside one of a plain Hugging Face loop, part by part.

``python -m opd_toy bench --training`` runs this module in a process of its own, which computes
nothing and forks a process for each of ``CASES``.  They take turns.  One step of on-policy
distillation by the reverse KL (method ``gkd``) is one measurement:

- writing: the student answers a batch of prompts, drawn token by token;
- student, teacher: the logits of both models on given texts, the student's with gradient;
- loss, backward, and optimiser: the gradient's norm clipped, AdamW.

Both sides have the same weights, prompts and settings.  What they write is counted and left:
it depends on each one's random numbers, and both learn from the texts that the lab writes.
Each repeat is the same step again, the weights put back before it.

``products``, a third case, makes nothing but the matrix products of the models' layers, which
are the same on both sides: what no way of writing the rest can save.
Seconds are wall time.  The models have learned from demonstrations for ``PRETRAINING`` steps,
enough that their texts look like the task's and are as long.
"""

import gc
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F

from opd_toy.lm import pretraining
from opd_toy.lm.bench.forks import Fork, once, processor, versions
from opd_toy.lm.losses import token_count
from opd_toy.lm.methods import Batch, find_method
from opd_toy.lm.model import load, response_logits, response_mask, sample, save, uniforms
from opd_toy.lm.presets import PRESETS
from opd_toy.lm.training import CLIP, OPTIMIZER

CASES = {
    "lab": "this book's lab",
    "hugging_face": "a plain Hugging Face loop",
    "products": "the matrix products alone",
}
PEER = "transformers"
PARTS = ("writing", "student", "teacher", "loss", "backward", "optimiser")
STAGES = {  # what is compared: the parts that are added up
    "writing": PARTS[:1],
    "training": PARTS[1:],
    "whole step": PARTS,
}
PRETRAINING = 150  # steps
WARM_UP = 3  # steps that are not measured
KEY = 1, "distillation", 1  # of the prompts and the numbers: seed 1, step 1 of the lab


@dataclass(frozen=True)
class Side:
    """What one side does in a step.

    write() -> texts (B, P + T) by the student; logits(model, texts) -> (B, T, V);
    loss(student's logits, teacher's logits, texts, mask (B, T)) -> scalar.
    """

    student: torch.nn.Module
    teacher: torch.nn.Module
    write: Callable
    logits: Callable
    loss: Callable


# --- the sides ---------------------------------------------------------------------------


def lab(student, teacher, preset):
    """The step of ``opd_toy.lm.training`` by the method ``gkd``, in its parts."""
    task, batch = preset.task, preset.distillation.batch
    prompts = task.prompts(batch, *KEY)

    def write():
        return sample(
            student, prompts, uniforms(*KEY, shape=(batch, task.length)), task.end, task.pad
        )

    def loss(z, y, texts, mask):
        tokens = texts[:, task.prompt_length :]
        return find_method("gkd").loss(Batch(z, y, tokens, mask, None, 1, token_count(mask)))

    return Side(student, teacher, write, lambda *of: response_logits(*of, task), loss)


def hugging_face(student, teacher, preset):
    """The same in a plain loop of Llama models with the weights of these Transformers."""
    from opd_toy.lm.bench import hugging_face as plain

    task = preset.task
    prompts = task.prompts(preset.distillation.batch, *KEY)
    student, teacher = plain.llama(student), plain.llama(teacher)
    return Side(
        student,
        teacher,
        lambda: plain.write(student, prompts, task),
        lambda *of: plain.response_logits(*of, task),
        lambda z, y, texts, mask: plain.reverse_kl(z, y, mask),
    )


def adamw(side, preset):
    """The optimiser of either side."""
    rate = preset.distillation.rate
    return torch.optim.AdamW(side.student.parameters(), lr=rate, **OPTIMIZER)


def given_texts(side, task):
    """(texts (B, P + T) that the side writes, to the last one's end; which tokens were drawn)."""
    with torch.no_grad():
        texts = side.write()
    mask = response_mask(texts, task.prompt_length, task.end)
    length = int(mask.any(0).sum())
    return texts[:, : task.prompt_length + length], mask[:, :length]


def timed_step(side, optimizer, texts, mask):
    """(seconds of each of PARTS, the loss, the texts that the student wrote)."""
    marks = [time.perf_counter()]
    tick = lambda: marks.append(time.perf_counter())
    with torch.no_grad():
        written = side.write()
    tick()
    z = side.logits(side.student, texts)
    tick()
    with torch.no_grad():
        y = side.logits(side.teacher, texts)
    tick()
    loss = side.loss(z, y, texts, mask)
    tick()
    loss.backward()
    tick()
    torch.nn.utils.clip_grad_norm_(side.student.parameters(), CLIP)
    optimizer.step()
    optimizer.zero_grad()
    tick()
    seconds = [end - start for start, end in itertools.pairwise(marks)]
    return dict(zip(PARTS, seconds, strict=True)), loss.item(), written


# --- the products alone ------------------------------------------------------------------


def layers(shape, rows, head_rows):
    """(input, weight, gradient of the output) of each linear layer of a transformer.

    rows: positions that the blocks read; head_rows: those that the head reads.
    """
    width, inner = shape.width, shape.feed_forward
    block = [(width, 3 * width), (width, width), (width, 2 * inner), (inner, width)]
    sizes = [(rows, *size) for size in block * shape.layers]
    sizes.append((head_rows, width, shape.vocabulary))
    return [(torch.randn(n, i), torch.randn(o, i), torch.randn(n, o)) for n, i, o in sizes]


def products(student, teacher, preset):
    """A function that makes a step's products and returns the seconds of each of STAGES."""
    batch, prompt, length = (
        preset.distillation.batch,
        preset.task.prompt_length,
        preset.task.length,
    )
    first, later = (layers(student.shape, batch * rows, batch) for rows in (prompt, 1))
    rows = batch * (prompt + length - 1), batch * length
    learner, judge = layers(student.shape, *rows), layers(teacher.shape, *rows)

    @torch.no_grad()
    def step():
        started = time.perf_counter()
        for made in (first, *[later] * (length - 1)):
            _forward(made)
        between = time.perf_counter()
        _forward(learner), _forward(judge)
        for x, weight, gradient in learner:
            torch.mm(gradient, weight), torch.mm(gradient.T, x)
        ended = time.perf_counter()
        return dict(zip(STAGES, (between - started, ended - between, ended - started)))

    return step


def _forward(made):
    for x, weight, _ in made:
        F.linear(x, weight)


# --- processes ---------------------------------------------------------------------------


def prepare(pipe, preset, folder, threads):
    """A process: the teacher and the student, trained for a short while, into ``folder``."""
    torch.set_num_threads(threads)
    for role in ("teacher", "student"):
        recipe = getattr(preset, role)
        recipe = replace(recipe, steps=min(PRETRAINING, recipe.steps))
        save(Path(folder) / role, pretraining.pretrain(recipe, preset.task, role))
    pipe.send("ready")


def pace(pipe, case, preset, folder, threads):
    """A process: says when it is ready, then answers each message with the figures of a step."""
    torch.set_num_threads(threads)
    step = stepper(case, preset, folder)
    for _ in range(WARM_UP):
        step()
    pipe.send("ready")
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        gc.collect()
        pipe.send(step())


def stepper(case, preset, folder):
    """A function that takes one step and returns its seconds, of a side its counts too."""
    student, teacher = (load(Path(folder) / role) for role in ("student", "teacher"))
    if case == "products":
        step = products(student, teacher, preset)
        return lambda: {"seconds": step()}
    side = lab(student, teacher, preset)
    texts, mask = given_texts(side, preset.task)
    if case == "hugging_face":
        side = hugging_face(student, teacher, preset)
    optimizer = adamw(side, preset)
    start = {name: weight.clone() for name, weight in side.student.state_dict().items()}

    def step():
        side.student.load_state_dict(start)
        seconds, loss, written = timed_step(side, optimizer, texts, mask)
        drawn = response_mask(written, preset.task.prompt_length, preset.task.end)
        counts = {"written": int(drawn.sum()), "trained": int(mask.sum())}
        return {"seconds": seconds, "loss": loss, **counts}

    return step


def in_turn(cases, preset, folder, threads, repeats, report):
    """A row for each case; where the Hugging Face loop fails, the reason is in its place."""
    rows, running = [], []
    try:
        for case in cases:
            row = {"case": case, "words": CASES[case]}
            rows.append(row)
            fork = Fork(pace, case, preset, folder, threads)
            running.append((fork, row))
            try:
                fork.answer()
            except RuntimeError as error:
                if case != "hugging_face":
                    raise
                row["failed"] = f"{case}: {error}"
            report()
        paced = [(fork, row | {"answers": []}) for fork, row in running if "failed" not in row]
        for repeat in range(repeats):
            turn = repeat % len(paced)
            for fork, row in paced[turn:] + paced[:turn]:
                fork.pipe.send("again")
                row["answers"].append(fork.answer())
            report()
    finally:
        for fork, _ in running:
            fork.close()
    figures = {row["case"]: summary(row["answers"]) for _, row in paced}
    return [row | figures.get(row["case"], {}) for row in rows]


def summary(answers):
    """Of the answers of one case: the last one's counts, least and median seconds.

    Those of each part, and of each of STAGES, whose parts are added up step by step.
    """
    steps = [answer["seconds"] for answer in answers]
    sums = {name: (name,) for name in steps[0]}
    sums |= {name: parts for name, parts in STAGES.items() if set(parts) <= steps[0].keys()}
    seconds = {name: [sum(step[part] for part in parts) for step in steps]
               for name, parts in sums.items()}  # fmt: skip
    return answers[-1] | {
        "seconds": seconds,
        "least": {name: min(values) for name, values in seconds.items()},
        "median": {name: statistics.median(values) for name, values in seconds.items()},
    }


def measure(preset, repeats, counts, report):
    """All cases whose library is there, with each number of threads, as one JSON-able dict.

    Forks: nothing may have been computed before.
    """
    here = versions()
    missing = [] if PEER in here else [PEER]
    cases = [case for case in CASES if case != "hugging_face" or not missing]
    if not missing:
        import opd_toy.lm.bench.hugging_face  # noqa: F401 (once for all forks)
    done, total = 0, 1 + len(counts) * (len(cases) + repeats)

    def step():
        nonlocal done
        done += 1
        report(done, total)

    with tempfile.TemporaryDirectory() as folder:
        once(prepare, preset, folder, max(counts))
        step()
        found = [
            {"threads": count, "rows": in_turn(cases, preset, folder, count, repeats, step)}
            for count in counts
        ]
    return {
        "processor": processor(),
        "preset": preset.name,
        "batch": preset.distillation.batch,
        "repeats": repeats,
        "versions": {name: here[name] for name in ("torch", PEER) if name in here},
        "missing": missing,
        "runs": found,
    }


def main():
    """Reads {"preset", "repeats", "counts"} as JSON from stdin; counts: numbers of threads.

    Writes a line of JSON to stdout for each step done, [done, total], then the figures.
    """
    job = json.loads(sys.stdin.read())
    report = lambda done, total: print(json.dumps([done, total]), flush=True)
    try:
        print(json.dumps(measure(PRESETS[job["preset"]], job["repeats"], job["counts"], report)))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
