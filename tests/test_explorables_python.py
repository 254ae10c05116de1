"""The sliders' Python without a browser: traits, the page's HTML, what the records become."""

import base64
import json
import re

import numpy as np
import pytest
import traitlets

from opd_toy import explorables
from opd_toy.example import STUDENT, TEACHER
from opd_toy.explorables import (
    control_study,
    host,
    learning_curves,
    loss_museum,
    stale_rollouts,
    trees,
)
from opd_toy.explorables.palette import PAPER, ROLES
from opd_toy.records import provenance
from opd_toy.sequences import TokenTree

# --- the host ---------------------------------------------------------------------------------


class Traits(traitlets.HasTraits):
    p = host.Distribution([0.25, 0.75])
    names = host.Subset(("a", "b", "c"), ["c"])


ABOVE = "every probability above 0 (its logits are finite)"


@pytest.mark.parametrize(
    "value, message",
    [
        ([0.5, 0.25, 0.25], "p must be a list of 2 probabilities, not an array of shape (3,)"),
        ([[0.5], [0.5]], "p must be a list of 2 probabilities, not an array of shape (2, 1)"),
        ([0.0, 1.0], f"p must have {ABOVE}, not [0.0, 1.0]"),
        ([np.inf, 1.0], f"p must have {ABOVE}, not [inf, 1.0]"),
        ([None, 1.0], f"p must have {ABOVE}, not [nan, 1.0]"),
        ([0.5, 0.5000015], "p must sum to 1, not 1"),
        ([0.4, 0.5], "p must sum to 1, not 0.9"),
    ],
)  # fmt: skip
def test_what_is_no_distribution_is_quoted(value, message):
    with pytest.raises(traitlets.TraitError) as error:
        Traits(p=value)
    assert str(error.value) == message


def test_a_distribution_is_made_to_sum_to_one():
    values = [0.5, 0.5000009]
    assert Traits(p=values).p == pytest.approx([x / sum(values) for x in values], rel=1e-15)
    assert sum(Traits(p=values).p) == 1.0


def test_some_of_the_names():
    assert Traits().names == ["c"] and Traits(names=["c", "a"]).names == ["a", "c"]
    for value, message in (
        (["a", "d"], "names must be names among a, b, c, not 'd'"),
        (["a", "a"], "names must have no name twice, not ['a', 'a']"),
    ):
        with pytest.raises(traitlets.TraitError) as error:
            Traits(names=value)
        assert str(error.value) == message


SHARED = "mathematics.js", "draws.js", "interface.js", "controls.js", "pictures.js"


def stripped(text):
    """Without imports, comments on lines of their own, and the word export."""
    lines = [line for line in text.split("\n") if not line.lstrip(" ").startswith("//")]
    text = "\n".join(lines)
    text = re.sub(r"(?m)^import [^;]*;\n", "", text)
    return re.sub(r"(?m)^export (?!default)", "", text)


def test_a_page_s_html_is_put_together_of_known_parts():
    widget = explorables.WhichToken(token=2)
    read = lambda name: (host.HERE / name).read_text(encoding="utf-8")
    place = f"opd-which-token-{widget.model_id[:8]}"
    own = [file for file in host.files("which_token") if file not in SHARED]
    assert own[-1] == "which_token.js" and not set(own) & {"host.js", *SHARED}
    taken = []
    for file in own:
        for names, module in re.findall(r'(?m)^import \{([^}]*)\} from "\./([^"]*)"', read(file)):
            taken += [
                each.strip() for each in names.split(",") if module in SHARED and each.strip()
            ]
    script = "".join(stripped(read(file)) for file in own)
    options = {
        "name": "which-token",
        "rules": {
            "draws": [0, 999, True],
            "seed": [0, 9999, True],
            "student": "distribution",
            "teacher": "distribution",
            "token": [1, 3, True],
        },
    }
    html = widget.to_html()
    start, _, rest = html.rpartition("mount(widget")
    names = ", ".join(dict.fromkeys([*taken, "mount"]))
    assert start == (
        f"<style>{host.style()}</style>{host.library()}"
        f'<div class="opd-host" id="{place}" data-explorable="which-token">'
        f"<noscript>{widget._still()}</noscript></div>"
        f'<script type="module">//# allFunctionsCalledOnLoad\nconst {{ {names} }} = '
        f"globalThis.opd;\n{script.replace('export default', 'const widget =')}"
    )
    element = f', document.getElementById("{place}"), '
    assert rest.startswith(element) and rest.endswith(");</script>")
    decoder, text = json.JSONDecoder(), rest.removeprefix(element).removesuffix(");</script>")
    found, end = decoder.raw_decode(text)
    assert found == widget.state() and text[end : end + 2] == ", "
    assert found["teacher"] == pytest.approx(TEACHER.tolist(), rel=1e-15)
    assert found.keys() == options["rules"].keys() and found["token"] == 2
    assert json.loads(text[end + 2 :]) == options


