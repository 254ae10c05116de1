"""What the name of an argument says: whose it is, and what.

``guess("ref_log_probs")`` is ("reference", "log_probs"); None where the name does not tell.
"""

import re

STUDENT, TEACHER, OLD, REFERENCE = "student", "teacher", "old", "reference"
BEHAVIOUR = "behaviour"  # the OLD one that drew the tokens
TOKEN, LABELS, MASK, BATCH, IDS, SETTING = "tokens", "labels", "mask", "batch", "ids", "setting"
TARGET = "target"  # the teacher's or the tokens: told by the other arguments

WHO = {
    "teacher": TEACHER,
    "expert": TEACHER,
    "true": TEACHER,
    "soft": TEACHER,  # as in soft_labels
    "oracle": TEACHER,
    "frozen": TEACHER,
    "ema": TEACHER,
    "tea": TEACHER,
    "tch": TEACHER,
    "student": STUDENT,
    "stu": STUDENT,
    "policy": STUDENT,
    "actor": STUDENT,
    "current": STUDENT,
    "curr": STUDENT,
    "cur": STUDENT,
    "new": STUDENT,
    "draft": STUDENT,
    "learner": STUDENT,
    "trainable": STUDENT,
    "pred": STUDENT,
    "preds": STUDENT,
    "predicted": STUDENT,
    "predictions": STUDENT,
    "old": OLD,
    "prev": OLD,
    "previous": OLD,
    "generation": OLD,
    "behavior": OLD,
    "behaviour": OLD,
    "sampling": OLD,
    "sampler": OLD,
    "rollout": OLD,
    "behav": OLD,
    "behave": OLD,
    "mu": OLD,
    "gen": OLD,
    "inference": OLD,
    "infer": OLD,
    "vllm": OLD,
    "sglang": OLD,
    "stale": OLD,
    "prox": OLD,
    "proximal": OLD,
    "ref": REFERENCE,
    "reference": REFERENCE,
    "base": REFERENCE,
}
# Of two old policies the one that drew the tokens; the other began the step.
DRAWERS = {
    *("behavior", "behaviour", "behav", "behave", "mu", "generation", "gen", "sampling"),
    *("sampler", "rollout", "inference", "infer", "vllm", "sglang", "stale"),
}
LOG_PROBS = {"logprob", "logprobs", "logps", "logp", "logq", "logpi", "lp", "lq"}
AFTER_LOG = {"p", "q", "pi", "mu", "ps", "prob", "probs", "probability", "probabilities"}
PROBS = {"prob", "probs", "probability", "probabilities", "proba"}
LOGITS = {"logit", "logits", "output", "outputs", "hidden"}
TOKEN_WORDS = {
    *("token", "tokens", "ids", "action", "actions", "completion", "completions"),
    *("response", "responses", "sample", "sampled", "samples"),
}
TARGETS = {"target", "targets", "tgt"}
BATCHES = {"batch", "minibatch", "microbatch", "data"}
ALONE = {"inputs", "sample", "samples", "example", "examples", "features", "kwargs"}
ADVANTAGES = {"advantage", "advantages", "reward", "rewards", "returns"}
SETTINGS = {
    *ADVANTAGES,
    *("temperature", "temp", "tau", "beta", "alpha", "gamma", "lam", "lambda", "lmbda", "coef"),
    *("coeff", "eps", "epsilon", "clip", "reduction", "config", "cfg", "args", "tokenizer"),
    *("baseline", "model", "step"),
    *("scale", "num", "n", "vocab", "estimator", "weight", "weights", "size", "id", "ignore"),
    *("pad", "eos", "bos", "len", "length", "lengths", "count"),
}


def words(name):
    """ "studentLogits_T" -> ["student", "logits", "t"]"""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    return [part.lower() for part in parts]


def guess(name):
    """(who, what), each None where the name does not say."""
    found = words(name)
    whose = [WHO[word] for word in sorted(found, key=("soft", "true").__contains__) if word in WHO]
    who = whose[0] if whose else None  # soft_preds are the student's
    if not found:
        return None, None
    if found[-1] in ("mask", "masks"):
        return None, MASK
    if form := _form(found):
        if form == "logits" and who is None and TARGETS & set(found):
            who = TEACHER  # of speculative decoding, beside draft_logits
        return who, form
    if found[-1] in BATCHES and "num" not in found:
        return None, BATCH
    if SETTINGS & set(found):
        return None, SETTING
    if {"label", "labels"} & set(found):
        return (who, None) if who == TEACHER else (None, LABELS)
    if TOKEN_WORDS & set(found):
        return None, TOKEN
    if TARGETS & set(found):
        return (who, None) if who else (None, TARGET)
    if BATCHES & set(found):
        return None, BATCH
    return who, None


def _form(found):
    """ "logits", "log_probs" or "probs", or None."""
    after_log = any(a == "log" and b in AFTER_LOG for a, b in zip(found, found[1:]))
    if after_log or LOG_PROBS & set(found):
        return "log_probs"
    if LOGITS & set(found):
        return "logits"
    return "probs" if PROBS & set(found) else None


def student_and_teacher(names):
    """{name: role} of two names that differ in an s and a t alone, as logits_S and logits_T."""
    by_words = {}
    for name in names:
        by_words.setdefault(tuple(words(name)), name)
    for found, name in by_words.items():
        for place, word in enumerate(found):
            other = by_words.get((*found[:place], "t", *found[place + 1 :]))
            if word == "s" and other:
                return {name: STUDENT, other: TEACHER}
    return {}


def of_top_k(name):
    """IDS or TEACHER for the teacher's first K: their ids or their log-probabilities; or None."""
    found = set(words(name))
    if {"input", "completion", "response", "label", "labels"} & found:
        return None
    if {"logprobs", "logprob", "logps", "logp", "probs", "values", "scores", "lp"} & found:
        return None if WHO.get(next(iter(found & WHO.keys()), "")) == STUDENT else TEACHER
    if {"ids", "indices", "idx", "index", "id", "indexes"} & found:
        return IDS
    return None
