"""Old texts, doors and answers that derail: their parts one by one, with hardly a training."""

import dataclasses
import itertools
import json
from types import SimpleNamespace

import pytest
import torch

from opd_toy.lm import derailing, derailing_after, measures, searching, slips, stale, stale_claims
from opd_toy.lm.doors import END, Doors, House, Rule
from opd_toy.lm.model import Transformer, fingerprint, response_mask, sample, uniforms
from opd_toy.records.provenance import recorded

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def steps(monkeypatch):
    """What each AdamW that is made gets, the rate of each step, and how gradients are clipped."""
    noted = SimpleNamespace(made=[], rates=[], clipped=[])
    init, step, clip = (
        torch.optim.AdamW.__init__,
        torch.optim.AdamW.step,
        torch.nn.utils.clip_grad_norm_,
    )

    def made(self, weights, **options):
        noted.made.append(options)
        init(self, weights, **options)

    def stepped(self, *of):
        noted.rates.append(self.param_groups[0]["lr"])
        return step(self, *of)

    def clipped(weights, *of, **options):
        noted.clipped.append((*of, options))
        return clip(weights, *of, **options)

    monkeypatch.setattr(torch.optim.AdamW, "__init__", made)
    monkeypatch.setattr(torch.optim.AdamW, "step", stepped)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clipped)
    return noted


# --- doors -------------------------------------------------------------------------------


def test_a_student_behind_doors_learns_at_a_rate_that_rises_and_stays(steps, monkeypatch):
    drawn, writes = [], searching.draw_texts
    note = lambda writer, *rest: drawn.append(rest) or writes(writer, *rest)
    monkeypatch.setattr(searching, "draw_texts", note)
    student = Transformer(searching.SHAPE)
    settings = searching.Training(12, 3, 1e-3)
    searching.train("sft", House(Rule(0.1)), student, settings, 7, "first")
    adam = {"betas": (0.9, 0.95), "weight_decay": 0.0, "fused": True}
    assert steps.made == [{"lr": 1e-3} | adam] and steps.clipped == [(1.0, {})] * 12
    assert steps.rates == pytest.approx([1e-3 * min(1, step / 10) for step in range(1, 13)])
    assert drawn == [(3, 7, "first", step) for step in range(1, 13)]


def test_texts_behind_doors_end_with_the_longest():
    writer, task = House(Rule(0.3)), Doors()
    texts = searching.draw_texts(writer, 20, 4, "first", 2)
    prompts = task.prompts(20, 4, "first", 2)
    numbers = uniforms(0, 4, "first", 2, shape=(20, task.length))
    whole = sample(writer, prompts, numbers, END, task.pad)
    reached = max(len(task.read(text)) for text in whole)
    assert torch.equal(texts, whole[:, :reached]) and 6 < reached <= 13
    assert torch.equal(searching.draws(3), uniforms(0, "answers", shape=(3, task.length)))


def test_the_answers_shown_are_those_to_one_question():
    student, task = Transformer(searching.SHAPE), Doors()
    prompts = task.prompts(1, "asked", split="test").repeat(40, 1)
    texts = sample(House(student), prompts, searching.draws(40), END, task.pad)
    found = searching.answers_to_one(student)
    assert found == [task.read(text[5:]) for text in texts] and len(set(found)) > 10


def test_doors_keep_what_is_done_after_each_student(tmp_path, monkeypatch):
    plan, kept = itertools.product(searching.NOISES, searching.SEEDS), []

    def students(noise, seed):
        path = tmp_path / "doors.pt"
        kept.append(torch.load(path)["state"]["iteration"] if path.exists() else 0)
        return [{"noise": noise, "seed": seed}]

    monkeypatch.setattr(searching, "students", students)
    monkeypatch.setattr(searching, "measured", lambda model: {"noise": model.noise})
    heard = []
    watch = lambda name: lambda done, total: heard.append((name, done, total))
    found = searching.searching(tmp_path, watch)
    assert kept == list(range(12)) and heard == [("students", n, 12) for n in range(1, 13)]
    assert [tuple(run.values()) for run in found["runs"]] == list(plan)
    assert found["teachers"] == {str(noise): {"noise": noise} for noise in searching.NOISES}