def test_the_library_hands_on_all_that_is_exported():
    files = [*SHARED, "host.js"]
    texts = [(host.HERE / name).read_text(encoding="utf-8") for name in files]
    names = re.findall(r"(?m)^export (?:const|function) (\w+)", "".join(texts))
    assert host.library() == (
        f"<script>globalThis.opd ??= (() => {{{''.join(map(stripped, texts))}"
        f"return {{{', '.join(names)}}};}})();</script>"
    )
    assert list(host.SHARED) == list(SHARED) and len(names) > 50


def test_the_style_is_light_and_dark_where_it_is_asked_for():
    def side(n):
        colours = {**ROLES, **PAPER}
        return "".join(f"--opd-{k.replace('_', '-')}:{v[n]};" for k, v in colours.items())

    light, dark = side(0) + "color-scheme:light", side(1) + "color-scheme:dark"
    assert host.style() == (
        f".opd{{{light}}}@media (prefers-color-scheme:dark){{.opd{{{dark}}}}}"
        f"html[data-theme=light] .opd,body[data-jp-theme-light=true] .opd{{{light}}}"
        f"html[data-theme=dark] .opd,body[data-jp-theme-light=false] .opd{{{dark}}}"
        f"@media print{{html .opd,html[data-theme] .opd{{{light}}}}}"
    ) + (host.HERE / "style.css").read_text(encoding="utf-8")


def test_where_scripts_are_off_stands_a_picture_or_its_words(tmp_path, monkeypatch):
    widget = explorables.Baselines()
    assert host.PICTURES.name == "figures" and (host.PICTURES / "baselines.png").exists()
    monkeypatch.setattr(host, "PICTURES", tmp_path)
    monkeypatch.setattr(explorables.Baselines, "shown", 'a "word" & <another>')
    words = "a &quot;word&quot; &amp; &lt;another&gt;"
    assert widget._still() == f"<p>{words}</p>"
    (tmp_path / "baselines.png").write_bytes(b"\x89PNG")
    assert widget._still() == (
        f'<img class="opd-fallback dark-light" src="data:image/png;base64,iVBORw==" alt="{words}">'
    )


def test_a_module_comes_after_what_it_imports():
    for name in explorables.__all__:
        files = host.files(getattr(explorables, name).name.replace("-", "_"))
        assert len(set(files)) == len(files) and files[-1].removesuffix(".js") in (
            getattr(explorables, name).name.replace("-", "_")
        )
        for n, file in enumerate(files):
            imported = re.findall(r'(?m)^import [^;]* from "\./([^"]*)"', host._source(file))
            assert set(imported) <= set(files[:n]), file
        text = host.module(getattr(explorables, name).name.replace("-", "_"))
        assert "\nimport " not in text and text.count("export ") == 1


