"""The index of real losses: every verdict is in it, can be filtered for and linked to."""

import base64
import copy
import gzip
import json
import re
import sys
import types

import jsonschema
import pytest

from opd_toy.audit.exhibits.libraries import __main__ as command
from opd_toy.audit.exhibits.libraries import index
from opd_toy.audit.exhibits.libraries.differences import differences
from opd_toy.audit.exhibits.libraries.loading import Anything, load
from opd_toy.audit.exhibits.libraries.record import NAMES, READ, RECORD, SCHEMA
from opd_toy.audit.exhibits.libraries.settings import GOALS
from tests.conftest import ROOT
from tests.pages_run import run

KEPT = json.loads(RECORD.read_text(encoding="utf-8"))
AUDITS = KEPT["results"]["audits"]


@pytest.fixture(scope="module")
def page_of_the_index():
    return run("07-index.md")


def test_every_verdict_has_a_row_an_anchor_and_its_kinds(page_of_the_index):
    rows = {row["anchor"]: row for row in page_of_the_index[2]["rows"]}
    assert len(rows) == len(AUDITS)
    for entry in AUDITS:
        row = rows[f"audit-{entry['id']}"]
        told = " ".join([*row["cells"], *row["more"].values()]).replace("`", "")
        for words in (entry["version"], entry["option"], entry["optimises"], entry["date"]):
            assert words in told, (entry["id"], words)
        assert NAMES[entry["library"]] in told and entry["estimator"] in told
        assert row["values"]["library"] == entry["library"]
        assert ("as read" in row["cells"][0]) == (entry["library"] in READ)
        if entry["source"]:
            assert f"/blob/{entry['source']['commit']}/" in row["more"]["Read"]


def test_the_kinds_of_objective():
    def kind(said):
        return index.objective_of({"optimises": said})

    assert kind("1/T × sum of local reverse KLs") == "reverse"
    assert kind("forward KL on the teacher's top 2, tail dropped") == "forward"
    assert kind("0.5 × JSD(β = 0.5) + 0.5 × forward KL") == kind("reverse KL − forward KL") == "sum"
    assert kind("reverse KL with skew 0.1") == kind("JSD(β = 0.5)") == "between"
    assert kind("zero") == "nothing" and kind("cannot be audited") == "refused"
    assert kind("none of these") == "unnamed" and kind("total variation") == "other"


def test_every_goal_and_setting_is_on_the_page(page_of_the_index):
    text = page_of_the_index[0]
    plain = text.replace("`", "")
    for goal in GOALS:
        assert f"**{goal.name[0].upper()}{goal.name[1:]}.**" in text and goal.when[1:] in plain
        assert all(words in plain for words in goal.settings.values())


def test_the_record_and_the_index_follow_the_schema():
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    follows = jsonschema.Draft202012Validator(schema).is_valid
    joined = {"audits": index.joined(AUDITS)}
    assert follows(KEPT) and follows(joined)
    for name in ("optimises", "version", "estimator", "seconds", "source"):
        for whole in (copy.deepcopy(KEPT), copy.deepcopy(joined)):
            del whole.get("results", whole)["audits"][0][name]
            assert not follows(whole), name
    assert "report" not in joined["audits"][0] and joined["audits"][0]["gives"] is not None


def test_an_audit_knows_what_it_gives():
    joined = {entry["id"]: entry for entry in index.joined(AUDITS)}
    gives = joined["areal-pure"]["gives"]
    assert gives == {"reverse KL, from the token drawn": "TeacherConfig: rl_loss_weight=0"}
    assert sum(len(entry["gives"]) for entry in joined.values()) == sum(
        len(goal.settings) for goal in GOALS
    )


# --- in a browser ------------------------------------------------------------------------


@pytest.fixture
def table(page, page_of_the_index, tmp_path):
    """The index alone in a page: a function that opens it at an address's hash."""
    made = next(each for each in page_of_the_index[1] if hasattr(each, "_repr_html_"))
    file = tmp_path / "index.html"

    def opened(fragment="", body="<body>"):
        file.write_text(f'<!doctype html><meta charset="utf-8">{body}{made._repr_html_()}')
        page.goto("about:blank")
        page.goto(file.as_uri() + fragment)
        return page.locator(".opd-index")

    return opened