# --- old texts ---------------------------------------------------------------------------


def test_a_run_on_old_texts_learns_at_one_rate(steps, monkeypatch):
    """And is measured at each so many steps."""
    shorter = dataclasses.replace(stale.PRESET.distillation, steps=5, batch=3, evaluate_every=2)
    monkeypatch.setattr(stale, "PRESET", dataclasses.replace(stale.PRESET, distillation=shorter))
    distances, drifts = itertools.count(), itertools.count(1)
    beside = []
    note = lambda student, teacher: beside.append((student, teacher)) or next(distances)
    monkeypatch.setattr(stale, "distance", note)
    keys = ("moved", "share_token", "share_text")
    monkeypatch.setattr(stale, "drift", lambda batch: dict.fromkeys(keys, next(drifts)))
    teacher, student = models = [
        Transformer(recipe.shape) for recipe in (stale.PRESET.teacher, stale.PRESET.student)
    ]
    before = fingerprint(student)
    curve = stale.run("none", 1, 5, *models)
    assert fingerprint(student) == before  # a copy is trained
    assert {id(model) for _, model in beside} == {id(teacher)}
    assert len({id(model) for model, _ in beside} - {id(student), id(teacher)}) == 1
    adam = {"lr": 5e-4, "betas": (0.9, 0.95), "weight_decay": 0.0}
    assert steps.made == [adam] and steps.rates == [5e-4] * 5
    assert steps.clipped == [(1.0, {"error_if_nonfinite": True})] * 5
    assert curve == {"kl": [0, 1, 2], "moved": [0, 1, 2]} | dict.fromkeys(keys[1:], [1, 1, 2])


def test_a_batch_holds_what_both_models_say_of_the_texts():
    task, count = stale.TASK, stale.PRESET.distillation.batch
    student, teacher = (Transformer(stale.PRESET.student.shape, seed) for seed in (1, 2))
    texts, log_mu = stale.written(student, 3, 7)
    prompts = task.prompts(count, 3, "stale", 7, split="train")
    numbers = uniforms(3, "stale", 7, shape=(count, task.length))
    assert torch.equal(texts, sample(student, prompts, numbers, task.end, task.pad))
    batch, tokens = stale.read(student, teacher, texts, log_mu), texts[:, task.prompt_length :]
    logits = {who: model(texts[:, :-1])[:, task.prompt_length - 1 :] for who, model in
              (("p", student), ("q", teacher))}  # fmt: skip
    chosen = {
        who: each.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
        for who, each in logits.items()
    }
    close = torch.testing.assert_close
    close(batch.student_logits, logits["p"]), close(batch.teacher_logits, logits["q"])
    close(batch.log_p, chosen["p"]), close(batch.log_q, chosen["q"]), close(log_mu, batch.log_p)
    assert batch.log_p.requires_grad and batch.student_logits.requires_grad
    assert not (batch.teacher_logits.requires_grad or batch.log_q.requires_grad)
    assert not log_mu.requires_grad and batch.log_mu is log_mu
    assert torch.equal(batch.mask, response_mask(texts, task.prompt_length, task.end))
    assert batch.normalizer == batch.mask.sum()
    asked = measures.questions(teacher, stale.PRESET)
    own = sample(student, asked.prompts, asked.numbers, task.end, task.pad)
    kl = measures.text_kls(student, teacher, task, own).sum(1).mean()
    assert stale.distance(student, teacher) == float(kl) > 0