@pytest.mark.parametrize("bundle", [({"a": 1}, {"b": 2}), {"a": 1}, None])
def test_the_notebook_s_output_holds_the_page_s_too(bundle, monkeypatch):
    widget = explorables.Baselines()
    whole = lambda self, **_: bundle
    monkeypatch.setattr(host.anywidget.AnyWidget, "_repr_mimebundle_", whole)
    data, metadata = widget._repr_mimebundle_()
    assert data.pop("text/html").startswith("<style>")
    assert data == ({"a": 1} if bundle else {})
    assert metadata == ({"b": 2} if isinstance(bundle, tuple) else {})


def test_what_there_is_no_rule_for_stays_out_of_the_address():
    rule = host._rule
    assert rule(traitlets.Unicode()) == "text" and rule(traitlets.Bool()) is None
    assert rule(traitlets.Float(min=0.5)) == [0.5, np.inf, False]
    assert rule(traitlets.Int(min=1, max=3)) == [1, 3, True]
    assert rule(traitlets.Enum(("a", 1))) == ["a", 1] and rule(traitlets.Dict()) is None
    rules = explorables.PushAndPull().to_html().rpartition('"rules"')[2]
    assert '"objective":' in rules and '"objectives":' not in rules
    with pytest.raises(AttributeError) as error:
        explorables.NoSlider  # noqa: B018
    assert str(error.value) == "module 'opd_toy.explorables' has no attribute 'NoSlider'"


# --- trees and credit ---------------------------------------------------------------------------


def mulberry32(seed, count):
    """The generator by its definition, one number after the other."""
    found, wrap = [], 2**32 - 1
    for _ in range(count):
        seed = seed + 0x6D2B79F5 & wrap
        t = (seed ^ seed >> 15) * (seed | 1) & wrap
        t ^= t + ((t ^ t >> 7) * (t | 61) & wrap) & wrap
        found.append(((t ^ t >> 14) & wrap) / 2**32)
    return found


@pytest.mark.parametrize("seed", [0, 7, 9999])
def test_numbers_from_a_seed(seed):
    assert trees.uniforms(seed, 40).tolist() == mulberry32(seed, 40)
    pairs = zip(*[iter(mulberry32(seed, 8))] * 2)
    numbers = [
        radius * wave(2 * np.pi * angle)
        for u, angle in pairs
        for radius in [np.sqrt(-2 * np.log(1 - u))]
        for wave in (np.cos, np.sin)
    ]
    for count in (7, 8):
        found = trees.normals(seed, count)
        assert found == pytest.approx(numbers[:count], rel=1e-9) and len(found) == count


def test_the_numbers_go_level_by_level_the_students_first():
    student, teacher = trees.random_trees(3, 2, 5, 0.5)
    numbers = trees.normals(5, 24)
    for level, (start, size) in enumerate(((0, 3), (6, 9))):
        z, d = numbers[start : start + size], numbers[start + size : start + 2 * size]
        assert student.logits[level].ravel() == pytest.approx(z)
        assert teacher.logits[level].ravel() == pytest.approx(z + 0.5 * d)
    student, teacher = trees.notes_trees(3)
    for tree, p in ((student, STUDENT), (teacher, TEACHER)):
        assert tree.length == 3
        for level in tree.probabilities:
            assert level == pytest.approx(np.broadcast_to(p, level.shape))


@pytest.mark.parametrize("name", ["Credit", "BiasAgainstVariance"])
def test_a_slider_s_trees_are_those_of_its_traits(name):
    widget = getattr(explorables, name)(seed=11)
    length = 5 if name == "Credit" else widget.length
    for found, tree in zip(widget.trees(), trees.random_trees(3, length, 11, 1.0)):
        assert all(map(np.array_equal, found.logits, tree.logits))
    widget.tree = "notes"
    for found, tree in zip(widget.trees(), trees.notes_trees(length)):
        assert all(map(np.array_equal, found.logits, tree.logits))
    if name == "BiasAgainstVariance":
        other = explorables.BiasAgainstVariance(vocabulary=2, length=3, seed=4, distance=2.5)
        for found, tree in zip(other.trees(), trees.random_trees(2, 3, 4, 2.5)):
            assert all(map(np.array_equal, found.logits, tree.logits))


