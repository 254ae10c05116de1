"""Names of what is found: numbers and sums of divergences in words."""

NONE = "none of these"
ZERO = "zero"
CLOSE = " while the two are close"
MARGIN = " until they are close"
FACTOR = " × a factor that depends on the pair"
OVER_VOCABULARY = "1/V × "
POWERS = {1.0: "{}", -1.0: "1/{}", 0.5: "√{}", -0.5: "1/√{}"}


def phrase(terms, over_vocabulary=False):
    """Of (coefficient, Candidate): "2 × reverse KL", "reverse KL − forward KL", "1/V × entropy"."""
    # Positive and large ones first.
    terms = sorted(terms, key=lambda term: (term[0] < 0, -abs(term[0])))
    if len(terms) == 1:
        ((coefficient, candidate),) = terms
        return times(coefficient, (OVER_VOCABULARY if over_vocabulary else "") + candidate.name)
    text = ""
    for coefficient, candidate in terms:
        sign = " − " if coefficient < 0 else " + "
        if not text:
            sign = "−" if coefficient < 0 else ""
        text += sign + times(abs(coefficient), candidate.name)
    return f"1/V × ({text})" if over_vocabulary else text


def times(coefficient, name):
    if name.startswith(OVER_VOCABULARY):
        return f"{coefficient_text(coefficient)}/V × {name.removeprefix(OVER_VOCABULARY)}"
    return name if coefficient == 1 else f"{coefficient_text(coefficient)} × {name}"


def coefficient_text(value):
    """Six figures, and as many more as it takes to tell it from 1."""
    for digits in range(6, 17):
        text = format_number(value, digits)
        if float(text) not in (1.0, -1.0) or abs(value) == 1:
            break
    return with_minus(text)


def with_minus(text):
    """A number's text with a true minus sign in front; that of an exponent is left."""
    return text.replace("-", "−", 1) if text.startswith("-") else text


# Of objectives and their parameters: what else one of them is called.
ALSO = {
    ("generalized_jsd", (("beta", 0.5),)): (1.0, "Jensen–Shannon divergence"),
    ("alpha_divergence", (("alpha", 2.0),)): (0.5, "χ²(p‖q)"),
    ("alpha_divergence", (("alpha", -1.0),)): (0.5, "χ²(q‖p)"),
    ("alpha_divergence", (("alpha", 0.5),)): (4.0, "squared Hellinger distance 1 − Σ √(p q)"),
}


FORMULAS = (" KL(p‖q) + KL(q‖p)", " 1 − Σ √(p q)", ", −Σ p log q")


def without_formula(name):
    """A name that ``also`` gives, without the formula behind it."""
    for formula in FORMULAS:
        name = name.removesuffix(formula)
    return name


def also(terms):
    """Another name of a sum of (coefficient, Candidate), or None."""
    named = {candidate.name: coefficient for coefficient, candidate in terms}
    equal = len(set(named.values())) == 1
    if set(named) == {"forward KL", "reverse KL"} and equal:
        return times(terms[0][0], "Jeffreys divergence KL(p‖q) + KL(q‖p)")
    if set(named) == {"reverse KL", "entropy"} and equal:
        return times(terms[0][0], "the expected −log q of the student's token, −Σ p log q")
    if len(terms) == 1:
        ((coefficient, candidate),) = terms
        if candidate.name.endswith(", held fixed") and candidate.parameters[0][1] < 1:
            alpha = 1 - candidate.parameters[0][1]
            name = f"Rényi divergence(α = {format_number(alpha)})"
            return times(float(f"{coefficient * (1 - alpha) / alpha:.12g}"), name)
        factor, name = ALSO.get((candidate.objective, candidate.parameters), (None, None))
        return name and times(coefficient * factor, name)
    return None


def power_text(number, quantity, power):
    """ "2 × KL(p‖q)", "1/H(p)", "V^1.5"."""
    template = POWERS.get(power, "{}^" + format_number(power))
    return times(number, template.format(quantity))


def format_number(value, digits=6):
    """Shortest plain decimal of up to ``digits`` figures."""
    return f"{float(value):.{digits}g}"
