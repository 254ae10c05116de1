"""A decoder-only transformer in one file: the model, sampling with a cache, checkpoints.

Pre-norm blocks of RMSNorm (arXiv 1910.07467), rotary positions (arXiv 2104.09864),
``scaled_dot_product_attention`` and SwiGLU (arXiv 2002.05202); the output head is not tied.
Tokens are int64.  Everything random is handed in: weights depend on a seed, texts on
uniform numbers, so that a run is repeated by its counters and keeps no generator's state.
"""

import functools
import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from opd_toy import _validate

FORMAT = "opd_toy.lm.model 1"
TURN_BASE = 1000.0  # of the rotary angles; 10 000 is for texts of thousands of tokens, and here learned slower


@dataclass(frozen=True)
class Shape:
    """Sizes of a transformer: tokens of its vocabulary, width, layers, heads, and positions at most."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    length: int

    def __post_init__(self):
        for field in fields(self):
            object.__setattr__(
                self, field.name, _validate.whole(field.name, getattr(self, field.name), 1)
            )
        if self.width % (2 * self.heads):
            raise ValueError(
                f"heads is {self.heads} and width {self.width}; give heads that divide the width into even parts "
                "(rotary positions turn pairs), so that width is a multiple of 2 * heads"
            )

    @property
    def feed_forward(self):
        """Width within SwiGLU: two thirds of four widths, as many weights as a plain layer of four, in steps of 8."""
        return -(-8 * self.width // 3 // 8) * 8

    @property
    def parameters(self):
        """How many weights a model of this shape has."""
        block = 4 * self.width**2 + 3 * self.width * self.feed_forward + 2 * self.width
        return 2 * self.vocabulary * self.width + self.layers * block + self.width


# --- the model ---------------------------------------------------------------------------


class Transformer(nn.Module):
    """float32; its weights depend on ``shape`` and ``seed`` alone.  Runs under autocast, and in float64 after ``.double()``."""

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
        """Normal, the spread of a matrix 1/2 sqrt(inputs); less where it adds to the stream, so that depth does not make it grow."""
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
                f"tokens has shape {tuple(tokens.shape)} and follows {start} tokens; the model has {self.shape.length} positions (length), so give at most {self.shape.length - start} a text"
            )
        turn = _turns(
            self.shape.length,
            self.shape.width // self.shape.heads,
            tokens.device,
            self.head.weight.dtype,
        )[start:end]
        x = self.embedding(tokens)
        for index, block in enumerate(self.blocks):
            x = block(x, turn, cache, index)
        if cache is not None:
            cache.filled = end
        return self.norm(x)

    def cache(self, batch, length=None):
        """An empty Cache for ``batch`` texts of ``length`` tokens, by default as many as the model has positions."""
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
    """Keys and values of the tokens read so far, ``filled`` of them, in memory taken once and written in place."""

    def __init__(self, shape, batch, length, like):
        device = like.device.type
        dtype = (
            torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else like.dtype
        )
        self.stored = torch.empty(
            shape.layers,
            2,
            batch,
            shape.heads,
            length,
            shape.width // shape.heads,
            dtype=dtype,
            device=like.device,
        )
        self.filled = 0

    def store(self, layer, key, value):
        """Put in one layer's keys and values (B, heads, L, D); all up to them come back."""
        end = self.filled + key.shape[2]
        if end > self.stored.shape[4]:
            raise ValueError(
                f"tokens reach position {end} and the cache was made for length {self.stored.shape[4]}; make a longer one"
            )
        self.stored[layer, 0, :, :, self.filled : end] = key
        self.stored[layer, 1, :, :, self.filled : end] = value
        return self.stored[layer, :, :, :, :end]


def rotate(x, turn):
    """Turn each pair (2 i, 2 i + 1) of ``x`` (..., L, D) by its position's angle: ``turn`` (L, D/2) complex, of modulus 1."""
    pairs = torch.view_as_complex(x.to(turn.real.dtype).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


@functools.cache
def _turns(length, width, device, dtype):
    """exp(i angle) (length, width/2) of the angles position * TURN_BASE**(-2 i / width), made in float64."""
    dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
    with torch.inference_mode(False):  # kept, and so for training as well
        angle = torch.arange(length, dtype=torch.float64)[:, None] * TURN_BASE ** (
            torch.arange(0, width, 2, dtype=torch.float64) / -width
        )
        return torch.polar(torch.ones_like(angle), angle).to(device, dtype)


def _seen(filled, length, device):
    """Which of the tokens each of ``length`` tokens behind ``filled`` others may look at: (length, filled + length) bool."""
    return torch.arange(filled, filled + length, device=device)[:, None] >= torch.arange(
        filled + length, device=device
    )


def _attend(query, key, value, **options):
    if not query.is_cpu or query.shape[2] == 1:
        return F.scaled_dot_product_attention(query, key, value, **options)
    with sdpa_kernel(
        SDPBackend.MATH
    ):  # the CPU's other kernel takes longer, with its gradient, over heads and texts as short as these
        return F.scaled_dot_product_attention(query, key, value, **options)


def _linear(inputs, outputs):
    return nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False)


