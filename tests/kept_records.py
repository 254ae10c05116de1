"""What the commands print of their records: each table, sentence and branch, on small records.

The numbers are made by hand; no two that could be taken for each other are equal.
"""

from types import SimpleNamespace

from opd_toy.commands import (
    audit_output,
    bench_audits,
    bench_goals,
    bench_growth,
    bench_sliders,
    bench_tables,
    bench_training,
    derail,
    doors,
    stale,
    study_tables,
    train,
    variance_tables,
)


def joined(*blocks):
    return "\n\n========\n\n".join(blocks)


# --- bench -----------------------------------------------------------------------------------


def row(case, least, mebibytes=None, error=1e-6, **more):
    figures = {"least": least, "median": 1.5 * least, "gradient_error": error}
    memory = None if mebibytes is None else int(mebibytes * 2**20)
    return {"case": case, "words": f"the loss {case}", "extra_bytes": memory} | figures | more


def floor(kind, least):
    return {"kind": kind, "words": f"the floor {kind}", "least": least, "median": 1.25 * least}


def setting(name, rows, floors, vocabulary=151_936, **parts):
    found = {"name": name, "words": f"the setting {name}", "vocabulary": vocabulary}
    return found | {"rows": rows, "floors": floors} | ({"parts": parts} if parts else {})


def losses():
    failed = {"case": "liger_32", "words": "the loss liger_32", "failed": "liger_32: no memory"}
    dense = [row("ours", 0.24, 64), row("ours_overwrite", 0.125, 32), row("textbook", 0.5)]
    peers = [row("trl", 1.0, 640, 2e-6)]
    fused = [row("ours", 0.5, 40, 2.2e-6), row("liger_16", 0.6, 40, 2e-6), failed]
    fused += [row("liger_64", 0.7, 39, 9e-6), row("trl_chunked", 3.0, 80, 3e-6)]
    hidden = [row("ours", 0.0625, 8, 3.5e-6), row("liger_16", 0.05, 16, 4e-6)]
    hidden += [row("trl_chunked", 1.0, 8, 3e-6)]
    return {
        "processor": "a processor",
        "threads": 2,
        "repeats": 3,
        "versions": {"torch": "2.1", "trl": "0.9"},
        "missing": [],
        "settings": [
            setting(
                "logits",
                dense + peers,
                [floor("apart", 0.16), floor("over", 0.1)],
                exponentials=0.01,
                formula=0.03,
                pages=0.02,
            ),
            setting("logits_jsd", [row("ours", 0.6, 9), row("ours_overwrite", 0.5, 8),
                                   row("trl", 4.0, 160)], [floor("apart", 0.4)]),
            setting("hidden_64", fused, [floor("products", 0.4)],
                    products=0.43, formula=0.05, pages=0.01),
            setting("hidden_896", hidden, [floor("products", 0.05)]),
        ],
    }  # fmt: skip


def without_peers():
    """A trial on a card: small vocabularies, no memory known, no other library."""
    rows = [row("ours", 0.0999), row("textbook", 0.1, 64)]
    found = losses() | {"missing": ["trl", "liger-kernel"]}
    found["rates"] = {"copy": 4.321e12, "product": 5.55e14}
    found["settings"] = [setting("logits", rows, [floor("apart", 0.05)], vocabulary=100_000)]
    return found


def bench():
    return joined(bench_tables.as_text(losses()), bench_tables.as_text(without_peers()))


def at_their_bounds():
    """Each goal of a loss, exactly reached and just missed."""
    lines = []
    for time in (8.0, 7.99):
        for memory in (20, 19.9):
            rows = [row("ours_overwrite", 1.0, 1), row("ours", 1.0, 1), row("trl", time, memory)]
            lines += bench_goals.goals({"settings": [setting("logits", rows, [floor("x", 1.0)])]})
    for liger, memory in ((1.2, 10), (1.19, 10), (1.2, 9.9), (1.2, None)):
        rows = [row("ours", 1.0, 10, 1.1e-6), row("liger_16", liger, memory)]
        fused = setting("hidden_64_jsd", rows, [floor("x", 0.8)])
        lines += bench_goals.goals({"settings": [fused]})
    rows = [row("ours", 1.0), row("liger_16", 1.2, 10)]
    unknown = setting("hidden_64", rows, [floor("x", 0.8)], vocabulary=100_001)
    rows = [row("ours", 1.5, 1), row("ours_overwrite", 1.2, 1)]
    beyond = setting("logits", rows, [floor("x", 0.8)])
    failed = {"case": "ours_overwrite", "words": "the loss that failed", "failed": "no memory"}
    broken = setting("logits", [row("ours", 1.0, 1), failed], [floor("x", 0.8)])
    lines += bench_goals.goals({"settings": [unknown, beyond]})
    lines += bench_goals.goals({"settings": [broken]})
    for name, least in (("logits", 1.5), ("logits", 1.51), ("hidden", 1.25), ("hidden", 1.26)):
        one = setting(name, [row("ours", least, 1)], [floor("x", 1.0)])
        lines += bench_goals.goals({"settings": [one]})
    return "\n".join(map(bench_goals.goal_text, lines))


