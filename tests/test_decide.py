"""The page of decisions: every case has one answer, the chart gives it, and the tables name it."""

import itertools
import json
import re

import pytest
import torch

from opd_toy.audit.exhibits.libraries.decisions import (
    ADVICE,
    ANOTHER,
    FRESH_ONLY,
    QUESTIONS,
    WAYS,
    WHOSE_TEACHER,
    goal_of,
    teacher_of,
)
from opd_toy.audit.exhibits.libraries.record import RECORD
from opd_toy.audit.exhibits.libraries.settings import GOALS, as_code
from opd_toy.pages.decide import as_html
from opd_toy.pages.page import BUILDING
from opd_toy.records.provenance import ROOT
from tests.pages_run import run

KEYS = [each.key for each in QUESTIONS]
CASES = [
    dict(zip(KEYS, answers)) for answers in itertools.product(*(each.choices for each in QUESTIONS))
]


def way_of(choices):
    """The only Way for these answers, {key of a question: answer}."""
    (way,) = (
        way for way in WAYS if all(choices[key] in answers for key, answers in way.when.items())
    )
    return way


def advice_for(choices):
    """{key of a question: what its answer adds}, for the way of these answers."""
    kind = way_of(choices).kind
    return {
        each.question: each.says
        for each in ADVICE
        if choices[each.question] == each.answer and kind in each.kinds
    }


def words(markdown):
    """Inline Markdown as a reader sees it, in one line."""
    text = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", markdown)
    text = re.sub(r"[`*]", "", text).replace("<br>", " ")
    return " ".join(text.split())


@pytest.fixture(scope="module")
def decide():
    return run("decide.md")


def test_every_case_has_one_way_and_one_answer_to_each_further_question():
    assert len(CASES) == 64
    for case in CASES:
        assert set(advice_for(case)) == {each.question for each in ADVICE}
        matching = [
            each
            for each in ADVICE
            if case[each.question] == each.answer and way_of(case).kind in each.kinds
        ]
        assert len(matching) == len(advice_for(case))
    assert {way_of(case).follow for case in CASES} == {way.follow for way in WAYS}


def test_a_way_has_settings_by_audits_or_says_why_not():
    audits = json.loads(RECORD.read_text(encoding="utf-8"))["results"]["audits"]
    verdicts = {entry["id"]: entry["optimises"] for entry in audits}
    for way in WAYS:
        goal = goal_of(way)
        assert bool(goal) == (way.goal is not None) and bool(goal) != bool(way.instead)
        verl = goal and (*goal.settings_of("verl"),)
        assert bool(way.lacking) == (verl == () and way.when["teacher"] == ("logits",))
        for name in goal.settings if goal else ():
            assert verdicts[name].startswith(goal.verdicts), name
            assert goal.verdicts[0].split()[0] in way.follow


def test_the_tables_name_all_that_the_chart_can_say(decide):
    text = decide[0]
    told = words(text)
    for way in WAYS:
        assert way.follow in told and words(way.estimate) in told and words(way.read) in told
        goal = goal_of(way)
        assert all(words(said) in told for said in (goal.settings.values() if goal else ()))
    assert all(words(each.says) in told for each in ADVICE)
    audited = json.loads(RECORD.read_text(encoding="utf-8"))["provenance"]
    assert audited["date"][:10] in told and audited["versions"]["trl"] in told


def test_the_top_k_losses_take_batches_and_a_teacher_that_is_sure(decide):
    """A row of the batch as that row alone; finite, with a finite gradient, at a logit of 30."""
    names = decide[2]
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 4, 200, generator=generator)
    teacher[0, 3] = teacher[1, 7] = student[1, 9] = 30.0
    student.requires_grad_()
    tokens = torch.tensor([3, 0, 5, 199])
    sent = lambda q: q.log_softmax(-1).topk(64)
    of = lambda q, token: q.log_softmax(-1).gather(-1, token[..., None]).squeeze(-1)
    for loss in (
        lambda p, q, _: names["rest_as_one"](p, *sent(q)),
        lambda p, q, token: names["rest_drawn"](p, *sent(q), token, of(q, token)),
    ):
        each = loss(student, teacher, tokens)
        (gradient,) = torch.autograd.grad(each.sum(), student)
        assert each.shape == (4,) and each.isfinite().all() and gradient.isfinite().all()
        alone = [loss(*row) for row in zip(student, teacher, tokens)]
        torch.testing.assert_close(each, torch.stack(alone))
    same = names["rest_as_one"](teacher, *sent(teacher))
    torch.testing.assert_close(same, torch.zeros(4), atol=1e-6, rtol=0)


