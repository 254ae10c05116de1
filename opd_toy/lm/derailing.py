"""How answers derail: a small student's sums, token by token, before a slip and after it.

Teacher and student have learned from right workings alone, so no text that either has seen goes
on after a slip.  The student is asked all questions of its training texts, once each.
``derailing`` returns a JSON-able dict, the results of ``figures/derailing.json``.

Shapes: N texts (N, P + T) of a prompt of P tokens and up to T more, a vocabulary of V.  Of each
text ``steps`` has the list of ``Step``, one a token that is read.  ``models`` is {"student" |
"teacher": model}, ``prefixes`` what ``training_prefixes`` returns.
"""

import signal
import sys

import torch

from opd_toy.lm import pretraining
from opd_toy.lm.model import Shape, response_logits, sample, uniforms
from opd_toy.lm.presets import Preset, Recipe
from opd_toy.lm.slips import first_slip, read_steps, slips
from opd_toy.lm.tasks import SYMBOLS, Sums, is_test
from opd_toy.records.checkpoints import Stop

MODULES = [__name__]
TASK = Sums(terms=4, digits=1)
LENGTH = TASK.prompt_length + TASK.length
PRESET = Preset(
    "derailing",
    TASK,
    teacher=Recipe(Shape(TASK.vocabulary, 64, 2, 8, LENGTH), 1200, 64, 6e-3, seed=0),
    student=Recipe(Shape(TASK.vocabulary, 24, 2, 4, LENGTH), 800, 64, 1e-2, seed=1),
    distillation=None,
    seeds=(),
)
PLANTED_AT = 4  # the first digit of the first sum: a right answer begins with a+b=
SHOWN = "0123456789+=."  # the tokens of an answer, of which the slider has bars
NAMES = ("sum", "number", "lost", "new", "right")  # the answers shown, see ``shown_answers``
CHANCE, SURE = 0.02, 0.9  # by which they are chosen


class MissingKinds(RuntimeError):
    """No answer of the student shows one of ``NAMES``."""


def derailing(folder, watch=None):
    """The record's results; models are kept in ``folder``.

    watch(name) gives a report(done, total) for a stage.  An interrupt is heard in training and
    between later stages; trained models are kept.  Raises MissingKinds, see ``shown_answers``.
    """
    watch = watch or (lambda name: None)
    teacher = pretraining.teacher(PRESET, folder, watch("teacher"))
    student = pretraining.student(PRESET, folder, watch("student"))
    models = {"student": student, "teacher": teacher}
    prompts, prefixes = questions(), training_prefixes()
    texts = draw_answers(student, prompts)
    steps = [steps_of(text) for text in texts]
    shown = shown_answers(texts, steps, models, prefixes)
    heed_stop()
    results = {
        "tokens": SHOWN,
        "questions": len(prompts),
        "training_texts": PRESET.student.steps * PRESET.student.batch,
        "parameters": {who: model.shape.parameters for who, model in models.items()},
        "teacher_right": accuracy(draw_answers(teacher, prompts)),
        "outcomes": outcomes(texts, steps),
        "slipping": slipping(texts, steps, models, prefixes),
        "planted": after_planting(student, texts, steps),
        "positions": by_position(texts, steps, prefixes),
        "answers": shown,
    }
    heed_stop()
    return results


def heed_stop():
    """Ends the work where an interrupt was heard, as ``Checkpoint.after`` does in training."""
    if Stop.asked:
        name = signal.Signals(Stop.asked).name
        print(
            f"stopped by {name}; the models are kept, and the same command goes on with them",
            file=sys.stderr,
        )
        raise KeyboardInterrupt


# --- questions and answers -------------------------------------------------------------------


def questions():
    """Every question that the training texts may hold, once: prompts (N, P)."""
    terms = torch.cartesian_prod(*[torch.arange(TASK.lowest, TASK.highest + 1)] * TASK.terms)
    ascending = terms.sort(1).values
    kept = (ascending.diff(dim=1) != 0).all(1) & ~is_test(ascending)
    terms = terms[kept]
    separators = torch.full_like(terms, token(" "))
    separators[:, -1] = token(":")
    return torch.stack([terms, separators], 2).flatten(1)


def token(character):
    return int(character) if character.isdigit() else TASK.base + SYMBOLS.index(character)