def test_the_moved_student_has_taken_a_step_up_its_expected_reward():
    widget = explorables.Credit(seed=3, step=0.7)
    student, _ = widget.trees()
    tokens, reward = student.tokens(), widget.reward()
    assert reward.tolist() == [float(list(text).count(0) >= 2) for text in tokens.tolist()]

    def values(logits):
        """E[R] from every prefix on, as one sum over prefixes."""
        tree = TokenTree(logits)
        ahead, found = reward, []
        for p in tree.probabilities[::-1]:
            ahead = (p * ahead.reshape(p.shape)).sum(1)
            found.append(ahead)
        return found[::-1]

    moved = widget.moved()
    for level, (before, after) in enumerate(zip(student.log_probabilities, moved.logits)):
        steps = np.zeros_like(before)
        for at in np.ndindex(before.shape):  # difference quotients in one logit at its own prefix
            quotient = []
            for h in (1e-5, -1e-5):
                logits = [rows.copy() for rows in student.log_probabilities]
                logits[level][at] += h
                quotient.append(values(logits)[level][at[0]])
            steps[at] = (quotient[0] - quotient[1]) / 2e-5
        np.testing.assert_allclose(after - before, 0.7 * steps, atol=1e-8)
        if level == 2:  # the deeper levels are alike
            break
    assert len(moved.logits) == 5
    last = student.probabilities[4]
    wanted = last * (reward.reshape(-1, 3) - (last * reward.reshape(-1, 3)).sum(1, keepdims=True))
    found = moved.logits[4] - student.log_probabilities[4]
    np.testing.assert_allclose(found, 0.7 * wanted, atol=1e-14)


# --- what the records become --------------------------------------------------------------------


def study(**changed):
    """A record of the control study: every figure made by hand."""
    random = np.random.default_rng(0)
    iterations = [*range(1, 101), *(i for i in range(101, 2001) if i % 10 in (9, 0))]
    ends = {"mean": random.normal(size=(5, 3, 2, 2)), "sd": random.random((5, 3, 2, 2))}
    found = {
        "gammas": [0, 0.25, 0.5, 0.75, 1],
        "seeds": [42, 43, 2026],
        "tasks": ["left", "right"],
        "iterations": iterations,
        "variance": np.exp(random.normal(size=(5, 3, len(iterations)))).tolist(),
        "starts": [2, -2],
        "targets": [-3, 3],
        "checkpoints": [0, 2000],
        "trajectories": random.normal(0, 6, (5, 3, 2, 2, 6, 21)).tolist(),
        "final_position": {name: each.tolist() for name, each in ends.items()},
        "teachers": {"final_position_mean": [-3.1, 3.1], "final_position_sd": [0.1, 0.2]},
    }
    return found | changed


@pytest.fixture
def recorded(monkeypatch):
    def give(results):
        monkeypatch.setattr(provenance, "recorded", lambda name, command: results)
        control_study.recording.cache_clear()

    yield give
    control_study.recording.cache_clear()