def shown(table):
    return table.locator("tbody tr:visible").evaluate_all("rows => rows.map((row) => row.id)")


def fitting(**wanted):
    values = {
        entry["id"]: {
            "library": entry["library"],
            "objective": index.objective_of(entry),
            "estimator": index.estimator_of(entry),
        }
        for entry in index.sorted_by_library(AUDITS)
    }
    return [f"audit-{id}" for id, has in values.items() if has.items() >= wanted.items()]


def test_the_filter_leaves_what_fits_and_its_address_leads_back(table, page):
    whole = table()
    assert shown(whole) == fitting()
    for wanted in (
        {"library": "areal"},
        {"objective": "nothing"},
        {"library": "skyrl", "objective": "forward", "estimator": "drawn"},
    ):
        whole.get_by_role("button", name="Show all").click()
        for key, value in wanted.items():
            whole.locator(f"select[data-key={key}]").select_option(value)
        assert shown(whole) == fitting(**wanted) != []
        line = whole.locator("[aria-live]").inner_text()
        assert line == f"{len(fitting(**wanted))} of {len(AUDITS)} verdicts"
        fragment = "#index=" + ",".join(
            wanted.get(key, "any") for key in ("library", "objective", "estimator")
        )
        assert page.url.endswith(fragment)
        whole = table(fragment)
        assert shown(whole) == fitting(**wanted)
    assert page.faults == []


def test_a_link_to_a_verdict_shows_it_whatever_was_filtered_for(table, page):
    whole = table("#index=trl,any,any")
    for anchor in ("audit-verl-k1+", "audit-areal-joint", "audit-trl-gkd-0.5"):
        page.evaluate(f"location.hash = '{anchor}'")
        page.wait_for_function(f"document.getElementById('{anchor}').querySelector('[open]')")
        assert anchor in shown(whole) and len(shown(whole)) == len(AUDITS)
        box = page.locator(f"[id='{anchor}']").bounding_box()
        assert 0 <= box["y"] < 900  # it is in the window
    assert page.faults == []


def test_a_hash_that_makes_no_sense_shows_all(table, page):
    for fragment in ("#index=", "#index=nobody,none,", "#sec-x", "#index=,,,,,", "#%C3%A4", "#1%"):
        assert len(shown(table(fragment))) == len(AUDITS)
    assert page.faults == []


def test_in_a_notebook_the_address_is_left_alone(table, page):
    whole = table("#index=areal,any,any", "<body data-jp-theme-light=true>")
    address = page.url
    page.evaluate("dispatchEvent(new Event('hashchange'))")
    assert shown(whole) == fitting()
    whole.locator("select").first.select_option("trl")
    assert shown(whole) == fitting(library="trl")
    assert page.url == address
    assert page.faults == []


def test_the_keyboard_is_enough(table, page):
    whole = table()
    whole.locator("select").first.focus()
    page.keyboard.press("ArrowDown")
    assert shown(whole) == fitting(library=next(iter(NAMES)))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.key") == "objective"
    submit = "(form) => form.dispatchEvent(new Event('submit', { cancelable: true }))"
    assert page.locator("form").evaluate(submit) is False  # leads nowhere


def test_the_data_can_be_had(table):
    address = table().get_by_role("link", name="This table as JSON").get_attribute("href")
    data = json.loads(gzip.decompress(base64.b64decode(address.split(",", 1)[1])))
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert jsonschema.Draft202012Validator(schema).is_valid(data)
    assert len(data["audits"]) == len(AUDITS)


def test_without_scripts_the_whole_table_is_there(browser, table, page):
    table()
    context = browser.new_context(java_script_enabled=False, viewport={"width": 360, "height": 800})
    bare = context.new_page()
    bare.goto(page.url)
    assert bare.locator("tbody tr:visible").count() == len(AUDITS)
    assert not bare.locator(".opd-index form").is_visible()
    assert bare.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


# --- two records ---------------------------------------------------------------------------


def changed(version="1.0.4", **changes):
    """The record with the entry areal-pure changed, and AReaL's version."""
    new = copy.deepcopy(AUDITS)
    for entry in new:
        if entry["library"] == "areal":
            entry["version"] = version
    entry = next(entry for entry in new if entry["id"] == "areal-pure")
    report = changes.pop("report", {})
    entry.update(changes)
    entry["report"].update(report)
    return new