def growth():
    def point(over, line, tokens, vocabulary, width, seconds, memory):
        found = {"over": over, "line": line, "tokens": tokens, "vocabulary": vocabulary}
        return found | {"width": width, "seconds": seconds, "extra_bytes": memory}

    points = [
        point("tokens", "ours", 64, 2048, 0, 0.004, 2**20),
        point("tokens", "hidden", 1024, 2048, 16, 0.0625, None),
        point("row", "ours", 4, 2**18, 0, 2**20 * 1e-9, 3 * 2**19),
        point("row", "ours", 2, 2**19, 0, 2**20 * 1.25e-9, 2**21),
        point("row", "ours", 1, 2**20, 0, 2**20 * 1.5e-9, 2**22),
    ]
    slopes = [
        {"cost": "seconds", "line": "ours", "over": "tokens", "exponent": 0.98}
        | {"first": 0.75, "last": 1.02},
        {"cost": "extra_bytes", "line": "hidden", "over": "row", "exponent": 0.5}
        | {"first": 0.25, "last": 0.125},
    ]
    found = {"processor": "a processor", "threads": 3, "repeats": 5, "versions": {"torch": "2.1"}}
    found |= {"lines": {"ours": "from logits", "hidden": "from hidden states"}, "points": points}
    found |= {"exponents": slopes, "cache_bytes": {"2": 2**20, "3": 33 * 2**20}}
    found["block_bytes"] = 5 * 2**18
    none_known = bench_growth.as_text(found | {"cache_bytes": {}}).splitlines()[-2]
    rows = [(1, 1, 1), (1.5, 1, 1.5), (1.25, 1.24, 1)]  # times a logit of the three
    others = [
        [each | {"seconds": 2**20 * 1e-9 * time} for each, time in zip(points[2:], times)]
        for times in rows
    ]
    too_large = (bench_growth.too_large(found | {"points": each}) for each in (points, *others))
    return joined(bench_growth.as_text(found), none_known, *map(str, too_large))


def training():
    def run(threads, other):
        stages = ("writing", "training", "whole step")
        parts = ("student", "teacher", "loss", "backward", "optimiser")

        def side(case, times, **counts):
            least = dict(zip((*stages, *parts), times))
            median = {name: 1.5 * seconds for name, seconds in least.items()}
            return {"case": case, "least": least, "median": median} | counts

        lab = (0.02, 0.04, 0.06, 0.015, 0.005, 0.004, 0.012, 0.003)
        rows = [
            side("lab", lab, written=1000, trained=900, loss=0.5),
            {"case": "hugging_face", "failed": "hugging_face: no such class"}
            if other is None
            else side("hugging_face", other, written=1000, trained=880, loss=0.50004),
            side("products", (0.008, 0.016, 0.024)),
        ]
        return {"threads": threads, "rows": rows}

    found = {"processor": "a processor", "preset": "cpu", "batch": 64, "repeats": 3}
    found |= {"versions": {"torch": "2.1", "transformers": "5.0"}, "missing": []}
    other = (0.03, 0.0596, 0.0896, 0.02, 0.006, 0.005, 0.02, 0.0086)
    whole = found | {"runs": [run(1, other), run(4, other)]}
    unequal = found | {"runs": [run(1, None), run(2, other)], "preset": "tiny"}
    unequal["runs"][1]["rows"][0]["loss"] = 0.49997
    alone = found | {"runs": [run(2, None)], "missing": ["transformers"]}
    return joined(*map(bench_training.as_text, (whole, unequal, alone)))


def audits():
    def audited(n, level="token", calls=None):
        found = {"id": f"loss-{n}", "of": "museum", "level": level, "optimises": f"objective {n}"}
        return found | {"seconds": n / 8, "calls": 100 * n if calls is None else calls}

    rows = [audited(n) for n in range(1, 22)] + [audited(n, "sequence") for n in (64, 30, 48)]
    found = {"audits": rows, "processor": "a processor", "repeats": 2, "missing": ["verl", "trl"]}
    one = found | {"audits": [audited(3, "sequence", calls=7)], "missing": []}
    return joined(bench_audits.as_text(found), bench_audits.as_text(one))