def training_prefixes():
    """All beginnings, the question included, of all texts that the student has learned from.

    A set of strings.
    """
    recipe, found = PRESET.student, set()
    for step in range(recipe.steps):
        corpus = pretraining.corpus(TASK, recipe.batch, recipe.seed, "student", step)
        for text in map(TASK.read, corpus):
            found.update(text[:length] for length in range(TASK.prompt_length, len(text) + 1))
        heed_stop()
    return found


def draw_answers(model, prompts):
    """Texts (N, P + T): an answer to each of ``prompts`` (N, P), drawn by the same uniform
    numbers for every model."""
    return sample(model, prompts, draws(len(prompts)), TASK.end, TASK.pad)


def draws(count):
    """The uniform numbers (``count``, T) by which answers are drawn."""
    return uniforms(0, "answers", shape=(count, TASK.length))


def steps_of(text):
    """The steps of one text (P + T,)."""
    terms = TASK.read_terms(text[None])[0].tolist()
    return read_steps(terms, TASK.read(text[TASK.prompt_length :]))


def probabilities(model, texts):
    """Probabilities (N, T, V) that the model gives to each next token of ``texts``, float64."""
    with torch.no_grad():
        return torch.softmax(response_logits(model, texts, TASK).double(), -1)


def of_right(step, row):
    """The probability, by a row (V,), that the next token is right."""
    return float(sum(row[token(each)] for each in step.right))


def accuracy(texts):
    """The share of the texts (N, P + T) whose answer is right."""
    return float(TASK.rewards(texts).mean())


# --- what is counted -------------------------------------------------------------------------


def outcomes(texts, steps):
    """What became of the answers in ``texts`` (N, P + T): counts.

    first_slips: whether the first wrong token is part of a sum or of a number to add.
    """
    right = TASK.rewards(texts).bool().tolist()
    slipped = [slips(each) for each in steps]
    kinds = [each[where[0]].place[0] for each, where in zip(steps, slipped) if where]
    wrong = [where for where, is_right in zip(slipped, right) if not is_right]
    return {
        "right": sum(right),
        "slipped": len(kinds),
        "slipped_and_right": len(kinds) - sum(map(bool, wrong)),
        "wrong_without_slip": sum(not where for where in wrong),
        "wrong_with_one_slip": sum(len(where) == 1 for where in wrong),
        "first_slips": {kind: kinds.count(kind) for kind in ("number", "sum")},
        "tokens": sum(map(len, steps)),
    }


def slipping(texts, steps, models, prefixes):
    """How likely the next token is wrong, for each model, and how often it is ("slips").

    Means over the tokens of the answers in ``texts`` (N, P + T), {when: {"tokens", "student",
    "teacher", "slips"}}.
    before: until the first slip; after: after it.  A place in an answer can be easy or hard:
    "alike" is the mean until the first slip at the places where the tokens after a slip stand,
    "new" that mean where no training text begins like the answer so far.
    """
    found = _by_place(texts, steps, models, prefixes)
    rows = {when: torch.cat(list(found[when].values())) for when in ("before", "after")}
    shared = [at for at in found["after"] if at in found["new"]]
    for name, of in {"alike": "before", "new": "new"}.items():
        rows[name] = torch.cat(
            [found[of][at].mean(0).repeat(len(found["after"][at]), 1) for at in shared]
        )
    columns = [*models, "slips"]
    return {
        when: {"tokens": len(each)} | dict(zip(columns, each.mean(0).tolist()))
        for when, each in rows.items()
    }


def _by_place(texts, steps, models, prefixes):
    """{"before" | "new" | "after": {place: (tokens, 3)}}, the columns as in ``slipping``."""
    of_models = [probabilities(model, texts) for model in models.values()]
    found = {"before": {}, "new": {}, "after": {}}
    for row, answer in enumerate(steps):
        slip, new = first_slip(answer), new_at(texts[row], prefixes)
        for t, step in enumerate(answer):
            wrong = [1 - of_right(step, each[row, t]) for each in of_models]
            wrong.append(not step.is_right)
            for when in ["after"] if t > slip else ["before", "new"] if t >= new else ["before"]:
                found[when].setdefault(step.place, []).append(wrong)
    return {
        when: {at: torch.tensor(each, dtype=torch.float64) for at, each in places.items()}
        for when, places in found.items()
    }