def test_a_record_is_like_itself():
    assert differences(AUDITS, copy.deepcopy(AUDITS)) == []


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"optimises": "zero"}, "areal-pure: followed reverse KL, follows zero"),
        ({"version": "2.0.0"}, "areal: from 1.0.4 to 2.0.0"),
        ({"option": "x=1"}, "areal-pure: the option was rl_loss_weight=0"),
        ({"report": {"holds_everywhere": False}}, "areal-pure: no longer holds everywhere"),
        ({"report": {"variance": 1.0}}, "areal-pure: the variance was 0.465, is 1"),
        ({"report": {"expected_gradient": [0, 0, 0]}}, "areal-pure: another mean gradient"),
        (
            {"report": {"edges": [{"edge": "x", "severity": "broken", "finding": "y"}]}},
            "areal-pure: broken: x, y",
        ),
    ],
)
def test_what_changed_is_said(changes, said):
    found = differences(AUDITS, changed(**changes))
    assert any(line.startswith(said) for line in found), found


def test_what_came_and_went_is_said():
    assert differences(AUDITS[1:], AUDITS) == [f"{AUDITS[0]['id']}: new, {AUDITS[0]['optimises']}"]
    assert differences(AUDITS, AUDITS[1:]) == [f"{AUDITS[0]['id']}: no longer there"]


def test_the_command_compares_records(tmp_path, capsys):
    old = copy.deepcopy(KEPT)
    old["results"]["audits"] = changed(optimises="zero")
    file = tmp_path / "old.json"
    file.write_text(json.dumps(old), encoding="utf-8")
    command.main(["--against", str(file)])
    assert capsys.readouterr().out == "areal-pure: followed zero, follows reverse KL\n"
    command.main(["--against", str(RECORD)])
    assert capsys.readouterr().out == "nothing changed\n"
    with pytest.raises(SystemExit):
        command.main(["--against", str(tmp_path / "nothing.json")])


# --- a library's file without its package --------------------------------------------------


@pytest.fixture
def heavy(tmp_path, monkeypatch):
    """A package that cannot be imported as a whole, with a loss that needs none of that."""
    folder = tmp_path / "heavy_trainer"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('the whole trainer')")
    (folder / "inner" / "__init__.py").write_text("raise RuntimeError('this too')")
    (folder / "inner" / "helper.py").write_text("def half(x):\n    return x / 2\n")
    (folder / "inner" / "loss.py").write_text(
        "import nowhere_to_be_had\n"
        "from nowhere_to_be_had.deep import Base, register\n"
        "from .helper import half\n"
        "class Trainer(Base):\n    pass\n"
        "@register('x')\n"
        "def loss(x: Base | None, y: Base['n'] = None):\n    return half(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "heavy_trainer.inner.loss"


def test_a_file_is_loaded_without_its_package(heavy):
    before = set(sys.modules)
    module = load(heavy, ("nowhere_to_be_had", "nowhere_to_be_had.deep"))
    assert module.loss(4) == 2 and issubclass(module.Trainer, Anything)
    assert isinstance(module, types.ModuleType)
    assert not [name for name in set(sys.modules) - before if "heavy" in name or "nowhere" in name]


def test_what_is_not_installed_and_not_named_is_missed(heavy):
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_had"):
        load(heavy)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        load("no_such_package.loss")


# --- the texts for trackers ------------------------------------------------------------------


def test_a_report_names_the_version_of_the_record_and_is_listed():
    folder = ROOT / "examples" / "reports"
    listed = (folder / "README.md").read_text(encoding="utf-8")
    versions = index.versions(AUDITS)
    reports = sorted(folder.glob("*-*.md"))
    assert {report.name for report in reports} == set(
        re.findall(r"\(([\w-]+-[\w-]+\.md)\)", listed)
    )
    for report in reports:
        text = report.read_text(encoding="utf-8")
        package, version = re.search(r"^([\w-]+) (\d[\d.]*),", text, re.MULTILINE).groups()
        assert versions[package] == version
        assert "Thank you" in text and "What would help" in text
