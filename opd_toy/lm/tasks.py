"""The task of the lab: sums with every step written out, in whichever order.

Numbers are written low digit first, so that a carry is known before it is needed.  A prompt
is the terms, `72 85 63:` for 27, 58 and 36; a right working adds them one by one, in any
order, `85+72=58+63=121.` for 58 + 27 = 85, 85 + 36 = 121.  Each order is a right answer: the
teacher has terms! modes.  A wrong step spoils all that follow: room for exposure bias.
"""

import itertools
from dataclasses import dataclass

import torch

from opd_toy import _validate
from opd_toy.lm.model import response_mask, uniforms

TEST_PART = 8  # one set of terms in so many is kept for tests
SYMBOLS = " :+=._"  # between terms, after the prompt, plus, equals, end, padding
MOST_TERMS = 5  # 120 orders


@dataclass(frozen=True)
class Sums:
    """Sums of ``terms`` different numbers of ``digits`` digits to ``base``.

    No number starts with a zero.  Tokens 0 to base - 1 are digits, then come the six
    ``SYMBOLS``; those from base + 6 to ``vocabulary`` stand for nothing, as in real models.
    Texts are int64 (B, P + T), P the ``prompt_length``, T the ``length`` of the longest
    response.
    The demonstrations draw the order of the terms with unequal probabilities: order k of
    ``orders``, which starts with the prompt's own, with 1/(k + 1) over the sum of all.
    """

    terms: int = 3
    digits: int = 2
    base: int = 10
    vocabulary: int = 16

    def __post_init__(self):
        bounds = dict(terms=(2, MOST_TERMS), base=(2, 1 << 15), digits=(1, None))
        for name, (least, most) in (bounds | dict(vocabulary=(1, None))).items():
            object.__setattr__(self, name, _validate.whole(name, getattr(self, name), least, most))
        if self.terms * self.base**self.digits >= 1 << 53:
            raise ValueError(
                f"digits is {self.digits}; with base {self.base} and {self.terms} terms the sum "
                "passes 2**53; give fewer"
            )
        numbers, tokens = self.highest - self.lowest + 1, self.base + len(SYMBOLS)
        if numbers < self.terms:
            raise ValueError(
                f"digits is {self.digits} and base {self.base}, which gives {numbers} numbers; "
                f"give more of either for {self.terms} different terms"
            )
        if self.vocabulary < tokens:
            raise ValueError(
                f"vocabulary is {self.vocabulary}; give at least base + {len(SYMBOLS)} = {tokens}: "
                f"the digits and the symbols {SYMBOLS!r}"
            )

    @property
    def lowest(self):
        """The smallest term; 1 where a term has one digit."""
        return self.base ** (self.digits - 1)

    @property
    def highest(self):
        return self.base**self.digits - 1

    @property
    def prompt_length(self):
        return self.terms * (self.digits + 1)

    @property
    def length(self):
        """Tokens of the longest response, its end included."""
        return self.terms * (self.digits + 2) - 1 + sum(self._sum_widths)

    @property
    def end(self):
        return self._symbol(".")

    @property
    def pad(self):
        return self._symbol("_")

    @property
    def orders(self):
        """Every order of the terms, the prompt's own first: tuples of places in the prompt."""
        return list(itertools.permutations(range(self.terms)))

    @property
    def order_probabilities(self):
        """Of each of ``orders`` in the demonstrations: float64 (terms!,)."""
        weight = 1 / torch.arange(1, len(self.orders) + 1, dtype=torch.float64)
        return weight / weight.sum()

    def prompts(self, count, *key, split="train"):
        """``count`` prompts (count, P) that depend on ``key`` and the task alone.

        key: whole numbers and names, see ``uniforms``.  split: "train", or "test": no prompt of
        the one has the same terms, in whatever order, as one of the other.
        """
        count = _validate.whole("count", count, 0)
        test = _validate.choice("split", split, ("train", "test")) == "test"
        found = torch.empty(0, self.terms, dtype=torch.int64)
        for attempt in range(1000):
            if len(found) >= count:
                return self._write_prompts(found[:count])
            shape = (2 * count + 64, self.terms)
            numbers = uniforms(0, *key, "prompts", split, attempt, shape=shape)
            terms = self.lowest + (numbers * (self.highest - self.lowest + 1)).long()
            ascending = terms.sort(1).values
            different = (ascending.diff(dim=1) != 0).all(1)
            found = torch.cat([found, terms[different & (is_test(ascending) == test)]])
        raise ValueError(
            f"split is {split!r}, in which {self} has no sums, or next to none; give more digits "
            "or a larger base"
        )

    def demonstrations(self, prompts, uniforms):
        """Right workings (count, P + T) of ``prompts`` (count, P).

        The order is drawn by ``uniforms`` (count,) from ``order_probabilities``.
        """
        cumulated = self.order_probabilities.cumsum(0).to(uniforms.device)
        chosen = torch.searchsorted(cumulated, uniforms.contiguous(), right=True)
        chosen = chosen.clamp_max(len(cumulated) - 1).to(prompts.device)
        orders = torch.tensor(self.orders, device=prompts.device)[chosen]
        workings = self._write_workings(self.read_terms(prompts).gather(1, orders))
        return torch.cat([prompts, workings], 1)

    def rewards(self, tokens):
        """1 where the number that stands before the end is the sum, else 0.

        float32 (B,) for texts (B, P + T).
        """
        response = tokens[:, self.prompt_length :]
        at_end = response == self.end
        end = at_end.long().argmax(1)  # 0 where there is none
        digits = self._digits(self.read_terms(tokens).sum(1), self._sum_widths[-1])
        right, number = at_end.any(1), (digits >= 0).sum(1)
        for place in range(-1, digits.shape[1]):  # the one before the number must be no digit
            position = end - number + place
            token = response.gather(1, position.clamp_min(0)[:, None])[:, 0]
            if place < 0:
                right &= (position < 0) | (token >= self.base)
            else:
                right &= (place >= number) | ((position >= 0) & (token == digits[:, place]))
        return right.float()

    def workings(self, tokens):
        """Which of ``orders`` each text works through, wholly right and to its end; -1: none.

        (B,) int64 for texts (B, P + T).
        """
        terms, drawn = self.read_terms(tokens), response_mask(tokens, self.prompt_length, self.end)
        response = torch.where(drawn, tokens[:, self.prompt_length :], self.pad)
        workings = self._write_workings(terms[:, self.orders].flatten(0, 1))
        workings = workings.view(len(terms), -1, self.length)
        right = (workings == response[:, None]).all(2)
        found = right.long() * torch.arange(1, right.shape[1] + 1, device=terms.device)
        return found.sum(1) - 1  # at most one is right, as the terms differ

    def read(self, tokens):
        """One text (L,) for people, without padding; to a base above 10 tokens stand apart."""
        words = [self._word(token) for token in tokens.tolist() if token != self.pad]
        if self.base <= 10:
            return "".join(words)
        return " ".join(word.strip() or "|" for word in words)

    def read_terms(self, tokens):
        """The numbers (B, terms) of the prompts at the head of ``tokens`` (B, P or more)."""
        digits = tokens[:, : self.prompt_length].view(-1, self.terms, self.digits + 1)[..., :-1]
        return (digits * self.base ** torch.arange(self.digits, device=tokens.device)).sum(-1)

    # --- writing ---

    @property
    def _sum_widths(self):
        """Digits of the largest sum of two terms, of three, …"""
        return [
            len(_to_base(sum(range(self.highest - count + 1, self.highest + 1)), self.base))
            for count in range(2, self.terms + 1)
        ]

    def _symbol(self, character):
        return self.base + SYMBOLS.index(character)

    def _word(self, token):
        if token < self.base:
            return str(token)
        place = token - self.base
        return SYMBOLS[place] if place < len(SYMBOLS) else f"<{token}>"

    def _digits(self, numbers, width):
        """Digits (..., width) of ``numbers`` (...), low digit first; -1 where there are no more."""
        digits = numbers[..., None] // self.base ** torch.arange(width, device=numbers.device)
        return torch.where(digits > 0, digits % self.base, -1)

    def _write_prompts(self, terms):
        separators = torch.full_like(terms, self._symbol(" "))
        separators[:, -1] = self._symbol(":")
        return torch.cat([self._digits(terms, self.digits), separators[..., None]], -1).flatten(1)

    def _write_workings(self, terms):
        """Responses (B, T) that add ``terms`` (B, terms) from left to right."""
        column = lambda character: terms.new_full((len(terms), 1), self._symbol(character))
        parts, total = [self._digits(terms[:, 0], self.digits)], terms[:, 0]
        for term, width in zip(terms.unbind(1)[1:], self._sum_widths):
            total = total + term
            parts += [column("+"), self._digits(term, self.digits)]
            parts += [column("="), self._digits(total, width)]
        text = torch.cat([*parts, column(".")], 1)
        blank = text < 0  # moved to the end, where they are padding
        return text.where(~blank, self.pad).gather(1, blank.long().argsort(stable=True, dim=1))


def is_test(terms):
    """Whether a sum is kept for tests, by a hash of its terms (B, terms): (B,) bool.

    The caller sorts the terms, so that their order does not matter.
    """
    state = torch.zeros_like(terms[:, 0])
    for term in terms.unbind(1):
        state = (state * 1_000_003 + term) % 2_147_483_647
        state = (state ^ (state >> 13)) * 48_271 % 2_147_483_647
    return (state ^ (state >> 11)) % TEST_PART == 0


def _to_base(number, base):
    digits = [number % base]
    while number := number // base:
        digits.append(number % base)
    return digits