def after_planting(student, texts, steps):
    """Slips an answer after a planted one, and in the same answers left as they were.

    In answers that are right so far the first digit of the first sum is replaced by the wrong
    digit that the student finds likeliest; it goes on with the random numbers that it had.
    ``texts``: (N, P + T).
    """
    rows = [row for row, answer in enumerate(steps) if first_slip(answer) > PLANTED_AT]
    at = TASK.prompt_length + PLANTED_AT
    digits = probabilities(student, texts[rows])[:, PLANTED_AT, : TASK.base]
    for row, each in zip(rows, digits):
        each[int(steps[row][PLANTED_AT].right)] = 0
    begun = torch.cat([texts[rows, :at], digits.argmax(1, keepdim=True)], 1)
    later = draws(len(texts))[rows, PLANTED_AT + 1 :]
    planted = sample(student, begun, later, TASK.end, TASK.pad)

    def slips_later(answers):
        return sum(sum(t > PLANTED_AT for t in slips(each)) for each in answers) / len(rows)

    return {
        "answers": len(rows),
        "as_written": slips_later([steps[row] for row in rows]),
        "planted": slips_later([steps_of(text) for text in planted]),
    }


def by_position(texts, steps, prefixes):
    """Shares of the answers after 0, 1, … tokens: begin as no training text does; have slipped.

    An answer that has ended stays what it was.  Two lists of T + 1 for ``texts`` (N, P + T).
    """
    left, slipped = torch.zeros(2, TASK.length + 1, dtype=torch.float64)
    for text, answer in zip(texts, steps):
        left[new_at(text, prefixes) :] += 1
        slip = first_slip(answer)
        if slip < len(answer):
            slipped[slip + 1 :] += 1
    return {"unseen": (left / len(texts)).tolist(), "slipped": (slipped / len(texts)).tolist()}


def new_at(text, prefixes):
    """After how many tokens an answer begins as no training text does; T + 1: never.

    ``text``: (P + T,), the question included.
    """
    read, start = TASK.read(text), TASK.prompt_length
    ends = range(start, len(read) + 1)
    return next((end - start for end in ends if read[:end] not in prefixes), TASK.length + 1)


# --- the answers that are shown --------------------------------------------------------------


def shown_answers(texts, steps, models, prefixes):
    """Some answers of ``texts`` (N, P + T) whole: {name: {...}}, ``NAMES`` the names.

    Each is the one that shows its name most clearly.
    sum, number: the first slip is in a sum, or in a number to add, and later what is right is
    least likely for the student while the teacher stays ``SURE`` of it; lost: it is least likely
    for the teacher; right: all tokens are, and a training text has them; new: all are, and the
    fewest of them begin a training text.  A slip that is shown had at least the probability
    ``CHANCE``.  Raises MissingKinds where no answer has one of the names.
    """
    of_models = [probabilities(model, texts) for model in models.values()]
    chosen = {}
    for row, answer in enumerate(steps):
        slip = first_slip(answer)
        if slip == len(answer):
            new = new_at(texts[row], prefixes)
            name = "right" if new > TASK.length else "new"
            chosen[name] = min(chosen.get(name, (new, row)), (new, row))
            continue
        if of_models[0][row, slip, token(answer[slip].token)] < CHANCE:
            continue
        least = [
            min(
                (of_right(answer[t], each[row, t]) for t in range(slip + 1, len(answer))), default=1
            )
            for each in of_models
        ]
        name, doubt = (answer[slip].place[0], least[0]) if least[1] > SURE else ("lost", least[1])
        chosen[name] = min(chosen.get(name, (2, 0)), (doubt, row))
    missing = [name for name in NAMES if name not in chosen]
    if missing:
        raise MissingKinds(
            f"no answer of this student is of the kind {', '.join(missing)} (see shown_answers "
            f"in {__name__})"
        )
    return {
        name: shown_answer(texts[row], steps[row], [each[row] for each in of_models], prefixes)
        for name in NAMES
        for _, row in [chosen[name]]
    }


def shown_answer(text, answer, rows, prefixes):
    """One answer: its tokens, which would be right, both models' probabilities of ``SHOWN``.

    ``text``: (P + T,); ``answer``: its steps; ``rows``: (T, V) of each model.
    """
    columns = [token(each) for each in SHOWN]
    return {
        "terms": TASK.read_terms(text[None])[0].tolist(),
        "tokens": "".join(step.token for step in answer),
        "right": [step.right for step in answer],
        "new_at": new_at(text, prefixes),
        "probabilities": [
            [[round(float(row[t, column]), 4) for column in columns] for t in range(len(answer))]
            for row in rows
        ],
    }
