"""Figures read off the records of the two studies, and what the auditor derives again."""

import ast
import functools
from pathlib import Path

import numpy as np

from opd_toy.pages.numbers import plain, scientific
from opd_toy.records.provenance import recorded

AUDITED = Path(__file__).parents[2] / "audit" / "exhibits" / "notes_claims.py"
EXPOSED = {
    "seqkd": "SeqKD",
    "on_policy_forward_kl": "on-policy forward KL",
    "off_policy_reverse_kl": "off-policy reverse KL",
    "gkd": "GKD",
}


def variance_along_training():
    study = recorded("control-study", "variance")
    # [γ, seed]: a mean over seeds would mix runs that arrive with lost ones
    left = np.array(study["window_geometric_mean"])[:, :, 0, -1]
    cells = (
        f"{scientific(min(values))} to {scientific(max(values))} at γ = {short(gamma)}"
        for gamma, values in zip(study["gammas"], left)
    )
    return (
        f"gradient variance over the last 100 of {study['iterations'][-1]} iterations, left task, "
        f"least to largest of {len(study['seeds'])} seeds: {', '.join(cells)}"
    )


def short(gamma):
    """Such as .25, 0 and 1."""
    return f"{gamma:g}".removeprefix("0") or "0"


@functools.cache
def study_of_the_lab():
    return recorded("lm-study-cpu", "study")


def exposure():
    cells = []
    for name, words in EXPOSED.items():
        per_token = study_of_the_lab()["exposure"][name]["per_token"]
        ratios = np.divide(per_token["own"], per_token["teacher"])
        cells.append(f"{words} {plain(np.exp(np.log(ratios).mean()))}")
    return (
        "KL of a token on own prefixes, as a multiple of that on the teacher's, after: "
        f"{', '.join(cells)}"
    )


def old_texts():
    runs = recorded("stale-rollouts", "stale")["runs"]

    def end(name, age):
        return plain(runs[name][age]["kl"][-1])

    return (
        f"KL of a text at the end, {plain(runs['gkd']['0']['kl'][0])} at the start; fresh, then 16 "
        f"steps old: no ratio {end('none', '0')}, {end('none', '16')}; ratio {end('none', '0')}, "
        f"{end('ratio', '16')}; GKD {end('gkd', '0')}, {end('gkd', '16')}"
    )


def verdict_on_a_transformer(id):
    """What the lab's study says of a claim; None where no rule of it bears on the claim."""
    return next((row["verdict"] for row in study_of_the_lab()["claims"] if row["id"] == id), None)


@functools.cache
def audited_claims():
    """Ids of the claims that the auditor derives again; read without importing it, since it
    needs torch and the ledger does not."""
    (table,) = (
        statement.value
        for statement in ast.parse(AUDITED.read_text(encoding="utf-8")).body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "CLAIMS"
    )
    return {key.value for key in table.keys}