def test_the_control_study_as_the_page_gets_it(recorded):
    results = study()
    results["variance"][1][2][:] = [None] * len(results["iterations"])  # a run without any
    recorded(results)
    given = control_study.recording()
    means = control_study.block_means(results)
    for g, s, task, block in ((0, 0, 0, 0), (2, 1, 1, 0), (4, 2, 0, 49), (3, 0, 1, 30)):
        own = [
            x
            for i, x in zip(results["iterations"], results["variance"][g][s])
            if 40 * block < i <= 40 * (block + 1) and i % 2 == (0, 1)[task == 0]
        ]
        assert means[g, s, task, block] == pytest.approx(np.prod(own) ** (1 / len(own)))
    logarithms = np.log(means)
    assert given["low"] == pytest.approx(np.nanmin(logarithms))
    assert given["high"] == pytest.approx(np.nanmax(logarithms))
    codes = np.frombuffer(base64.b64decode(given["variance"]), "<u2").reshape(means.shape)
    assert not codes[1, 2].any() and codes.max() == 65535
    there = codes > 0
    assert codes[there].min() == 1 and there.sum() == codes.size - codes[1, 2].size
    step = (given["high"] - given["low"]) / 65534
    decoded = given["low"] + (codes[there] - 1.0) * step
    np.testing.assert_allclose(decoded, logarithms[there], atol=0.501 * step)
    positions = np.frombuffer(base64.b64decode(given["positions"]), "u1").astype(float)
    paths = np.clip(np.array(results["trajectories"])[..., :4, :], -9, 9)
    np.testing.assert_allclose(positions.reshape(paths.shape) * 18 / 255 - 9, paths, atol=0.0354)
    ends = results["final_position"]
    for found, name in zip(given["ends"], ("mean", "sd")):
        assert found == np.round(ends[name], 3).tolist()
    plain = {name: given[name] for name in ("block", "reach", "paths", "points", "teacher")}
    assert plain == {
        "block": 40, "reach": 9, "paths": 4, "points": 21, "teacher": [[-3.1, 3.1], [0.1, 0.2]]
    }  # fmt: skip
    for name in ("gammas", "seeds", "tasks", "starts", "targets", "checkpoints"):
        assert given[name] == results[name]
    assert control_study.recording() is given


def test_a_variance_that_has_no_logarithm_leaves_a_gap_and_no_warning():
    results = study()
    results["variance"][0][1][:40] = [0.0, -1.0] * 20
    with np.errstate(all="raise"):
        means = control_study.block_means(results)
    assert np.isnan(means[0, 1, :, 0]).all() and np.isnan(means).sum() == 2


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"gammas": [0, 1]}, "gammas in FILE must be [0, 0.25, 0.5, 0.75, 1], not [0, 1]"),
        ({"seeds": [1]}, "seeds in FILE must be [42, 43, 2026], not [1]"),
        ({"tasks": ["up"]}, "tasks in FILE must be ['left', 'right'], not ['up']"),
        ({"iterations": [1, 1999]}, "iterations in FILE must end at 2000, not 1999"),
    ],
)
def test_a_record_of_another_study_is_quoted(changed, message, recorded):
    recorded(study(**changed))
    with pytest.raises(ValueError) as error:
        control_study.recording()
    assert str(error.value) == message.replace("FILE", "figures/control-study.json")


def test_the_other_recordings_hold_what_the_records_hold():
    kept = provenance.recorded("stale-rollouts", "stale")
    given = stale_rollouts.recording()
    names = ["none", "ratio", "truncate", "mask", "clip", "kept"]
    assert list(given["curves"]) == list(given["words"]) == names
    assert given["steps"] == kept["steps"]
    for name in names:
        assert given["words"][name] == kept["words"][name]
        for age, run in kept["runs"][name].items():
            assert given["curves"][name][age] == [round(kl, 4) for kl in run["kl"]]
    kept, given = provenance.recorded("derailing", "derail"), explorables.Derail().recording
    assert list(given["answers"]) == ["number", "sum", "lost", "new", "right"]
    assert given["answers"] == {name: kept["answers"][name] for name in given["answers"]}
    assert (given["tokens"], given["questions"]) == (kept["tokens"], kept["questions"])
    assert given["positions"].keys() == kept["positions"].keys()
    for name, shares in kept["positions"].items():
        assert given["positions"][name] == [round(share, 4) for share in shares]


def test_who_draws_and_by_which_limits():
    widget = explorables.StaleRollouts(
        behaviour=[0.5, 0.3, 0.2], most=1.5, low=0.25, high=2.5, epsilon=0.125
    )
    assert widget.drawn_from() == pytest.approx([0.5, 0.3, 0.2])
    widget.sampler = "top_p"
    assert widget.drawn_from() == pytest.approx([0.625, 0.375, 0])
    limits = {name: widget.limits(name) for name in stale_rollouts.CORRECTIONS}
    assert limits == {
        "none": None,
        "ratio": None,
        "truncate": 1.5,
        "mask": (0.25, 2.5),
        "clip": (0.125, 0.125),
    }