def sliders():
    def times(laid_out):
        stages = {"script": 0.5 * laid_out, "laid_out": laid_out, "drawn": 3 * laid_out}
        return {
            stage: {"median": ms, "p95": ms + 10, "worst": ms + 20} for stage, ms in stages.items()
        }

    def widget(name, update, mount, idle):
        controls = {"one": times(1.0), "slow": times(3.5), "two": times(3.0)}
        found = {"update": times(update), "mount": times(mount), "idle": times(idle)}
        return {"name": name, "controls": controls} | found

    widgets = [widget("Fast", 4.0, 50.0, 0.1), widget("Slow", 4.1, 50.1, 0.5)]
    widgets.append(widget("Other", 2.0, 20.0, 0.2))
    found = {"browser": "Chromium 1.2", "viewport": {"width": 1280, "height": 900}}
    return bench_sliders.as_text(
        found | {"processor": "a processor", "rounds": 9, "widgets": widgets}
    )


# --- study, train ----------------------------------------------------------------------------


def measures(first):
    return {name: first + n for n, name in enumerate(study_tables.MEASURES)}


def study():
    broke = {"not_finite": "the loss is not finite at step 2"}
    low, high = measures(0.25), measures(0.5)
    ends = lambda tokens, seconds: {"tokens": [1, 2, tokens], "seconds": [1, 2, seconds]}
    pair = lambda value, error=None: [value, error]
    columns = ("variance", "ratio_to_gkd", "token_noise", "cosine_with_gkd")
    columns += ("cosine_with_sequence_kl", "bias")
    estimators = {
        "gkd": dict(zip(columns, (pair(2.0, 0.25), pair(1.0), pair(None), pair(3.25, 0.04),
                                  pair(4.5, 0.6), pair(12345.6, 7.0)))),
    }  # fmt: skip
    grown = {"lengths": [2, 4, 8], "gkd": {"exponents": [[1.5, 0.1], [None, None]]}}
    claims = [
        {"id": "one", "claim": "It rises.", "verdict": "seen under conditions"}
        | {"figure": {"slope": [1.5, 0.25], "end": None, "of": 1000, "below": -999.96}}
        | {"parts": {"at first": True, "at the end": False, "in between": True}},
        {"id": "two", "claim": "It falls.", "verdict": "seen", "figure": {"slope": -1234.5}}
        | {"parts": {"at first": True}},
    ]
    taught = {"final": [high | {"gain": [0.125, 0.5]}, None], "curves": [{}, broke]}
    lost = {"final": [None, None], "curves": [broke, broke]}
    found = {
        "preset": {"name": "tiny", "distillation": {"steps": 3, "batch": 4}},
        "seeds": [1, 7],
        "device": "cpu",
        "clock": "processor seconds",
        "final": {"prompts": 5, "teacher": high, "start": low | {"length": None}}
        | {"gkd": [low, high], "pg_1": [measures(1.5), None], "jsd": [None, None]},
        "curves": {
            "gkd": [ends(30, 2), ends(50, 4)],
            "pg_1": [ends(9, 3), ends(11, 6) | broke],
            "jsd": [ends(2, 1) | broke, ends(4, 1) | broke],
        },
        "sweep": {
            "gkd": [
                {"rate": 0.00125, "sequence_kl": 0.5, "accuracy": 0.25},
                {"rate": 0.01, "sequence_kl": None, "accuracy": None},
            ]
        },
        "from_teacher": {"steps": 6, "rate": 0.025, "methods": {"rlvr": taught, "gkd": lost}},
        "frozen": {"start": {"texts": 12, "estimators": estimators, "growth": grown}},
        "claims": claims,
    }
    short = found | {"sweep": {}, "from_teacher": {}, "frozen": {}, "seeds": [1, 7]}
    return joined(study_tables.report(found), study_tables.report(short))


def curve():
    found = {"steps": [0, 20], "tokens": [0, 12345], "seconds": [0.0, 1.25], "accuracy": [0.5, 1.0]}
    found |= {"sequence_kl": [2.3456, None], "not_finite": "it broke down", "length": [12.5, 9.0]}
    return train.curve_table(found)


# --- derail, doors, stale --------------------------------------------------------------------