def test_a_setting_says_whose_teacher_it_follows():
    assert {teacher_of(name) for goal in GOALS for name in goal.settings} == {
        ANOTHER,
        *WHOSE_TEACHER.values(),
    }
    of = {name: teacher_of(name) for goal in GOALS for name in goal.settings}
    assert of["verl-distillation-k2"] == ANOTHER != of["verl-k2"]


def test_a_drawn_token_s_loss_without_the_ratio_is_marked_in_chart_and_tables(decide):
    """k2 and k3 as losses stand at one draw's own log-ratio; a policy gradient has the ratio."""
    audits = json.loads(RECORD.read_text(encoding="utf-8"))["results"]["audits"]
    assert {each["estimator"] for each in audits if each["id"] in FRESH_ONLY} == {"token drawn"}
    words = {name: each for goal in GOALS for name, each in goal.settings.items()}
    assert not any("use_policy_gradient" in words[name] for name in FRESH_ONLY)
    said = decide[2]["said"]
    for name in ("verl-distillation-k2", "verl-k2", "verl-k3+", "verl-distillation-k3"):
        assert said(name, words[name]).endswith("(fresh texts only)")
    assert "fresh" not in said("verl-distillation-k1-reward", words["verl-distillation-k1-reward"])


def test_settings_with_another_model_stand_open_and_the_rest_is_folded(decide):
    names, (chart,) = decide[2], [each for each in decide[1] if hasattr(each, "ways")]
    (way,) = (each for each in chart.ways if each["goal"] == "reverse KL, from the token drawn")
    (title, rest), *_ = way["folded"].items()
    assert title == names["BESIDE"] and "SDPOConfig" in rest and "kl_loss_type" in rest
    assert "k1" in way["set"] and "SDPO" not in way["set"] and "kl_loss_type" not in way["set"]


@pytest.fixture
def chart(page, decide, tmp_path):
    """The chart alone in a page: a function that opens it at an address's hash."""
    made = next(each for each in decide[1] if hasattr(each, "_repr_html_"))
    file = tmp_path / "decide.html"

    def opened(fragment="", body="<body>"):
        file.write_text(f'<!doctype html><meta charset="utf-8">{body}{made._repr_html_()}')
        page.goto("about:blank")
        page.goto(file.as_uri() + fragment)
        return page.locator(".opd-decide")

    return opened


def given(chart):
    return {
        radio.get_attribute("data-question"): radio.get_attribute("value")
        for radio in chart.locator("input:checked").all()
    }


def answered(chart):
    """{title: text} of what is to be seen, and the line that is read out."""
    chart.evaluate("root => root.querySelectorAll('details').forEach((each) => (each.open = true))")
    shown = chart.locator("dl > div:visible")
    titles = shown.locator("dt").all_inner_texts()
    texts = [" ".join(text.split()) for text in shown.locator("dd").all_inner_texts()]
    assert len(titles) == len(texts)
    return dict(zip(titles, texts)), chart.locator("[aria-live]").inner_text()


def expected(case):
    way, advice = way_of(case), advice_for(case)
    parts = {
        "How": words(way.estimate),
        "Read": words(way.read),
        "Age of the texts": words(advice["rollouts"]),
        "Reward": words(advice["reward"]),
    }
    return parts, f"Follow {way.follow}."


