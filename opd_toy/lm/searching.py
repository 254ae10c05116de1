"""Who should write, where a wrong step leads to places that the teacher's texts do not show?

The task is ``opd_toy.lm.doors``.  A student is trained on the texts of a teacher that hardly ever
errs, and then further, in as many steps on as many texts: on the teacher's texts or on its own,
on the tokens that were written or by a KL to the teacher's probabilities.  All of it is done for
teachers that err more and less often (their ``noise``); with GUESS a teacher knows no more than
the student.  ``searching`` returns a JSON-able dict, the results of ``figures/doors.json``.

What was tried before, with one or two seeds and no record.  Walks to a goal on a grid of 6 or 4
places a side, the steps alone or with the places written, 100 to 800 steps of SFT and 300 to 1500
further ones: the student was lost after a wrong step.  It slipped too rarely to learn the way back
from its own texts, or so often that these were mostly lost walks and did harm; in one setting,
after 1500 steps, they had a small lead.  A road to keep to: no lead.  Then this task, with six
doors and two layers, with four doors and more steps, and as it is: a clear lead each time.
"""

import copy
import dataclasses
import itertools
from pathlib import Path

import torch

from opd_toy.lm.doors import DOORS, END, HALL, Doors, House, Rule, read_visits
from opd_toy.lm.losses import token_count
from opd_toy.lm.methods import find_method, loss_of
from opd_toy.lm.model import Shape, Transformer, response_logits, response_mask, sample, uniforms
from opd_toy.lm.training import CLIP, OPTIMIZER, WARM_UP
from opd_toy.records import provenance
from opd_toy.records.checkpoints import Checkpoint

MODULES = [__name__]
TASK = Doors()
SHAPE = Shape(TASK.vocabulary, 24, 1, 4, TASK.prompt_length + TASK.length)
METHODS = ("sft", "seqkd", "off_policy_reverse_kl", "on_policy_forward_kl", "gkd")
COMPARED = ("off_policy_reverse_kl", "gkd")  # one loss, two writers: with every teacher
GUESS = 0.75  # the right door is as likely as each of the others
NOISES = (0.001, 0.01, 0.1, GUESS)
SEEDS = (1, 2, 3)
QUESTIONS = 800
SHOWN = 40  # answers to one question


@dataclasses.dataclass(frozen=True)
class Training:
    """Steps of ``batch`` texts each, at a rate that is constant after a warm-up."""

    steps: int
    batch: int
    rate: float


FIRST = Training(steps=60, batch=64, rate=1e-2)  # SFT on the teacher's texts
FURTHER = Training(steps=120, batch=64, rate=3e-3)


def searching(folder, watch=None):
    """The record's results, see ``measured``; "start" is the student before more training.

    Finished students are kept in ``folder``: interrupted, the same call goes on after the last
    teacher and seed that are done.  watch(name) gives a report(done, total) for the whole.
    """
    settings = [SHAPE, FIRST, FURTHER, METHODS, NOISES, SEEDS, QUESTIONS, torch.__version__]
    belongs_to = [*map(str, settings), provenance.source_hash(*MODULES)]
    checkpoint = Checkpoint(Path(folder) / "doors.pt", belongs_to, seconds=0)
    state = checkpoint.load() or {"iteration": 0, "runs": []}
    report = watch("students") if watch else lambda done, total: None
    plan = list(itertools.product(NOISES, SEEDS))
    for noise, seed in plan[state["iteration"] :]:
        state["runs"] += students(noise, seed)
        state["iteration"] += 1
        report(state["iteration"], len(plan))
        checkpoint.after(state)
    return {
        "questions": QUESTIONS,
        "doors": len(DOORS),
        "parameters": SHAPE.parameters,
        "first": dataclasses.asdict(FIRST),
        "further": dataclasses.asdict(FURTHER),
        "teachers": {str(noise): measured(Rule(noise)) for noise in NOISES},
        "runs": state["runs"],
    }


