"""What computes the ledger's figures: one function a row, and ``figure`` for the whole cell."""

from opd_toy.ledger.evidence import studies


def figure(claim):
    """The cell of a claim: its proof, its own figure, and where else it was found again."""
    parts = [checked_steps(claim.id)] if "proof" in claim.shown_by else []
    if claim.evidence:
        parts.append(claim.evidence())
    if not parts:
        parts.append("a judgement of the notes")
    if claim.id in studies.audited_claims():
        parts.append("[audited](07-what-your-loss-optimises.md#sec-audit-claims)")
    if verdict := studies.verdict_on_a_transformer(claim.id):
        parts.append(f"[on a transformer](08-claim-by-claim.md#sec-lab-claims): {verdict}")
    return "; ".join(parts)


def checked_steps(id):
    """How many checked steps the proof of a claim has, and for what V."""
    from opd_toy.derivations import DERIVATIONS  # needs sympy, which the other figures do not

    derivation = DERIVATIONS[id]
    setting = derivation.setting.split(";")[0].replace("vocabulary size ", "")
    steps = sum(len(chain.steps) - 1 for chain in derivation.chains)
    return f"{steps} checked steps, {setting}"
