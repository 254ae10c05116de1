"""How answers derail: a small student's sums, token by token, before a slip and after it.

Teacher and student have learned from right workings alone, so no text that either has seen goes
on after a slip.  The student is asked all questions of its training texts, once each.
``derailing`` returns a JSON-able dict, the results of ``figures/derailing.json``.
"""

import torch

from opd_toy.lm import pretraining
from opd_toy.lm.model import Shape, response_logits, sample, uniforms
from opd_toy.lm.presets import Preset, Recipe
from opd_toy.lm.slips import read_steps, slips
from opd_toy.lm.tasks import SYMBOLS, Sums, is_test

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
CHANCE, SURE = 0.02, 0.9  # by which the shown answers are chosen, see ``shown_answers``


def derailing(folder, watch=None):
    """The record's results; models are kept in ``folder``.

    watch(name) gives a report(done, total) for a stage.
    """
    watch = watch or (lambda name: None)
    teacher = pretraining.teacher(PRESET, folder, watch("teacher"))
    student = pretraining.student(PRESET, folder, watch("student"))
    prompts, prefixes = questions(), training_prefixes()
    texts = draw_answers(student, prompts)
    steps = [steps_of(text) for text in texts]
    models = {"student": student, "teacher": teacher}
    return {
        "tokens": SHOWN,
        "questions": len(prompts),
        "training_texts": PRESET.student.steps * PRESET.student.batch,
        "parameters": {who: model.shape.parameters for who, model in models.items()},
        "teacher_right": accuracy(draw_answers(teacher, prompts)),
        "outcomes": outcomes(texts, steps),
        "slipping": slipping(texts, steps, models, prefixes),
        "planted": after_planting(student, texts, steps),
        "positions": by_position(texts, steps, prefixes),
        "answers": shown_answers(texts, steps, models, prefixes),
    }


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
    """All beginnings, the question included, of all texts that the student has learned from."""
    recipe, found = PRESET.student, set()
    for step in range(recipe.steps):
        corpus = pretraining.corpus(TASK, recipe.batch, recipe.seed, "student", step)
        for text in map(TASK.read, corpus):
            found.update(text[:length] for length in range(TASK.prompt_length, len(text) + 1))
    return found


def draw_answers(model, prompts):
    """One answer to each of ``prompts``, with the same random numbers for every model."""
    return sample(model, prompts, numbers(len(prompts)), TASK.end, TASK.pad)


def numbers(count):
    return uniforms(0, "answers", shape=(count, TASK.length))


def steps_of(text):
    """The steps of one text (P + T)."""
    terms = TASK.read_terms(text[None])[0].tolist()
    return read_steps(terms, TASK.read(text[TASK.prompt_length :]))


def probabilities(model, texts):
    """Probabilities (B, T, V) that the model gives to each next token, float64."""
    with torch.no_grad():
        return torch.softmax(response_logits(model, texts, TASK).double(), -1)


def of_right(step, row):
    """The probability, of a row of V, that the next token is right."""
    return float(sum(row[token(each)] for each in step.right))


def accuracy(texts):
    return float(TASK.rewards(texts).mean())


# --- what is counted -------------------------------------------------------------------------


def outcomes(texts, steps):
    """What became of the answers: counts.

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
    """{"before" | "new" | "after": {place: a row a token}}, the columns as in ``slipping``."""
    of_models = [probabilities(model, texts) for model in models.values()]
    found = {"before": {}, "new": {}, "after": {}}
    for row, answer in enumerate(steps):
        slip, new = min(slips(answer), default=len(answer)), new_at(texts[row], prefixes)
        for t, step in enumerate(answer):
            numbers = [1 - of_right(step, each[row, t]) for each in of_models]
            numbers.append(not step.is_right)
            for when in ["after"] if t > slip else ["before", "new"] if t >= new else ["before"]:
                found[when].setdefault(step.place, []).append(numbers)
    return {
        when: {at: torch.tensor(each, dtype=torch.float64) for at, each in places.items()}
        for when, places in found.items()
    }


def after_planting(student, texts, steps):
    """Slips an answer after a planted one, and in the same answers left as they were.

    In answers that are right so far the first digit of the first sum is replaced by the wrong
    digit that the student finds likeliest; it goes on with the random numbers that it had.
    """
    rows = [row for row, answer in enumerate(steps) if min(slips(answer), default=99) > PLANTED_AT]
    at = TASK.prompt_length + PLANTED_AT
    digits = probabilities(student, texts[rows])[:, PLANTED_AT, : TASK.base]
    for row, each in zip(rows, digits):
        each[int(steps[row][PLANTED_AT].right)] = 0
    begun = torch.cat([texts[rows, :at], digits.argmax(1, keepdim=True)], 1)
    later = numbers(len(texts))[rows, PLANTED_AT + 1 :]
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

    An answer that has ended stays what it was.
    """
    left, slipped = torch.zeros(2, TASK.length + 1, dtype=torch.float64)
    for text, answer in zip(texts, steps):
        left[new_at(text, prefixes) :] += 1
        slipped[min(slips(answer), default=TASK.length) + 1 :] += 1
    return {"unseen": (left / len(texts)).tolist(), "slipped": (slipped / len(texts)).tolist()}


def new_at(text, prefixes):
    """After how many tokens an answer begins as no training text does; past its end: never."""
    read, start = TASK.read(text), TASK.prompt_length
    ends = range(start, len(read) + 1)
    return next((end - start for end in ends if read[:end] not in prefixes), TASK.length + 1)


# --- the answers that are shown --------------------------------------------------------------


def shown_answers(texts, steps, models, prefixes):
    """Some answers whole: {name: {...}}, each the one that shows its name most clearly.

    sum, number: the first slip is in a sum, or in a number to add, and later what is right is
    least likely for the student while the teacher stays ``SURE`` of it; lost: it is least likely
    for the teacher; right: all tokens are, and a training text has them; new: all are, and the
    fewest of them begin a training text.  A slip that is shown had at least the probability
    ``CHANCE``.
    """
    of_models = [probabilities(model, texts) for model in models.values()]
    chosen = {}
    for row, answer in enumerate(steps):
        slip = min(slips(answer), default=None)
        if slip is None:
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
    return {
        name: shown_answer(texts[row], steps[row], [each[row] for each in of_models], prefixes)
        for name in ("sum", "number", "lost", "new", "right")
        for _, row in [chosen[name]]
    }


def shown_answer(text, answer, rows, prefixes):
    """One answer: its tokens, which would be right, both models' probabilities of ``SHOWN``."""
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