def test_the_lines_shown_of_a_loss_are_the_museum_s():
    code = loss_museum.shown_code()
    assert list(code) == list(loss_museum.LOSSES)
    source = loss_museum.MUSEUM.read_text(encoding="utf-8")
    single = " ".join(source.split())
    for exhibit, names in loss_museum.LOSSES.items():
        assert len(code[exhibit]) == 2
        for name, lines in zip(names, code[exhibit]):
            body = single[single.index(f"def {name}(") :]
            body = body[: body.find(" def ", 5)] if " def " in body[5:] else body
            shown = lines.split("\n")
            wanted = loss_museum.SHOWN_TOO.get(name)
            assert len(shown) == (2 if wanted else 1), name
            assert f"return {shown[-1]}" in body
            sets = f"{wanted} = ".replace("(", "").replace(")", "")
            assert not wanted or (shown[0].startswith(sets) and shown[0] in body)
            assert not any("  " in line for line in shown)


def test_a_seek_or_cover_slider_needs_no_more_than_its_traits():
    widget = explorables.SeekOrCover()
    assert set(widget.state()) == {
        *("separation", "weight", "width", "start_mean", "start_width"),
        *("family", "objective", "beta", "steps"),
    }
    assert isinstance(widget._own_traits(), list) and not widget._own_traits(data=True)


# --- the learning curves' record ----------------------------------------------------------------


def curves(**changed):
    """A study of two methods and two seeds; one quantity never changes, one is never known."""

    def run(points, start, **more):
        found = {name: [start + n for n in range(points)] for name in learning_curves.COLUMNS} | {
            "length": [7.0] * points,
            "distinct": [None] * points,
        }
        return found | more

    found = {
        "preset": {"distillation": {"evaluation_prompts": 9}},
        "device": "cpu",
        "clock": "processor seconds",
        "seeds": [1, 2],
        "teacher": {"accuracy": 1, "length": None, "sequence_kl": np.inf, "other": 3},
        "start": dict.fromkeys(learning_curves.QUANTITIES, 0.25),
        "curves": {
            "gkd": [run(3, 0.5), run(2, 1.5)],
            "sft": [run(4, 2.5), run(3, 0.0, not_finite="broke down")],
        },
    }
    return found | changed


def test_a_record_of_curves_packed_and_unpacked():
    results = curves()
    given = learning_curves.packed(results)
    plain = {name: given[name] for name in ("words", "prompts", "clock", "methods", "seeds")}
    assert plain == {
        "words": "Recorded on a CPU",
        "prompts": 9,
        "clock": "processor seconds",
        "methods": ["sft", "gkd"],
        "seeds": 2,
    }
    assert given["longest"] == 4 and given["columns"] == learning_curves.COLUMNS
    assert given["logarithmic"] == ["sequence_kl", "forward_sequence_kl"]
    codes = np.frombuffer(base64.b64decode(given["codes"]), "<u2").reshape(9, 2, 2, 4)
    for c, name in enumerate(given["columns"]):
        low, high = given["scales"][c]
        known = []
        for m, method in enumerate(given["methods"]):
            for s, run in enumerate(results["curves"][method]):
                values = [np.nan if x is None else x for x in run[name]]
                if name in given["logarithmic"]:
                    values = np.log(np.maximum(values, 1e-6))
                known += [x for x in values if np.isfinite(x)]
                for point in range(4):
                    code = codes[c, m, s, point]
                    if point >= len(values) or np.isnan(values[point]):
                        assert code == 0
                    else:
                        value = low + (code - 1.0) / 65534 * (high - low)
                        assert value == pytest.approx(values[point], abs=(high - low) / 1e5)
        ends = (min(known), max(known)) if known else (0.0, 0.0)
        assert (low, high) == pytest.approx(ends)
    assert given["teacher"] == {"accuracy": 1.0}
    assert given["start"] == dict.fromkeys(learning_curves.QUANTITIES, 0.25)
    ends = {axis: {"sft": 5.5, "gkd": 2.5} for axis in learning_curves.AXES}
    assert given["ends"] == ends
    other = learning_curves.packed(curves(device="NVIDIA"))
    assert other["words"] == "Recorded on NVIDIA"


