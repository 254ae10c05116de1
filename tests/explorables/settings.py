"""Settings that neither the controls nor chance lead to: what is said and drawn only there."""

from opd_toy.explorables.learning_curves import AXES, QUANTITIES
from opd_toy.explorables.push_and_pull import OBJECTIVES
from tests.test_explorables_sentences import EVEN, Q

WRONG = [0.005, 0.005, 0.99]
FAR = {"separation": 20.0, "weight": 0.5, "start_mean": 36.0, "start_width": 12.0, "steps": 300}
# Its student moves by .03 in the last steps.
MOVING = {"student": [0.37, 0.19, 0.44], "teacher": [0.79, 0.1, 0.11], "cost": "kept", "renew": 16}
MOVING |= {"behaviour": [0.07, 0.59, 0.34], "correction": "truncate", "most": 2.0}
# What the auditor has names for, what it has none for, and what cannot be read.
FORMULAS = [
    "sum(where(p > q, p*(log p - log q), 0))",
    "sum(where(q == max(q), 1, 0)*(0 - log p)); ",
    "sum(where(p <= q, p, q)*where(p != q, 2, 1)*where(p >= 0.3, 1, p)*where(q < p, 1, p))",
    "sg(tanh(log p[k] - log q[k]))*log p[k]",
    "sg(sigmoid(log p[k] - log q[k]))*log p[k]",
    "-log sigmoid(log p[k] - log q[k])",
    "mean((z - t)^2)",
    "-mean(log p)",
    "sum(p^2/q)",
    "4*(1 - sum(sqrt(p*q)))",
    "max(sum(p*(log p - log q)) - 0.1, 0)",
    "min(log p - log q)",
    "sqrt(sum(q*(log q - log p)))",
    "sg(sum(p*(log p - log q)))*sum(q*(log q - log p))",
    "9*sum(softmax(z/3)*(log_softmax(z/3) - log_softmax(t/3)))",
    "sum(p*(log p - log_softmax(t/0.7)))",
    "sum(p*(log p - log q)) - 0.1*sum(p*log p)",
    "2*log p[k]/V",
    "log(p[k] - p[k])",
    "a = log p[k]; b = ",
    "sum(p*(log p - log q)",
    "p",
    "sum(q*log q)",
    "r = log p - log q; m = sum(p*r); sg(sqrt(sum(p*(r - m)^2)))*sum(q*(log q - log p))",
    "sg(-sum(q*log q))*sum(p*(log p - log q))",
    "sg(-sum(p*log p))*sum(q*(log q - log p))",
    "sg(sum(q*(log q - log p)))*sum(p*(log p - log q))",
    "sum(p*(log p - log q))^3",
    "2/(sum(p*(log p - log q)) + 0)",
    "sqrt(sum(q*(log q - log p)))*3",
    "sum(p*(log p - log(0.1*p + 0.9*q))) + 2*sum(q*(log q - log(0.3*q + 0.7*p)))",
    "m = 0.3*q + 0.7*p; 0.3*sum(q*(log q - log m)) + 0.7*sum(p*(log p - log m)) + 0.2*sum(p*log p)",
    "2*(1 - sum(p^0.3*q^0.7))",
    "sum(p*(p/q)^0.5)",
    "-sum(p*(log p - log q))",
    "sum(p*(log p - log q)) - sum(q*(log q - log p))",
    "-0.5*sum(q*(log q - log p)) + 0.25*sum(p*(log p - log q)) - 0.1*sum(p*log p)",
    "sum(p*(log p - log q))/V",
    "(sum(p*(log p - log q)) + sum(q*(log q - log p)))/V",
    "-mean(log p) + 2*sum(p*log p)/V",
    "sg(sigmoid(2*(log p[k] - log q[k])))*log p[k]",
    "sg(tanh(2*(log p[k] - log q[k])))*log p[k]",
    "0.3*sg(tanh(0.7*(log p[k] - log q[k])))*log p[k]",
    "sg(exp(2*(log p[k] - log q[k])))*log p[k]",
    "sg(abs(2*(log p[k] - log q[k])))*log p[k]",
    "sg(max(log p[k] - log q[k], 0))*log p[k]",
    "sg(min(p[k]/q[k], 2))*log p[k]",
    "sg(where(p[k] > q[k], 1, -1))*log p[k]",
    "sg((log p[k] - log q[k])^2)*log p[k]",
    "sg(0.5*(log p[k] - log q[k])^2 - 3*(log p[k] - log q[k]))*log p[k]",
    "sum(softmax(z/2)*(log_softmax(z/2) - log q))",
    "sum(softmax(z/2)*(log_softmax(z/2) - log_softmax(t/2)))",
    "4*sum(softmax(t/2)*(log_softmax(t/2) - log_softmax(z/2)))",
    "sum(softmax(t/2)*(log_softmax(t/2) - log p))",
    "sum(p*(log p - log_softmax(t*1.5)))",
    "1.5*sum(p*(log p - log q)) - 0.5*sum(p*log p)",
    "sum(p*(log p - log q)) + sum(p*log p)*2",
    "1234567*sum(p*(log p - log q))",
    "0.000012*sum(q*(log q - log p))",
    "1e-7*sum(p*(log p - log q)) + 2*sum(q*(log q - log p))",
    "0*sum(p)",
    "p[k] - p[k]",
    "sum(p)*2 - 1",
    "log(p[k])*sg(p[k])",
    "p[k]",
    "q[k]*p[k]",
    "1/p[k]",
    "log p[k]/p[k]",
    "sg(1/p[k])*p[k]*(log p[k] - log q[k])",
    "max(p[k], q[k])",
    "min(sum(p*log p), -0.5)",
    "max(0.2, p[k])",
    "abs(p[k] - q[k])",
    "p[k]^q[k]",
    "p[k]^0",
    "2^p[k]",
    "p[k]^2/2",
    "sqrt(p[k])/V + mean(p)*sum(q*p)",
    "clamp(log p[k] - log q[k], -0.5, 0.5)",
    "sum(max(p, q))",
    "sum(min(p, 0.3))",
    "max(p) - min(q) + mean(z)",
    "lambda = 2; del = p[k]; lambda*del",
    "z[k] - t[k]",
    "+p[k]",
    "(p)[k]*V",
    "sum(p*(log p - log q)) + 1e-5*sum(p^3)",
    "log(sum(exp(z - t)))",
    "e = 2.5e-1; sg(e)*p[k] + .5*mean(log p)",
    # parameters that stand between those that a search begins with
    "sum(p*(log p - log(0.15*p + 0.85*q))) + 2*sum(q*(log q - log(0.42*q + 0.58*p)))",
    "m = 0.37*q + 0.63*p; 0.37*sum(q*(log q - log m)) + 0.63*sum(p*(log p - log m)) - mean(log p)",
    "2*(1 - sum(p^0.23*q^0.77)) + sum(q*(log q - log p))",
    "a = softmax(z/1.7); b = softmax(t/1.7); sum(a*(log a - log(0.33*a + 0.67*b)))",
    "a = softmax(z/0.31); b = softmax(t/0.31); 3*sum(b*(log b - log(0.33*b + 0.67*a)))",
    "a = softmax(z/1.7); b = softmax(t/1.7); -sum(a^0.45*b^0.55)",
    "m = p + q\nlog n[k]",
    "(p[k]\n + q[k]) + ",
    "",
    "2*p[k] + 4*(p[k] - log p[k]) + 3*(q[k] + p[k]) + 4*p[k] - 2*(1 - nothing)",
    "2*p[k] + 4*(p[k] - log p[k]) + 3*(q[k] + nothing[k]) + 4*p[k] - 2*(1 - p[k])",
]
SETTINGS = {
    "Baselines": [
        {"baseline": 3.2},  # its axis is five ticks long
        {"student": [0.02, 0.96, 0.02], "view": "k_estimators", "kind": "k1", "use": "loss"},
    ]
    + [
        {"student": Q, "view": "k_estimators", "kind": kind, "use": use}
        for kind, use in (("k1", "loss"), ("k1", "reward"), ("k2", "loss"))
    ],
    "Credit": [
        {"tree": "notes", "sequence": 242, "scheme": scheme, "position": position}
        for scheme in ("immediate", "reward_to_go", "full_return", "gae", "outcome", "broadcast")
        for position in (1, 5)
    ]
    + [{"scheme": "outcome", "sequence": 0}, {"scheme": "broadcast", "sequence": 3}],
    "LearningCurves": [
        {"methods": methods, "quantity": quantity, "x": axis, "at": at}
        for quantity, axis in zip(QUANTITIES, (*AXES, *AXES))
        for methods in (["sft"], ["rlvr"], ["gkd", "jsd"], ["sft", "pg_0.9", "pg_1", "pg_0.5"])
        for at in (60, 99)
    ]
    + [{"record": "gpu", "x": axis, "methods": ["sft", "rlvr"]} for axis in AXES]
    + [
        {"record": "gpu", "quantity": quantity, "methods": methods, "at": at}
        for quantity in ("accuracy", "sequence_kl", "distinct", "length")
        for methods, at in (([], 0), (["rlvr"], 0), (["sft", "gkd"], 20))
    ]
    + [{"x": "tokens", "at": 25}, {"record": "gpu", "x": "seconds", "at": 10}]
    + [{"record": "gpu", "x": "seconds", "at": 0}],
    "LossMuseum": [
        {"exhibit": "temperature", "student": [0.1, 0.2, 0.7]},  # both leave one token where it is
        {"exhibit": "value_clamp", "student": WRONG, "teacher": [0.9, 0.09, 0.01]},
        {"exhibit": "ratio_clamp", "student": [0.3, 0.3, 0.4], "teacher": [0.35, 0.3, 0.35]},
        {"exhibit": "tail", "teacher": [0.4, 0.3, 0.3]},
        {"exhibit": "stop_gradient", "update": "drawn", "steps": 1},
        {"exhibit": "k3", "student": WRONG, "teacher": [0.98, 0.01, 0.01], "steps": 7},
        *(
            {"exhibit": "k1", "student": Q, "update": "drawn", "steps": steps, "seed": 8}
            for steps in (180, 190, 200)
        ),
        {"exhibit": "k1", "student": Q, "update": "drawn", "steps": 199, "seed": 11},  # at the top
    ],
    "PushAndPull": [
        {"objective": objective, "beta": at, "alpha": 2 * at - 0.5, "skew": min(at, 0.99)}
        for objective in OBJECTIVES
        for at in (0.0, 0.25, 0.75, 1.0)
    ],
    # at 25 the rarest token is expected five times, from 99 on the sign is clear
    "SampleAndAverage": [{"draws": draws} for draws in (0, 1, 2, 25, 98, 99, 4096)],
    "SeekOrCover": [
        *({"objective": "forward_kl", "weight": weight} for weight in (0.05, 0.95)),
        {"objective": "forward_kl", "weight": 0.1, "separation": 7.0},
        {"objective": "jsd", "weight": 0.5, "start_mean": 20.5, "start_width": 8.0},
        {"objective": "reverse_kl", "weight": 0.5, "start_mean": 20.5, "start_width": 8.0},
        {"separation": 0.0, "start_mean": 20.5, "start_width": 2.0},
        {"weight": 0.4, "start_mean": 16.0},
        {"family": "free", "steps": 20},
        {"family": "free", "start_mean": 38.0, "start_width": 1.0, "weight": 0.1},
        *({"objective": "jsd", "beta": beta} for beta in (0.0, 1.0)),
        *(FAR | {"objective": objective} for objective in ("forward_kl", "jsd", "reverse_kl")),
    ],
    "StaleRollouts": [
        {"behaviour": [0.345, 0.3, 0.355]},  # one text in 1,400 of 64 tokens speaks
        MOVING,
        {"behaviour": EVEN, "sampler": "top_p", "most": 0.5, "low": 0.0},
    ],
    "WhichToken": [{"seed": 3, "draws": 999, "token": 3}],  # the last draw of its seed
    "YourLoss": [
        # an end .007 from the teacher, and one that leaves a token .016
        {"formula": "sum(p*(log p - log q)) + 0.0225*sum(p*log p)"},
        {"formula": "-sum(p*where(q > 0.15, 1, 0))", "student": [0.75, 0.2, 0.05]},
    ]
    + [{"formula": formula} for formula in FORMULAS],
}
