"""What is done with a transformer: texts are drawn from it, its weights are kept in files.

Everything random is handed in: weights depend on a seed, texts on uniform numbers, so that a
run is repeated by its counters and keeps no generator's state.
"""

import contextlib
import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch

from opd_toy import _validate
from opd_toy.lm.transformer import Shape, Transformer

__all__ = [
    "Shape",
    "Transformer",
    "draw",
    "fingerprint",
    "load",
    "mixed",
    "notes",
    "response_logits",
    "response_mask",
    "sample",
    "save",
    "uniforms",
]

FORMAT = "opd_toy.lm.model 1"


# --- texts -------------------------------------------------------------------------------


def uniforms(seed, *counters, shape):
    """float64 numbers in [0, 1) of ``shape``, which depend on the arguments alone.

    counters: whole numbers or names.
    """
    key = [_validate.whole("seed", seed, None)]
    for each in counters:
        key.append(each if isinstance(each, str) else _validate.whole("counters", each, None))
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    bits = int.from_bytes(digest[:16], "little")
    return torch.from_numpy(np.random.Generator(np.random.Philox(key=bits)).random(shape))


@torch.no_grad()
def sample(model, prompts, uniforms, end, pad, temperature=1.0):
    """Texts (B, P + T): ``prompts`` (B, P), up to T drawn tokens to ``end``, then ``pad``.

    The token at position t is where the cumulated probabilities, in float64, pass
    uniforms[:, t] (B, T float64, each in [0, 1)).  So a text depends on its own numbers; who
    else is in the batch can change it by rounding only, where a number falls next to a bound.
    Each token is read once.  Stops when all texts have ended.
    """
    _validate.positive("temperature", temperature)
    batch, start = prompts.shape
    if uniforms.ndim != 2 or len(uniforms) != batch or uniforms.dtype != torch.float64:
        raise ValueError(
            f"uniforms has shape {tuple(uniforms.shape)} and dtype {uniforms.dtype}; give one "
            f"float64 number for each token to draw, shape ({batch}, T)"
        )
    if ((uniforms < 0) | (uniforms >= 1)).any():
        raise ValueError("uniforms holds a number outside [0, 1); give numbers from 0 to below 1")
    length = uniforms.shape[1]
    if start + length - 1 > model.shape.length:
        raise ValueError(
            f"prompts has shape {tuple(prompts.shape)} and uniforms {tuple(uniforms.shape)}; the "
            f"model reads {model.shape.length} positions (length), and P + T - 1 is "
            f"{start + length - 1}"
        )
    texts = torch.cat([prompts, prompts.new_full((batch, length), pad)], 1)
    cache, new = model.cache(batch, start + length - 1), prompts
    ended = torch.zeros(batch, dtype=torch.bool, device=prompts.device)
    for t in range(length):
        logits = model.head(model.hidden(new, cache)[:, -1])
        new = torch.where(ended, pad, draw(logits, uniforms[:, t], temperature))[:, None]
        texts[:, start + t] = new[:, 0]
        ended |= new[:, 0] == end
        if ended.all():
            break
    return texts


def draw(logits, uniforms, temperature=1.0):
    """The first token whose cumulated probability exceeds ``uniforms`` (B,): (B,) int64.

    Probabilities are those of ``logits`` (B, V).
    """
    cumulated = torch.softmax(logits.double() / temperature, -1).cumsum(-1)
    # Rounding puts the last sum beside 1.  Uniforms are taken as shares of it, so that none
    # falls behind it, on a token without probability.
    return torch.searchsorted(cumulated, uniforms[:, None] * cumulated[:, -1:], right=True)[:, 0]


def response_mask(tokens, prompt_length, end):
    """Which tokens after the prompt were drawn: (B, T) bool for texts (B, P + T).

    ``end`` was, the padding after it was not.
    """
    is_end = tokens[:, prompt_length:] == end
    return is_end.cumsum(1) - is_end.long() == 0


def response_logits(model, texts, task):
    """Logits (B, T, V) of the T tokens behind the prompts of ``texts`` (B, P + T)."""
    return model.head(model.hidden(texts[:, :-1])[:, task.prompt_length - 1 :])


def mixed(device, autocast):
    """The context in which models compute: autocast to the dtype of this name, or none."""
    if not autocast:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, autocast))


# --- weights in files -------------------------------------------------------------------------


def save(path, model, **notes):
    """Write the weights to ``path`` as safetensors, whole or not at all.

    The shape and ``notes`` (strings) are its metadata.
    """
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
    """The Transformer kept in ``path``, on the CPU.

    Raises ValueError where the file is torn or holds something else.
    """
    metadata = notes(path)
    try:
        shape = Shape(**json.loads(metadata["shape"]))
        model = Transformer(shape)
        weights = safetensors.torch.load_file(path)
        model.to(weights["head.weight"].dtype).load_state_dict(weights)
    except (RuntimeError, TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"path is {str(path)!r}, whose weights do not fit the shape it names "
            f"({str(error).splitlines()[0]}); make it again with save"
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
            f"path is {str(path)!r}, with the format {metadata.get('format')!r} in its metadata; "
            f"give a file that save wrote, format {FORMAT!r}"
        )
    return metadata


def fingerprint(model):
    """SHA-256 of a model's weights, the same on every device."""
    digest = hashlib.sha256()
    for name, weights in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(weights.shape)} {weights.dtype}".encode())
        digest.update(weights.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
