"""One objective, many spellings: "Forward KL", forward_kl, FKL, "KL(q||p)".

A text is read as a sum of terms, each a number and the words of a name with the numbers in
it; two texts are the same where all of these are.
"""

import difflib
import math
import re

CHARACTERS = {
    **dict(zip("×·−–‖∥½²", ("*", "*", "-", "-", "||", "||", "1/2 ", "^2"))),
    **dict(zip("≤≥", (" <= ", " >= "))),
    **dict(zip("αβγλμ√χé", ("alpha", "beta", "gamma", "lambda", "mu", "sqrt ", "chi", "e"))),
}
# Tried in this order on lower-case text with spaces for underscores and hyphens.
OTHER_WORDS = (
    (r"\s*\((biased|one side)[^()]*\)|\s*\(ppo\)", ""),
    (r"\bratio (?=(truncated|masked|clipped|held)\b)", ""),
    (r"\bbehavior\b", "behaviour"),
    (r"kullback leibler( divergence)?", "kl"),
    (r"\bkl[d]?\s*\(\s*(q|teacher)\s*(\|\|?|,)\s*(p|student)\s*\)", "forward kl"),
    (r"\bkl[d]?\s*\(\s*(p|student)\s*(\|\|?|,)\s*(q|teacher)\s*\)", "reverse kl"),
    (r"\b(f|fwd)\s?kl[ds]?\b", "forward kl"),
    (r"\b(r|rev|b|bwd)\s?kl[ds]?\b", "reverse kl"),
    (r"\b(forwards?|inclusive) kl[ds]?\b", "forward kl"),
    (r"\b(reversed?|backwards?|exclusive) kl[ds]?\b", "reverse kl"),
    (r"\bkls\b", "kl"),
    (r"\b(generali[sz]ed )?(jensen shannon( divergence)?|jsd?)\b", "jsd"),
    (r"\b(tvd?|total variation( distance)?)\b", "total variation"),
    (r"\bskewed (forward|reverse) kl\b", r"\1 kl skew"),
    (r"\bentropies\b", "entropy"),
    (r"\bsequence level\b", "sequence"),
    (r"\b(the )?(none of (these|them)|nothing known)\b", "none of these"),
    (r"\b(no gradient|nothing)\b", "zero"),
    (r"\brenormalised\b", "renormalized"),
    (r"\btemp\b|\btau\b", "temperature"),
    (r"\btop k reverse kl\W+k\W+(\d+)", r"reverse kl teacher top \1"),
    (r"\boutside\W+drop\b", "tail dropped"),
    (r"\boutside\W+tail\b", "tail as one token"),
    (r"\boutside\W+renormalize\b", "renormalized"),
    (r"\btop (k )?(\d+)", r"top \2"),
    (r"\bmean of (the )?local\b", "1/t * sum of local"),
    (r"\bhalf( of)?( the)? ", "0.5 * "),
    (r"\b(twice|double)( the)? ", "2 * "),
    (r"\b(least|weight) -", r"\1 minus "),  # of a number, and no next term
)
UNSAID = {"s", "the", "of", "with", "at", "a", "an", "to", "on", "its", "=", "is"}
UNSAID |= {"divergence", "distance"}
PARAMETERS = {"alpha", "beta", "skew", "temperature"}
FORWARD, REVERSE = ("forward", "kl"), ("reverse", "kl")
NUMBER = r"\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?"
FACTOR = re.compile(rf"^({NUMBER})(?:\s*/\s*({NUMBER}))?\s*(\*|x(?=\s)|(?=\s+[a-z(]))")

KNOWN = (
    *("forward KL", "reverse KL", "JSD(β = 0.5)", "α-divergence(α = 2)", "total variation"),
    *("forward KL with skew 0.1", "reverse KL with skew 0.1", "forward KL at temperature 2"),
    *("reverse KL at temperature 2", "JSD(β = 0.5) at temperature 2", "Jeffreys", "Hellinger"),
    *("entropy", "negative entropy", "f-divergence", "χ²", "expected teacher probability"),
    *("squared Hellinger", "triangular discrimination", "Rényi divergence(α = 2)"),
    "cross-entropy with the teacher's likeliest token",
    "cross-entropy with the student's likeliest token",
    "cross-entropy with uniform labels",
    "reverse KL on the teacher's top 2, renormalized",
    "forward KL on the teacher's top 2, tail dropped",
    "forward KL to the teacher renormalized on the teacher's top 2",
    *("sequence reverse KL", "sequence forward KL", "sequence negative entropy"),
    *("sum of local reverse KLs", "sum of local forward KLs", "sum of local JSD(β = 0.5)"),
    *("expected sum of local forward KLs", "reverse KL with a discounted return, γ = 0.9"),
    *("expected reward", "sequence cross-entropy with the teacher", "zero", "none of these"),
)
# What may stand before and after a name.
WORDS_AROUND = (
    "# * / ^ <= >= ( ) v t h p q kl std log sqrt forward reverse sum local sequence expected "
    "partial teacher student top renormalized dropped tail as one token tokens temperature alone "
    "skew beta alpha gamma discounted return returns later costs cost own mean from over position "
    "positions last first weighted by prefixes while two are close until they where masked times "
    "factor that depends pair vocabulary divided likeliest uniform labels other ones and its "
    "stale texts text product ratios way not known truncated ratio no kept rollout cost power "
    "above below function on in up within held behaviour "
    "ppo and dual clip high is there positive negative nothing mu "
    "clipped floored geometric mixture normalised weight standardized batch c each squared tanh "
    "all but sigmoid sign exp max least most target held fixed made outside e minus ||"
)
AROUND = set(WORDS_AROUND.split())


