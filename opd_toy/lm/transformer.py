"""A decoder-only transformer in one file, with the cache that sampling reads from.

Pre-norm blocks of RMSNorm (arXiv 1910.07467), rotary positions (arXiv 2104.09864),
``scaled_dot_product_attention`` and SwiGLU (arXiv 2002.05202); the output head is not tied.
Tokens are int64.
"""

import functools
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from opd_toy import _validate

# Of the rotary angles.  10 000 is for texts of thousands of tokens; with it these models learn
# more slowly.
TURN_BASE = 1000.0


@dataclass(frozen=True)
class Shape:
    """Sizes of a transformer; ``length`` is the most positions that it reads."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    length: int

    def __post_init__(self):
        for field in fields(self):
            size = _validate.whole(field.name, getattr(self, field.name), 1)
            object.__setattr__(self, field.name, size)
        if self.width % (2 * self.heads):
            raise ValueError(
                f"heads is {self.heads} and width {self.width}; give heads that divide the width "
                "into even parts (rotary positions turn pairs), so that width is a multiple of "
                "2 * heads"
            )

    @property
    def feed_forward(self):
        """Width within SwiGLU, a multiple of 8: as many weights as a plain layer of four widths."""
        return -(-8 * self.width // 3 // 8) * 8

    @property
    def parameters(self):
        """How many weights a model of this shape has."""
        block = 4 * self.width**2 + 3 * self.width * self.feed_forward + 2 * self.width
        return 2 * self.vocabulary * self.width + self.layers * block + self.width


class Transformer(nn.Module):
    """A model whose weights depend on ``shape``, ``seed`` and PyTorch's default dtype alone.

    They have that dtype.  Runs under autocast, and in float64 after ``.double()``.
    """

    def __init__(self, shape, seed=0):
        super().__init__()
        self.shape = shape
        self.embedding = nn.utils.skip_init(nn.Embedding, shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, eps=1e-6)
        self.head = _linear(shape.width, shape.vocabulary)
        self._draw_weights(torch.Generator().manual_seed(_validate.whole("seed", seed, 0)))

    @torch.no_grad()
    def _draw_weights(self, generator):
        """Normal weights, of standard deviation 1/2 over the square root of a matrix's inputs.

        Matrices that add to the residual stream have less, so that it does not grow with depth.
        """
        for name, weight in self.named_parameters():
            if weight.ndim == 1:
                continue  # an RMSNorm's, which stays 1
            spread = 0.3 if name.startswith("embedding") else 0.5 * weight.shape[1] ** -0.5
            if name.endswith(("mixed.weight", "down.weight")):
                spread *= (2 * self.shape.layers) ** -0.5
            weight.normal_(std=spread, generator=generator)

    def forward(self, tokens, cache=None):
        """Logits (B, L, V) of the token after each of ``tokens`` (B, L), see ``hidden``."""
        return self.head(self.hidden(tokens, cache))

    def hidden(self, tokens, cache=None):
        """States (B, L, width) after the last norm, which ``head`` makes logits of.

        With a ``cache`` the tokens are those that follow what it holds, and it takes them in.
        """
        start = 0 if cache is None else cache.filled
        end = start + tokens.shape[1]
        if end > self.shape.length:
            raise ValueError(
                f"tokens has shape {tuple(tokens.shape)} and follows {start} tokens; the model has "
                f"{self.shape.length} positions (length), so give at most "
                f"{self.shape.length - start} a text"
            )
        width, dtype = self.shape.width // self.shape.heads, self.head.weight.dtype
        turn = _turns(self.shape.length, width, tokens.device, dtype)[start:end]
        x = self.embedding(tokens)
        for index, block in enumerate(self.blocks):
            x = block(x, turn, cache, index)
        if cache is not None:
            cache.filled = end
        return self.norm(x)

    def cache(self, batch, length=None):
        """An empty Cache for ``batch`` texts of ``length`` tokens, by default the model's."""
        return Cache(self.shape, batch, length or self.shape.length, self.head.weight)


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.heads = shape.heads
        self.attention_norm = nn.RMSNorm(shape.width, eps=1e-6)
        self.query_key_value = _linear(shape.width, 3 * shape.width)
        self.mixed = _linear(shape.width, shape.width)
        self.feed_forward_norm = nn.RMSNorm(shape.width, eps=1e-6)
        self.gate_and_up = _linear(shape.width, 2 * shape.feed_forward)
        self.down = _linear(shape.feed_forward, shape.width)

    def forward(self, x, turn, cache, index):
        x = x + self.attention(self.attention_norm(x), turn, cache, index)
        gate, up = self.gate_and_up(self.feed_forward_norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)

    def attention(self, x, turn, cache, index):
        batch, length, width = x.shape
        parts = self.query_key_value(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (B, heads, L, width / heads)
        query, key = rotate(query, turn), rotate(key, turn)
        if cache is None or cache.filled == 0:
            if cache is not None:
                cache.store(index, key, value)
            out = _attend(query, key, value, is_causal=True)
        else:
            key, value = cache.store(index, key, value)
            out = _attend(
                query,
                key,
                value,
                attn_mask=None if length == 1 else _seen(cache.filled, length, x.device),
            )
        return self.mixed(out.transpose(1, 2).reshape(batch, length, width))


class Cache:
    """Keys and values of the ``filled`` tokens read so far, in memory that is taken once."""

    def __init__(self, shape, batch, length, like):
        kind, dtype = like.device.type, like.dtype
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        sizes = shape.layers, 2, batch, shape.heads, length, shape.width // shape.heads
        self.stored = torch.empty(sizes, dtype=dtype, device=like.device)
        self.filled = 0

    def store(self, layer, key, value):
        """Put in one layer's keys and values (B, heads, L, D); all up to them come back."""
        end = self.filled + key.shape[2]
        if end > self.stored.shape[4]:
            raise ValueError(
                f"tokens reach position {end} and the cache was made for length "
                f"{self.stored.shape[4]}; make a longer one"
            )
        self.stored[layer, 0, :, :, self.filled : end] = key
        self.stored[layer, 1, :, :, self.filled : end] = value
        return self.stored[layer, :, :, :, :end]


def rotate(x, turn):
    """Turn each pair (2 i, 2 i + 1) of ``x`` (..., L, D) by its position's angle.

    ``turn`` (L, D/2) holds exp(i angle).
    """
    pairs = torch.view_as_complex(x.to(turn.real.dtype).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


@functools.cache
def _turns(length, width, device, dtype):
    """exp(i angle) (length, width/2), the angle position * TURN_BASE**(-2 i / width)."""
    dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
    with torch.inference_mode(False):  # it is kept, and training may need it later
        frequency = TURN_BASE ** (torch.arange(0, width, 2, dtype=torch.float64) / -width)
        angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
        return torch.polar(torch.ones_like(angle), angle).to(device, dtype)


def _seen(filled, length, device):
    """Which tokens each of ``length`` tokens behind ``filled`` others may look at.

    (length, filled + length) bool.
    """
    positions = torch.arange(filled + length, device=device)
    return positions[filled:, None] >= positions


def _attend(query, key, value, **options):
    if not query.is_cpu or query.shape[2] == 1:
        return F.scaled_dot_product_attention(query, key, value, **options)
    # The CPU's other kernel, with its gradient, takes longer over heads and texts this short.
    if options.get("is_causal") and query.dtype in (torch.float32, torch.float64):
        return _attend_causally(query, key, value)
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(query, key, value, **options)


def _attend_causally(query, key, value):
    """What SDPBackend.MATH computes, to the last bit, in two thirds of its time.

    It looks for rows without a token to attend to, and here there are none.
    """
    scale = query.shape[-1] ** -0.25
    scores = (query * scale) @ (key * scale).transpose(-1, -2)
    scores += _unseen(query.shape[2], query.device)
    return torch.softmax(scores, -1) @ value


@functools.cache
def _unseen(length, device):
    """-inf (length, length) where a later token would be looked at, else 0."""
    with torch.inference_mode(False):
        return torch.full((length, length), -torch.inf, device=device).triu(1)


def _linear(inputs, outputs):
    return nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False)