def test_curves_that_are_not_there_or_not_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    (tmp_path / "figures").mkdir()
    learning_curves.study.cache_clear()
    for name, words in (("cpu", "study"), ("gpu", "study --preset gpu")):
        with pytest.raises(FileNotFoundError) as error:
            learning_curves.study(name)
        assert f"`python -m opd_toy {words}` makes it" in str(error.value)
    path = tmp_path / "figures" / "lm-study-cpu.json"
    for changed, message in (
        ({"seeds": [1, 2, 3]}, "zip() argument 2 is longer than argument 1"),
        (
            {"curves": {"dpo": []}},
            "methods in figures/lm-study-cpu.json must be among "
            f"{', '.join(learning_curves.METHODS)}, not 'dpo'",
        ),
        (
            {"curves": {"gkd": [{"steps": [0, 1], "tokens": [0]}] * 2}},
            "curves of gkd in figures/lm-study-cpu.json must have a value of tokens at each of 2 "
            "steps; seed 1 has 1",
        ),
    ):
        path.write_text(json.dumps({"results": curves(**changed)}).replace("Infinity", "1e999"))
        with pytest.raises(ValueError) as error:
            learning_curves.study("cpu")
        assert str(error.value) == message
    results = curves(teacher={})
    path.write_text(json.dumps({"results": results}))
    assert list(learning_curves.studies()) == ["cpu"]
    assert learning_curves.study("cpu") is learning_curves.study("cpu")
    with pytest.raises(traitlets.TraitError) as error:
        explorables.LearningCurves(record="gpu")
    assert str(error.value) == (
        "record must be among ['cpu'], not 'gpu': `python -m opd_toy study --preset gpu` makes "
        "figures/lm-study-gpu.json"
    )
    (tmp_path / "figures" / "lm-study-gpu.json").write_text(json.dumps({"results": results}))
    assert list(explorables.LearningCurves(record="gpu").recording) == ["cpu", "gpu"]
    learning_curves.study.cache_clear()


def test_curves_are_read_between_their_points(tmp_path, monkeypatch):
    monkeypatch.setattr(learning_curves, "studies", lambda: {"cpu": curves(teacher={})})
    widget = explorables.LearningCurves(methods=["sft", "gkd"], quantity="accuracy", x="seconds")
    assert widget.position() == pytest.approx(0.8 * 5.5)  # where the one that broke down is left
    widget.at = 100  # just where the longest ends
    assert widget.read()["sft"]["mean"] == 5.5
    widget.at = 40  # at 2.2: gkd's runs go from 0.5 to 2.5, sft's from 2.5 and 0 on
    found = widget.read()
    assert found["gkd"] == {
        "mean": pytest.approx(2.2), "least": pytest.approx(2.2), "greatest": pytest.approx(2.2),
        "seeds": 2,
    }  # fmt: skip
    # before its first point a run is where it begins; after its last it has no value
    assert found["sft"] == {"mean": 2.5, "least": 2.5, "greatest": 2.5, "seeds": 1}
    widget.x = "steps"
    assert widget.position() == 2.0  # rounded, 2.2
    widget.at = 45
    assert widget.position() == 2.0 and widget.read()["gkd"]["mean"] == pytest.approx(2.0)
    widget.at = 46  # 2.53
    assert widget.position() == 3.0 and widget.read()["gkd"] is None
    widget.quantity = "distinct"
    assert widget.read() == {"sft": None, "gkd": None}