def students(noise, seed):
    """A row for each student that learns from the teacher with this noise, by each method.

    They begin alike.  With a teacher that errs more often than the first the ``COMPARED`` alone
    are trained.
    """
    teacher, start = House(Rule(noise)), Transformer(SHAPE, seed)
    train("sft", teacher, start, FIRST, seed, "first")
    rows = [{"noise": noise, "method": "start", "seed": seed} | measured(start)]
    for method in METHODS if noise == NOISES[0] else COMPARED:
        student = copy.deepcopy(start)
        train(method, teacher, student, FURTHER, seed, "further")
        row = {"noise": noise, "method": method, "seed": seed} | measured(student)
        if (noise, seed) == (NOISES[0], SEEDS[0]) and method in COMPARED:
            row["answers"] = answers_to_one(student)
        rows.append(row)
    return rows


def train(method, teacher, student, settings, *key):
    """Trains ``student`` in place.  Prompts and draws depend on ``key`` and the step alone."""
    house = House(student)
    writer = teacher if find_method(method).texts == "teacher" else house
    optimizer = torch.optim.AdamW(student.parameters(), lr=settings.rate, **OPTIMIZER)
    for step in range(1, settings.steps + 1):
        texts = draw_texts(writer, settings.batch, *key, step)
        optimizer.zero_grad()
        loss_of(method, house, teacher, TASK, texts, normalizer=steps_in(texts)).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), CLIP)
        optimizer.param_groups[0]["lr"] = settings.rate * min(1.0, step / WARM_UP)
        optimizer.step()


def draw_texts(writer, count, *key):
    """Answers of ``writer`` to ``count`` questions, up to the end of the longest."""
    prompts = TASK.prompts(count, *key)
    texts = sample(writer, prompts, uniforms(0, *key, shape=(count, TASK.length)), END, TASK.pad)
    reached = response_mask(texts, TASK.prompt_length, END).any(0).sum()
    return texts[:, : TASK.prompt_length + int(reached)]


def steps_in(texts):
    """How many tokens of the answers in ``texts`` a model has chosen, as losses are divided."""
    mask = response_mask(texts, TASK.prompt_length, END)
    return token_count(mask & (texts[:, TASK.prompt_length :] != END))


# --- what is measured ------------------------------------------------------------------------


def measured(model):
    """Of the answers to ``QUESTIONS`` names that no training text has, one to each.

    found: share that come to the right room; by_step: the same after 1, 2, … tokens;
    before, after: mean probability of a wrong next step before and after the first wrong one;
    stuck: that of a wrong next step in a wrong room, where going back is right.
    """
    prompts = TASK.prompts(QUESTIONS, "asked", split="test")
    texts = sample(House(model), prompts, draws(QUESTIONS), END, TASK.pad)
    tokens = texts[:, TASK.prompt_length :]
    places, right = read_visits(texts)
    chosen = response_mask(texts, TASK.prompt_length, END) & (tokens != END)
    slipped = chosen & (tokens != right)
    later = slipped.cumsum(1) - slipped.long() > 0
    with torch.no_grad():
        p = torch.softmax(response_logits(House(model), texts, TASK).double(), -1)
    wrong = 1 - p.gather(2, right[..., None])[..., 0]
    where = {"before": ~later, "after": later, "stuck": places != HALL}
    return {
        "found": float(TASK.rewards(texts).double().mean()),
        "by_step": (tokens == END).cumsum(1)[:, 1:].double().mean(0).tolist(),
        **{name: mean_where(wrong, chosen & mask) for name, mask in where.items()},
    }


def mean_where(values, mask):
    """None where there is none."""
    return float(values[mask].mean()) if mask.any() else None


def draws(count):
    return uniforms(0, "answers", shape=(count, TASK.length))


def answers_to_one(student):
    """``SHOWN`` answers of a student to the first question, as strings."""
    prompts = TASK.prompts(1, "asked", split="test").repeat(SHOWN, 1)
    texts = sample(House(student), prompts, draws(SHOWN), END, TASK.pad)
    return [TASK.read(text[TASK.prompt_length :]) for text in texts]
