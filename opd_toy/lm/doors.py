"""A task in which the student cannot know what its teacher knows: which door is the right one.

A question is a name of five digits; somebody of that name is in one of four rooms, and only the
teacher knows in which.  An answer is the way of a visitor who starts in the hall: a door leads
into a room, `↩` back to the hall.  `C.` is the teacher's way, `A↩C.` that of a visitor who has to
look.  The end, `.`, comes in the right room, and there alone: no model chooses it.  A door or `↩`
where there is none changes nothing.
"""

import torch

from opd_toy import _validate
from opd_toy.lm.model import uniforms
from opd_toy.lm.tasks import is_test
from opd_toy.lm.transformer import Shape

DOORS = "ABCD"
SIGNS = f"0123456789{DOORS}↩._"
FIRST = SIGNS.index(DOORS[0])
BACK, END, PAD = (SIGNS.index(sign) for sign in "↩._")
NAME = 5  # digits
HALL = -1  # a place, as are the rooms from 0 on
NEVER = 1e-4  # what the teacher gives to each token that it has no use for


class Doors:
    """The task, with what training and sampling ask of one, see ``opd_toy.lm.tasks.Sums``."""

    prompt_length = NAME
    length = 2 * len(DOORS)  # each room once, and the end
    vocabulary = len(SIGNS)
    end, pad = END, PAD

    def prompts(self, count, *key, split="train"):
        """``count`` names (count, 5) that depend on ``key`` alone; none is in both splits."""
        count = _validate.whole("count", count, 0)
        is_for = _validate.choice("split", split, ("train", "test")) == "test"
        drawn = uniforms(0, *key, "names", shape=(64 + (16 if is_for else 2) * count, NAME))
        names = (drawn * 10).long()
        return names[is_test(names) == is_for][:count]

    def rewards(self, tokens):
        """1 where a text (B, P + T) comes to the right room, else 0: float32 (B,)."""
        return (tokens[:, NAME:] == END).any(1).float()

    def read(self, tokens):
        """One text (L,) for people, without padding."""
        return "".join(SIGNS[token] for token in tokens.tolist() if token != PAD)


class Visit:
    """Where B visitors are, read token by token, their names first."""

    def __init__(self, batch):
        self.names = torch.zeros(batch, 0, dtype=torch.int64)
        self.place = torch.full((batch,), HALL)
        self.room = None

    def read(self, token):
        """Takes in the next token (B,) of each text."""
        if self.room is None:
            self.names = torch.cat([self.names, token[:, None]], 1)
            if self.names.shape[1] == NAME:
                self.room = rooms(self.names)
            return
        enters = (self.place == HALL) & (token >= FIRST) & (token < BACK)
        self.place = torch.where(enters, token - FIRST, self.place)
        self.place = torch.where(token == BACK, HALL, self.place)

    def wanted(self):
        """The right next token (B,); padding within a name, where none is."""
        if self.room is None:
            return torch.full_like(self.place, PAD)
        right = torch.where(self.place == self.room, END, BACK)
        return torch.where(self.place == HALL, FIRST + self.room, right)


def rooms(names):
    """The room (B,) of each of ``names`` (B, 5); nothing about a name tells it."""
    state = torch.zeros_like(names[:, 0])
    for digit in names.unbind(1):
        state = (state + digit + 1) * 48_271 % 2_147_483_647
        state = state ^ (state >> 7)
    return state % len(DOORS)


def read_visits(texts):
    """Of each token of the answers in ``texts`` (B, P + T): where it is written, what is right.

    Two arrays (B, T).
    """
    visit, places, right = Visit(len(texts)), [], []
    for token in texts.unbind(1):
        places.append(visit.place)
        right.append(visit.wanted())
        visit.read(token)
    return torch.stack(places[NAME:], 1), torch.stack(right[NAME:], 1)


class House(torch.nn.Module):
    """``model`` in the house: it chooses its steps, and the house ends the text.

    It has the interface of a ``Transformer``; its states are logits already.  The end has all the
    probability in the right room and none elsewhere, whatever the model: no loss learns from it.
    """

    def __init__(self, model):
        super().__init__()
        self.model, self.shape = model, model.shape

    @staticmethod
    def head(states):
        return states

    def cache(self, batch, length=None):
        return self.model.cache(batch, length), Visit(batch)

    def hidden(self, tokens, cache=None):
        """Logits (B, L, V) of the token after each of ``tokens`` (B, L)."""
        inner, visit = cache or (None, Visit(len(tokens)))
        there = []
        for token in tokens.unbind(1):
            visit.read(token)
            there.append(visit.wanted() == END)
        there = torch.stack(there, 1)[..., None]
        is_end = torch.arange(len(SIGNS)) == END
        logits = self.model.head(self.model.hidden(tokens, inner))
        decided = torch.where(there & is_end, 0.0, -torch.inf)
        return torch.where(there | is_end, decided, logits)


class Rule(torch.nn.Module):
    """The teacher, which takes a wrong door with probability ``noise``, each as likely.

    From a wrong room it goes back.  Tokens that it has no use for have ``NEVER``.
    """

    def __init__(self, noise):
        super().__init__()
        self.noise = _validate.fraction("noise", noise)
        self.shape = Shape(len(SIGNS), 2, 1, 1, NAME + Doors.length)

    @staticmethod
    def head(states):
        return states

    def cache(self, batch, length=None):
        return Visit(batch)

    def hidden(self, tokens, cache=None):
        """Log probabilities (B, L, V), to a constant, of the token after each of ``tokens``."""
        visit, right, in_hall = cache or self.cache(len(tokens)), [], []
        for token in tokens.unbind(1):
            visit.read(token)
            right.append(visit.wanted())
            in_hall.append(visit.place == HALL)
        columns = torch.arange(len(SIGNS))
        is_right = columns == torch.stack(right, 1)[..., None]
        is_choice = torch.stack(in_hall, 1)[..., None] & (columns >= FIRST) & (columns < BACK)
        row = torch.where(is_choice, self.noise / (len(DOORS) - 1), torch.tensor(NEVER))
        sure = torch.where(is_choice, 1 - self.noise, 1.0)
        return torch.where(is_right, sure, row).log()