def test_the_variants_are_what_their_words_say(monkeypatch):
    asked = []
    note = lambda batch, **options: asked.append(options)
    monkeypatch.setattr(stale, "policy_gradient", note)
    batch = SimpleNamespace(log_mu="mu", weights=lambda *of: of)
    for name in ("ratio", "truncate", "mask", "clip", "prefix", "sequence"):
        stale.VARIANTS[name].loss(batch)
    weights = [("token", "ratio", None), ("token", "truncate", 2.0), ("token", "mask", (0.5, 2.0))]
    assert asked[:3] == [{"weights": each} for each in weights]
    assert asked[3] == {"behaviour_log_probabilities": "mu", "clip": 0.2}
    assert asked[4:] == [{"weights": (level, "ratio", None)} for level in ("prefix", "sequence")]
    plan = list(stale.planned())
    ages = {name: [age for each, age, seed in plan if (each, seed) == (name, 2)]
            for name in stale.VARIANTS}  # fmt: skip
    assert ages == {
        name: [0, 1, 4, 16] if name in ("none", "gkd") else [1, 4, 16] for name in stale.VARIANTS
    }
    assert plan[0] == ("none", 0, 1) and plan[-1] == ("gkd", 16, 3)
    mean = stale.averaged([{"kl": [1.0, 2.0], "moved": [3.0]}, {"kl": [5.0, 7.0], "moved": [4.0]}])
    assert mean == {"kl": [3.0, 4.5], "moved": [3.5], "ends": [2.0, 7.0]}


def test_the_progress_of_runs_on_old_texts(monkeypatch, tmp_path):
    keys, heard, models = ("kl", "moved", "share_token", "share_text"), [], []
    for who in ("teacher", "student"):
        models.append(Transformer(stale.PRESET.student.shape))

        def made(preset, folder, report, model=models[-1]):
            assert (preset, folder) == (stale.PRESET, tmp_path)
            report(1, 1)
            return model

        monkeypatch.setattr(stale.pretraining, who, made)

    def run(name, age, seed, *of):
        assert all(one is other for one, other in zip(of, models, strict=True))
        return {key: [0.0, age] for key in keys}

    monkeypatch.setattr(stale, "run", run)
    watch = lambda name: lambda done, total: heard.append((name, done, total))
    found = stale.stale(tmp_path, watch)
    made = [("teacher", 1, 1), ("student", 1, 1)]
    assert heard == made + [("runs", done, 96) for done in range(1, 97)]
    ends = {name: {age: run["ends"] for age, run in runs.items()} for name, runs in
            found["runs"].items()}  # fmt: skip
    wanted = {str(age): [age] * 3 for age in (0, 1, 4, 16)}
    for name, by_age in ends.items():
        fresh = name in ("none", "gkd")
        assert by_age == {age: each for age, each in wanted.items() if fresh or age != "0"}
    assert found["claims"] == stale_claims.judged(found)
    assert stale.stale(tmp_path, watch) == found and heard[98:] == made + [("runs", 96, 96)] * 96


def with_ends(**ends):
    """The record, with these ends of a variant at all of its ages, and a start of 1."""
    record = json.loads(json.dumps(recorded("stale-rollouts", "stale")))
    for name, values in ends.items():
        for run in record["runs"][name].values():
            run["ends"] = list(values)
    record["runs"]["gkd"]["0"]["kl"][0] = 1.0
    return record


LEVEL, BEHIND, AHEAD, MIXED = (0.5,) * 3, (0.6,) * 3, (0.4,) * 3, (0.4, 0.6, 0.6)