def small_studies():
    places = enumerate(("before", "alike", "new", "after"), 1)
    slipping = {
        name: {"tokens": 10 * n, "student": n / 100, "teacher": n / 1000} for n, name in places
    }
    runs = [
        dict(slipped=4, alike=0.01, after=0.05, planted=0.2),
        dict(slipped=7, alike=0.03, after=0.07, planted=0.4),
    ]
    start = dict(slipped=9, alike=0.1, after=0.25, planted=0.3)
    further = {"steps": 7, "batch": 8, "start": start, "methods": {"gkd": runs}}
    derailing = {"slipping": slipping, "planted": {"as_written": 0.25, "planted": 0.75}}
    derailing |= {"outcomes": {"slipped": 12}, "questions": 345, "further": further}
    searched = [
        {"noise": 0.5, "method": "start", "found": 0.25},
        {"noise": 0.5, "method": "gkd", "found": 0.5},
        {"noise": 0.5, "method": "gkd", "found": 0.7},
        {"noise": 0.001, "method": "gkd", "found": 0.125},
    ]
    teachers = {"0.001": {"found": 1.0}, "0.5": {"found": 0.9}}
    rooms = {"questions": 9, "further": {"steps": 7}, "teachers": teachers, "runs": searched}
    kl = lambda *values: {"kl": values}
    old = {
        "ages": [0, 16],
        "seeds": [1, 2, 3],
        "steps": [0, 20, 160],
        "words": {"gkd": "every token", "none": "no ratio"},
        "runs": {
            "gkd": {"0": kl(9.0, 5.0, 0.25), "16": kl(9.5, 6.0, 0.75)},
            "none": {"16": kl(8.0, 7.0, 4.0)},
        },
        "claims": [
            {"verdict": "seen", "claim": "It helps."},
            {"verdict": "seen under conditions", "claim": "It does not."},
        ],
    }
    exact = {
        "0.05": {"no ratio": [0.2345, 0.987], "ratio": [0.0, 1.5]},
        "1": {"no ratio": [1.5, 0.5], "ratio": [0.0, 20.0]},
    }
    return joined(
        derail.table(derailing), doors.table(rooms), stale.table(old), stale.exact_table(exact)
    )


# --- variance --------------------------------------------------------------------------------


def control_study():
    def record(windows, **changed):
        ends = list(range(100, 100 * len(windows[0]) + 1, 100))
        found = {
            "gammas": [0, 0.5],
            "seeds": [7],
            "tasks": ["left", "right"],
            "settings": {"iterations run": 800},
            "teachers": {"final_position_mean": [-2.9, 3.125], "final_position_sd": [0.25, 0.5]},
            "window_ends": ends,
            "window_geometric_mean": [[windows], [windows[::-1]]],
            "final_position": {
                "distance_to_target": [
                    [[[5.0, 9.0, 0.25], [6.0, 9.0, None]]],
                    [[[7.0, 9.0, 1.5], [8.0, 9.0, 2.5]]],
                ]
            },
            "diverged": [[0], [0]],
            "drifts": [[[False, True]], [[True, True]]],
        }
        return found | changed

    rising = [[10.0**w for w in range(9)], [2.0] * 9]
    texts = [
        record(rising, diverged=[[0], [12]]),
        record(rising, drifts=[[[False, False]], [[True, False]]]),
        record([[1.0, 4.0], [3.0, None]]),
        record([[1.0] * 8, [*[1.0] * 7, None]]),
        record([[]] * 2, window_ends=[]),
    ]
    return joined(*map(variance_tables.study_table, texts))