def test_each_case_is_answered_and_its_address_leads_back(chart, page):
    card = chart()
    for case in CASES[1:] + CASES[:1]:  # the first is chosen already
        for key, answer in case.items():
            card.locator(f"input[data-question={key}][value={answer}]").check()
        (parts, line), (wanted, wanted_line) = answered(card), expected(case)
        assert line == wanted_line and parts.items() >= wanted.items()
        goal = goal_of(way_of(case))
        settings = map(words, goal.settings.values() if goal else [way_of(case).instead])
        assert all(each in parts["In your library"] for each in settings)
        assert page.url.endswith("#decide=" + ",".join(case[key] for key in KEYS))
    for case in CASES[::9]:
        card = chart("#decide=" + ",".join(case.values()))
        assert given(card) == case and answered(card)[1] == expected(case)[1]
    assert page.faults == []


def test_a_hash_that_makes_no_sense_leaves_the_first_answers(chart, page):
    first = {each.key: next(iter(each.choices)) for each in QUESTIONS}
    for fragment in (
        "",
        "#decide=",
        "#decide=one,text,same",
        "#sec-start",
        "#decide=logits,,all,,,,",
    ):
        found = given(chart(fragment))
        assert found == first | ({"keep": "all"} if ",,all" in fragment else {})
    assert first["keep"] == "one"  # as the opening chapter says: the reverse KL
    assert page.faults == []


def test_back_and_a_typed_address_change_the_answer(chart, page):
    card = chart("#decide=text,same,all,fresh,no")
    page.evaluate("location.hash = 'decide=number,same,one,stale,yes'")
    page.wait_for_function("document.querySelector('[aria-live]').textContent.includes('reverse')")
    assert given(card)["teacher"] == "number"


def test_in_a_notebook_the_address_is_left_alone(chart, page):
    first = given(chart())
    card = chart("#decide=text,same,all,fresh,no", "<body data-jp-theme-light=true>")
    address = page.url
    page.evaluate("dispatchEvent(new Event('hashchange'))")
    assert given(card) == first
    card.locator("input[data-question=teacher]").last.check()
    assert page.url == address
    assert given(card) != first
    assert page.faults == []


def test_the_keyboard_is_enough(chart, page):
    card = chart()
    card.locator("input[data-question=teacher]").first.focus()
    page.keyboard.press("ArrowDown")
    assert given(card)["teacher"] == "top"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.question") == "tokenizer"


def test_without_scripts_the_chart_gives_way_to_the_tables(browser, chart, page):
    chart()
    bare = browser.new_context(java_script_enabled=False).new_page()
    bare.goto(page.url)
    assert not bare.locator(".opd-decide").is_visible()
    assert "tables below" in bare.locator("noscript").inner_text()
    bare.context.close()


@pytest.mark.parametrize("labels", [[], ["teacher"]], ids=["three columns", "with a teacher"])
def test_on_a_phone_a_cell_says_whose_word_it_is(page, labels):
    """The last column is the audit's, whether or not the one before names a teacher."""
    labels = ["", "", *labels, "the audit says"]
    css = (ROOT / "book/_static/book.css").read_text(encoding="utf-8")
    table = f"<table>{'<td>words</td>' * len(labels)}</table>"
    page.set_viewport_size({"width": 360, "height": 740})
    page.set_content(
        f"<style>{css}</style><section id=what-to-set-in-your-library>{table}</section>"
    )
    said = page.evaluate(
        "[...document.querySelectorAll('td')].map(it => getComputedStyle(it, '::before').content)"
    )
    assert said == [f'"{label}: "' if label else "none" for label in labels]


def test_an_option_with_its_value_is_code_as_a_whole():
    """Quotes outside code would be made curly, and could not be copied."""
    assert as_code('algo.kl.estimator="k2"; x') == '`algo.kl.estimator="k2"`; x'
    outside = [
        re.sub(r"`[^`]*`", "", as_code(each)) for goal in GOALS for each in goal.settings.values()
    ]
    assert not [each for each in outside if '"' in each]


def test_links_lead_to_pages_there_and_to_notebooks_in_jupyterlab(monkeypatch):
    monkeypatch.setenv(BUILDING, "yes")
    assert '<a href="x.html#sec-y">z</a>' in as_html("[z](x.md#sec-y), `a<b`")
    assert "<code>a&lt;b</code>" in as_html("[z](x.md#sec-y), `a<b`")
    monkeypatch.delenv(BUILDING)
    assert '<a href="x.md#sec-y">z</a>' in as_html("[z](x.md#sec-y)")