@pytest.mark.parametrize(
    "rule, ends, signs",
    [
        ("no-ratio", {"none": BEHIND, "ratio": LEVEL}, "TTF"),
        ("no-ratio", {"none": (1.1,) * 3, "ratio": LEVEL}, "TTT"),
        ("no-ratio", {"none": LEVEL, "ratio": LEVEL}, "FFF"),
        ("no-ratio", {"none": MIXED, "ratio": LEVEL}, "??F"),
        ("ratio-keeps", {"ratio": LEVEL}, "TT"),
        ("ratio-keeps", {"ratio": (1.0,) * 3}, "FF"),
        ("ratio-keeps", {"ratio": (0.9, 1.0, 0.9)}, "??"),
        ("gkd-hardly-minds", {"gkd": (0.001,) * 3}, "TTTT"),
        ("gkd-hardly-minds", {"gkd": LEVEL, "none": LEVEL}, "FFFT"),
        ("truncation-costs-little", {"truncate": (1.1,) * 3, "ratio": (1.0,) * 3}, "TTT"),
        ("truncation-costs-little", {"truncate": (1.11,) * 3, "ratio": (1.0,) * 3}, "FFF"),
        ("products", {"prefix": BEHIND, "sequence": LEVEL, "ratio": LEVEL}, "TT"),
        ("products", {"prefix": AHEAD, "sequence": MIXED, "ratio": LEVEL}, "F?"),
        ("kept-cost", {"kept": BEHIND, "ratio": LEVEL}, "TT"),
        ("kept-cost", {"kept": MIXED, "ratio": LEVEL}, "??"),
        ("one-step", {"none": LEVEL}, "T"),
    ],
)
def test_the_rules_on_old_texts(rule, ends, signs):
    """True T, false F, not to be told ?: "at most a tenth" has the tenth itself."""
    [row] = [row for row in stale_claims.judged(with_ends(**ends)) if row["id"] == rule]
    told = {True: "T", False: "F", None: "?"}
    assert "".join(told[part] for part in row["parts"].values()) == signs


def test_one_step_is_compared_with_fresh_text():
    record = with_ends(none=(1.0, 2.0, 3.0))
    for end, within in ((2.2, True), (2.21, False)):
        record["runs"]["none"]["1"]["ends"] = [end] * 3
        row = stale_claims.one_step.judged(record)
        assert row["parts"] == {"within a tenth": within}
        assert row["figure"] == {"age 1": end, "fresh": 2.0}
    record["runs"]["gkd"]["0"]["ends"], record["runs"]["gkd"]["16"]["ends"] = [2.0], [2.2]
    assert stale_claims.gkd_hardly_minds.judged(record)["parts"]["within a tenth of fresh"]
    record["runs"]["gkd"]["16"]["ends"] = [2.21]
    assert not stale_claims.gkd_hardly_minds.judged(record)["parts"]["within a tenth of fresh"]


# --- answers that derail -----------------------------------------------------------------


def test_the_record_of_derailing_has_each_count_in_its_place(monkeypatch, tmp_path):
    texts = {"S": ["text", "other"], "T": ["theirs"]}
    models = {
        who: SimpleNamespace(name=who[0].upper(), shape=SimpleNamespace(parameters=number))
        for who, number in (("student", 3), ("teacher", 4))
    }
    stages, calls = [], []
    for who, one in models.items():
        made = lambda *of, one=one: stages.append(of) or one
        monkeypatch.setattr(derailing.pretraining, who, made)
    monkeypatch.setattr(derailing, "heed_stop", lambda: calls.append("heed"))
    monkeypatch.setattr(derailing, "questions", lambda: ["one", "two", "three"])
    monkeypatch.setattr(derailing, "training_prefixes", lambda: "prefixes")
    monkeypatch.setattr(derailing, "draw_answers", lambda model, prompts: texts[model.name])
    monkeypatch.setattr(derailing, "steps_of", lambda text: f"steps of {text}")
    monkeypatch.setattr(derailing, "accuracy", lambda texts: len(texts) / 4)
    parts = ("shown_answers", "outcomes", "slipping", "after_planting", "by_position")
    for name in parts:
        note = lambda *of, name=name: calls.append(name) or (name, *of)
        monkeypatch.setattr(derailing, name, note)
    found = derailing.derailing(tmp_path, lambda name: name)
    read = (texts["S"], ["steps of text", "steps of other"])
    assert stages == [(derailing.PRESET, tmp_path, who) for who in ("teacher", "student")]
    assert calls == [parts[0], "heed", *parts[1:], "heed"]
    assert found == {
        "tokens": "0123456789+=.",
        "questions": 3,
        "training_texts": 51_200,
        "parameters": {"student": 3, "teacher": 4},
        "teacher_right": 0.25,
        "outcomes": ("outcomes", *read),
        "slipping": ("slipping", *read, models, "prefixes"),
        "planted": ("after_planting", models["student"], *read),
        "positions": ("by_position", *read, "prefixes"),
        "answers": ("shown_answers", *read, models, "prefixes"),
    }