def control_frozen():
    def of(variance, low, high, **more):
        return {"variance": variance, "interval": [low, high]} | more

    def estimators(norm):
        known = {"squared_bias": 6.0, "squared_bias_standard_error": 2.0, "squared_norm": 5.0}
        below = {"squared_bias": -4.0, "squared_bias_standard_error": 1.0, "squared_norm": norm}
        return [
            {"estimator": "full_return", "gamma": 1.0, "output_layer": of(1e5, 9e4, 2e5)}
            | {"all_parameters": of(7e5, 0, 0)},
            {"estimator": "sampled", "gamma": 0.25, "output_layer": of(1234.5, 900, 2000)}
            | {"all_parameters": of(7000, 0, 0)},
            {"estimator": "full_vocabulary", "gamma": 0.5, "output_layer": of(5, 4, 6)}
            | {"all_parameters": of(640, 0, 0, **known)},
            {"estimator": "full_vocabulary", "gamma": 1.0, "output_layer": of(6, 5, 7)}
            | {"all_parameters": of(128, 0, 0, **below)},
        ]

    def grown(exponent):
        kinds = [("sampled", 0.25), ("full_vocabulary", 1.0)]
        return [
            {"estimator": name, "gamma": gamma, "parameters": where, "exponent": exponent + n}
            | {"interval": [exponent + n - 0.25, exponent + n + 0.5]}
            for shift, where in ((0, "output_layer"), (10, "all_parameters"))
            for n, (name, gamma) in enumerate(kinds, shift)
        ]

    tasks = {"left": {"estimators": estimators(8.0)}, "right": {"estimators": estimators(0.0)}}
    return variance_tables.frozen_table(
        {
            "stages": {
                "initial": {"iteration": 0, "tasks": tasks},
                "late": {"iteration": 7, "tasks": {"left": tasks["left"]}},
            },
            "growth": {"initial": grown(1.0), "late": grown(2.5)},
            "lengths": [5, 10],
        }
    )


def control_others():
    rows = [
        {"bounds": "-3 to 1", "optimiser": "Adam 1e-3", "gamma": 0.5, "drifts": [True, False, True]}
        | {"was_lost": [True] * 3, "not_finite_at": [0, 12, 0]}
        | {"distance": [[9, 8, 1], [9, 8, None], [9, 8, 2]], "late_variance": [1e3, None, 2e3]}
    ]
    crossed = {"teacher": "a", "student": "b", "distance": [0.5, None, 2], "drifts": [0, 1, 1]}
    sensitivity = {"definition": "drifts: far", "checkpoints": [3, 30], "rows": rows}
    sensitivity |= {"crossed": [crossed], "notes": ["One note.", "Another."]}
    kinds = [("sampled", True, 0.5), ("sampled", False, 1.0), ("full_vocabulary", True, 1.0)]
    exponents = {"lengths": [4, 8, 16], "student": [0.25, 0.75], "teacher": [0.5, 0.5]}
    exponents["rows"] = [
        {"signal": signal, "causal": causal, "gamma": gamma, "exponents": [n + 0.5, n + 0.75]}
        for n, (signal, causal, gamma) in enumerate(kinds)
    ]
    timed = {"dtype": "float32", "runs": 15, "threads": 2, "repeats": 5, "iterations": 20}
    timed["seconds"] = {
        "plain": {"median": 0.25, "least": 0.125},
        "stacked": {"median": 0.0625, "least": 0.03125},
    }
    timed |= {"ratio_of_medians": 4.0, "ratio_of_least": 3.5}
    timed |= {"largest_relative_difference_of_variance": 1.5e-3}
    timed |= {"largest_difference_of_parameters": 2.5e-6}
    return joined(
        variance_tables.sensitivity_table(sensitivity),
        variance_tables.exponents_table(exponents),
        variance_tables.benchmark_text(timed),
    )


# --- audit -----------------------------------------------------------------------------------


class Report(SimpleNamespace):
    def __str__(self):
        return f"optimises: {self.optimises}\nso it does"

    def to_json(self):
        return f'{{"optimises": "{self.optimises}"}}'


def audit():
    right, wrong = Report(optimises="reverse KL"), Report(optimises="forward KL")
    of = audit_output.Outcome
    outcomes = [
        of("a/b.py:right", right, "reverse KL", None, "", "a/b.py", 3),
        of("m.n:wrong", wrong, "reverse KL", "differs", "expected 'x',\nfound 50 %", "/a/c.py", 7),
        of("unnamed", wrong, None, "no-verdict", "none of these", "d,e:f.py", 9),
        of("refused:f", None, "reverse KL", "not-audited", "it takes\r\ntwo"),
        of("fine:f", right, None, None, ""),
        of("fine:g", right, "χ²(p‖q)", None, ""),
    ]
    texts = [audit_output.written(outcomes, form) for form in audit_output.FORMATS]
    alone = [
        audit_output.written([one], form) for one in outcomes[2:4] for form in ("text", "json")
    ]
    statuses = str([one.status for one in outcomes])
    return joined(*texts, *alone, statuses)


RECORD_TEXTS = {
    "bench": bench,
    "bench-goals": at_their_bounds,
    "bench-growth": growth,
    "bench-training": training,
    "bench-audits": audits,
    "bench-sliders": sliders,
    "study": study,
    "curve": curve,
    "small-studies": small_studies,
    "control-study": control_study,
    "control-frozen": control_frozen,
    "control-others": control_others,
    "audit": audit,
}