def read(text):
    """A sorted tuple of (words, coefficient): what a spelling says."""
    plain = _plain(text)
    terms = {}
    for sign, term in _terms(plain):
        coefficient, rest = _factor(term)
        inner = re.fullmatch(r"(.*?\*)?\s*\((.*[+-].*)\)\s*", rest)
        if inner:  # 1/V × (a + b)
            front = _words(inner[1] or "")
            for sub_sign, sub_term in _terms(inner[2]):
                number, name = _factor(sub_term)
                key = front + _words(name)
                terms[key] = terms.get(key, 0.0) + sign * coefficient * sub_sign * number
            continue
        key = _words(rest)
        terms[key] = terms.get(key, 0.0) + sign * coefficient
    return tuple(sorted(terms.items(), key=str))


def same(one, other):
    """Whether two readings say the same, numbers to six figures."""
    if len(one) != len(other):
        return False
    return all(
        len(words) == len(others)
        and math.isclose(number, other_number, rel_tol=1e-5)
        and all(map(_same_word, words, others))
        for (words, number), (others, other_number) in zip(one, other)
    )


def is_known(text):
    """Whether every term names something that an audit can find, whatever its numbers."""
    heads = [_open(words) for name in KNOWN for words, _ in read(name)]
    return all(_is_known(_open(words), heads) for words, _ in read(text))


def nearest(text):
    """Up to three known names that are spelled most like ``text``."""
    plain = {" ".join(map(str, _words(_plain(name)))): name for name in KNOWN}
    wanted = " ".join(map(str, _words(_plain(text))))
    return [plain[found] for found in difflib.get_close_matches(wanted, plain, 3, 0.4)]


def _is_known(words, heads):
    """Factors, the words of a known name, then words on where and how it is taken."""
    for start in range(len(words)):
        for head in heads:
            rest = words[:start] + words[start + len(head) :]
            if words[start : start + len(head)] == head and AROUND.issuperset(rest):
                return True
    return False


def _open(words):
    """The words with the numbers left open."""
    return tuple("#" if isinstance(word, float) else word for word in words)


def _plain(text):
    for character, other in CHARACTERS.items():
        text = text.replace(character, other)
    text = re.sub(r"(?<!\de)(?<=[a-zA-Z])[_-](?=[a-zA-Z\d])", " ", text)  # not in 1e-05
    text = re.sub(r"(?<=[a-z])(?=KL\b)|(?<=[a-z])(?=JSD\b)", " ", text)  # forwardKL
    text = re.sub(r"\s+", " ", text.lower()).strip(" \"'").rstrip(".")
    text = re.sub(r"= ?- ?(?=[\d.])", "=-", text)  # of a parameter below 0, and no next term
    text = re.sub(r"(?<!\de)\+", " + ", text)  # a sum, and not 1e+5
    for found, other in OTHER_WORDS:
        text = re.sub(found, other, text)
    return re.sub(r"\s+", " ", text)


def _terms(text):
    """(sign, term) of a sum; signs within brackets and of exponents are left alone."""
    found, depth, start, sign = [], 0, 0, 1
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        alone = text[place - 1 : place] in ("", " ") and character in "+-" and depth == 0
        if alone:
            if text[start:place].strip():
                found.append((sign, text[start:place].strip()))
            sign, start = (-1 if character == "-" else 1), place + 1
    return [*found, (sign, text[start:].strip())]


def _factor(term):
    """(number, rest) of "0.5 * name", "1/2 name", "2 x name", "0.5/T × name", "name / T"."""
    if divided := re.match(r"(.*[a-z)])\s*/\s*([vt])$", term):
        term = f"1/{divided[2]} * {divided[1]}"
    if known := FACTOR.match(term):
        number = float(known[1]) / float(known[2] or 1)
        return number, term[known.end() :].strip()
    if known := re.match(rf"^({NUMBER})(?=/[a-z])", term):  # 0.5/T is 0.5 times 1/T
        return float(known[1]), "1" + term[known.end() :]
    return 1.0, term


def _words(text):
    """Words and numbers in their order, a parameter's name once; a JSD without a β has 0.5."""
    found = []
    for word in re.findall(rf"(?<==)-(?:{NUMBER})|{NUMBER}|[a-z]+|\|\||[<>]=|[/^*]", text):
        word = float(word) if re.fullmatch(rf"-?(?:{NUMBER})", word) else word
        if word not in UNSAID and not (word in PARAMETERS and word in found):
            found.append(word)
    if "jsd" in found:
        place = found.index("jsd") + 1
        if found[place : place + 1] != ["beta"]:
            has_number = found[place : place + 1] and isinstance(found[place], float)
            found[place:place] = ["beta"] if has_number else ["beta", 0.5]
    return _simplest(tuple(found))


def _simplest(words):
    """Without a parameter at the end of its range, where the name is that of a KL."""
    ends = {("jsd", "beta", 0.0): FORWARD, ("jsd", "beta", 1.0): REVERSE}
    ends |= {("alpha", 0.0): FORWARD, ("alpha", 1.0): REVERSE}
    ends |= {("skew", 0.0): (), ("teacher", "temperature", 1.0): (), ("temperature", 1.0): ()}
    for end, plain in ends.items():
        for start in range(len(words) - len(end) + 1):
            if words[start : start + len(end)] == end:
                return words[:start] + plain + words[start + len(end) :]
    return words


def _same_word(one, other):
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-5)
    return one == other