@pytest.mark.parametrize("seen, name", [(17, "right"), (16, "new")])
def test_an_answer_whose_last_token_is_new_is_new(seen, name, monkeypatch):
    """It is as long as answers are."""
    line = "8 9 4 7:9+8=71+4=12+7=82."
    text = torch.tensor([derailing.token(each) for each in line])
    assert len(text) == derailing.LENGTH
    monkeypatch.setattr(derailing, "probabilities", lambda model, texts: torch.zeros(1, 17, 16))
    prefixes = {line[: 8 + length] for length in range(seen + 1)}
    others = ", ".join(each for each in derailing.NAMES if each != name)
    with pytest.raises(derailing.MissingKinds, match=f"of the kind {others} "):
        derailing.shown_answers([text], [derailing.steps_of(text)], {"one": 1}, prefixes)
    with pytest.raises(ValueError, match="terms is 10; give a whole number"):
        slips.read_steps([10, 1], "10+1=11.")


def test_a_student_s_slips_are_named_for_what_they_are(monkeypatch):
    asked = {}
    answers = {
        "questions": "prompts",
        "draw_answers": ["text", "other"],
        "outcomes": {"right": 1, "slipped": 2, "tokens": 9},
        "slipping": {
            when: {"student": x, "teacher": 9} for when, x in (("alike", 3), ("after", 4))
        },
        "after_planting": {"answers": 9, "as_written": 5, "planted": 6},
    }
    for name, answer in answers.items():
        note = lambda *of, name=name, answer=answer: asked.setdefault(name, of) and answer or answer
        monkeypatch.setattr(derailing, name, note)
    monkeypatch.setattr(derailing, "steps_of", lambda text: f"steps of {text}")
    found = derailing_after.slips_of("student", "teacher", "prefixes")
    names = ("right", "slipped", "alike", "after", "as_written", "planted")
    assert found == dict(zip(names, range(1, 7)))
    texts, steps = ["text", "other"], ["steps of text", "steps of other"]
    models = {"student": "student", "teacher": "teacher"}
    assert asked == {
        "questions": (),
        "draw_answers": ("student", "prompts"),
        "outcomes": (texts, steps),
        "slipping": (texts, steps, models, "prefixes"),
        "after_planting": ("student", texts, steps),
    }


def test_each_way_of_going_on_has_its_own_folder_of_weights(monkeypatch, tmp_path):
    """Which are read from where the training has left them, seed by seed."""
    calls, heard = [], []
    for who in ("teacher", "student"):
        made = lambda preset, folder, report, who=who: report(1, 1) or who
        monkeypatch.setattr(derailing_after.pretraining, who, made)
    monkeypatch.setattr(derailing, "training_prefixes", lambda: "prefixes")
    monkeypatch.setattr(derailing_after, "slips_of", lambda *of: of)
    monkeypatch.setattr(derailing_after, "load", lambda path: path.name)

    def distill(name, preset, seed, *models, folder, report):
        calls.append((name, seed, *models, folder, preset.distillation.steps))
        report(1, 2)

    monkeypatch.setattr(derailing_after, "distill", distill)
    watch = lambda name: lambda done, total: heard.append(name)
    found = derailing_after.further(tmp_path, watch)
    ways = [(name, seed) for name in derailing_after.METHODS for seed in (1, 2, 3)]
    assert calls == [(*way, "teacher", "student", tmp_path, 300) for way in ways]
    assert heard == ["teacher", "student", *(f"{name}, seed {seed}" for name, seed in ways)]
    assert found["start"] == ("student", "teacher", "prefixes")
    assert found["methods"] == {
        name: [
            (f"derailing-{name}-seed-{seed}-steps-300.safetensors", "teacher", "prefixes")
            for seed in (1, 2, 3)
        ]
        for name in derailing_after.METHODS
    }