# --- sampling ----------------------------------------------------------------------------


def uniforms(seed, *counters, shape):
    """float64 numbers in [0, 1) of ``shape``, which depend on ``seed``, the ``counters`` (whole numbers or names) and ``shape`` alone."""
    key = json.dumps(
        [
            each
            if isinstance(each, str)
            else _validate.whole("counters" if i else "seed", each, None)
            for i, each in enumerate((seed, *counters))
        ]
    )
    bits = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little")
    return torch.from_numpy(np.random.Generator(np.random.Philox(key=bits)).random(shape))


@torch.no_grad()
def sample(model, prompts, uniforms, end, pad, temperature=1.0):
    """Texts (B, P + T): ``prompts`` (B, P) and up to T drawn tokens, up to and with ``end``, then ``pad``.

    The token at position t is where the cumulated probabilities, in float64, pass
    uniforms[:, t] (B, T float64, each in [0, 1)).  So a text depends on its own numbers; who
    else is in the batch can change it by rounding only, where a number falls next to a bound.
    Each token is read once.  Stops when all texts have ended.
    """
    _validate.positive("temperature", temperature)
    batch, start = prompts.shape
    if uniforms.ndim != 2 or len(uniforms) != batch or uniforms.dtype != torch.float64:
        raise ValueError(
            f"uniforms has shape {tuple(uniforms.shape)} and dtype {uniforms.dtype}; give one float64 number for each token to draw, shape ({batch}, T)"
        )
    if ((uniforms < 0) | (uniforms >= 1)).any():
        raise ValueError("uniforms holds a number outside [0, 1); give numbers from 0 to below 1")
    length = uniforms.shape[1]
    if start + length - 1 > model.shape.length:
        raise ValueError(
            f"prompts has shape {tuple(prompts.shape)} and uniforms {tuple(uniforms.shape)}; the model reads {model.shape.length} positions (length), and P + T - 1 is {start + length - 1}"
        )
    texts = torch.cat([prompts, prompts.new_full((batch, length), pad)], 1)
    cache, ended, new = (
        model.cache(batch, start + length - 1),
        torch.zeros(batch, dtype=torch.bool, device=prompts.device),
        prompts,
    )
    for t in range(length):
        logits = model.head(model.hidden(new, cache)[:, -1])
        new = torch.where(ended, pad, draw(logits, uniforms[:, t], temperature))[:, None]
        texts[:, start + t] = new[:, 0]
        ended |= new[:, 0] == end
        if ended.all():
            break
    return texts


def draw(logits, uniforms, temperature=1.0):
    """The first token at which the cumulated probabilities of ``logits`` (B, V) exceed ``uniforms`` (B,): (B,) int64."""
    cumulated = torch.softmax(logits.double() / temperature, -1).cumsum(-1)
    # Of the last sum, which rounding puts beside 1: so no number falls behind it, into tokens without probability.
    return torch.searchsorted(cumulated, uniforms[:, None] * cumulated[:, -1:], right=True)[:, 0]


def response_mask(tokens, prompt_length, end):
    """Which of the tokens after the prompt were drawn: (B, T) bool for texts (B, P + T); ``end`` is, padding after it not."""
    is_end = tokens[:, prompt_length:] == end
    return is_end.cumsum(1) - is_end.long() == 0


# --- checkpoints -------------------------------------------------------------------------


def save(path, model, **notes):
    """Write the weights to ``path`` as safetensors, with the shape and ``notes`` (strings) as metadata; whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {
        name: weight.detach().cpu().contiguous() for name, weight in model.state_dict().items()
    }
    content = safetensors.torch.save(
        weights, {"format": FORMAT, "shape": json.dumps(asdict(model.shape)), **notes}
    )
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load(path):
    """The Transformer kept in ``path``, on the CPU.  Raises ValueError where the file is torn or holds something else."""
    metadata = notes(path)
    try:
        shape = Shape(**json.loads(metadata["shape"]))
        model = Transformer(shape)
        weights = safetensors.torch.load_file(path)
        model.to(weights["head.weight"].dtype).load_state_dict(weights)
    except (RuntimeError, TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"path is {str(path)!r}, whose weights do not fit the shape it names ({str(error).splitlines()[0]}); make it again with save"
        ) from None
    return model


def notes(path):
    """The metadata of a file that ``save`` wrote, its notes among them: a dict of strings."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"path is {str(path)!r}, no whole safetensors file ({error}); make it again with save"
        ) from None
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"path is {str(path)!r}, with the format {metadata.get('format')!r} in its metadata; give a file that save wrote, format {FORMAT!r}"
        )
    return metadata
