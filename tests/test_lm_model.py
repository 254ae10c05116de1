"""The lab's transformer against one written out in einsum; its cache, sampling and files."""

import hashlib
import math

import numpy as np
import pytest
import safetensors.torch
import torch

from opd_toy.lm import model as module
from opd_toy.lm import transformer as transformer_module
from opd_toy.lm.model import (
    Shape,
    Transformer,
    draw,
    load,
    notes,
    response_mask,
    sample,
    save,
    uniforms,
)
from opd_toy.lm.transformer import _attend, rotate

SHAPE = Shape(vocabulary=11, width=16, layers=2, heads=2, length=12)
END, PAD = 9, 10
CLOSE = dict(rtol=0, atol=1e-13)  # float64 logits of size 1


def transformer(seed=1, **sizes):
    return Transformer(Shape(**{**vars(SHAPE), **sizes}), seed).double()


def tokens(*shape, seed=0, below=9):
    return (uniforms(seed, "tokens", shape=shape) * below).long()


# --- the forward pass --------------------------------------------------------------------


def reference(model, read):
    """Logits (B, L, V) by the definitions, one head and one pair of coordinates at a time."""
    norm = lambda x, module: x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * module.weight
    shape, x = model.shape, model.embedding.weight[read]
    length, width = read.shape[1], shape.width // shape.heads
    position = torch.arange(length, dtype=torch.float64)
    for block in model.blocks:
        y = norm(x, block.attention_norm) @ block.query_key_value.weight.T
        mixed = []
        for head in range(shape.heads):
            query, key, value = (
                y[..., part * shape.width + head * width :][..., :width] for part in range(3)
            )
            score = torch.zeros(len(read), length, length, dtype=torch.float64)
            for i in range(width // 2):  # a pair as one complex number, turned by its position
                angle = torch.exp(1j * position * transformer_module.TURN_BASE ** (-2 * i / width))
                turned = [(z[..., 2 * i] + 1j * z[..., 2 * i + 1]) * angle for z in (query, key)]
                score += torch.einsum("bs,bt->bst", turned[0], turned[1].conj()).real / math.sqrt(
                    width
                )
            score = score.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
            mixed.append(score.softmax(-1) @ value)
        x = x + torch.cat(mixed, -1) @ block.mixed.weight.T
        gate, up = (norm(x, block.feed_forward_norm) @ block.gate_and_up.weight.T).split(
            shape.feed_forward, -1
        )
        x = x + (gate / (1 + (-gate).exp()) * up) @ block.down.weight.T
    return norm(x, model.norm) @ model.head.weight.T


@pytest.mark.parametrize("heads, layers", [(1, 1), (2, 2), (4, 3)])
def test_logits_are_those_of_the_definitions(heads, layers):
    model, read = transformer(heads=heads, layers=layers), tokens(3, 12)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # weights of norms, which start at 1
                parameter.copy_(0.5 + uniforms(2, shape=parameter.shape))
        torch.testing.assert_close(model(read), reference(model, read), **CLOSE)
        torch.testing.assert_close(model.head(model.hidden(read)), model(read), **CLOSE)


def test_a_later_token_does_not_change_what_came_before():
    model, read = transformer().float(), tokens(2, 12)
    for place in range(1, 12):
        changed = read.clone()
        changed[:, place] = (read[:, place] + 1) % 9
        assert model(changed)[:, :place].equal(model(read)[:, :place])
        assert not model(changed)[:, place].equal(model(read)[:, place])


def test_scores_of_attention_depend_on_the_distance_alone():
    query, key = uniforms(3, shape=(2, 1, 8)) - 0.5
    turns = transformer_module._turns(64, 8, torch.device("cpu"), torch.float64)
    at = lambda x, position: rotate(x, turns[position : position + 1])
    scores = {
        distance: [
            (at(query, start + distance) * at(key, start)).sum().item() for start in (0, 1, 17, 40)
        ]
        for distance in range(5)
    }
    for score in scores.values():
        assert score == pytest.approx([score[0]] * 4, abs=1e-14)
    assert len({round(score[0], 6) for score in scores.values()}) == 5
    assert at(query, 0).equal(query)
    assert at(query, 23).norm().item() == pytest.approx(query.norm().item(), abs=1e-14)


def test_attention_and_its_gradient_are_torch_s():
    """Over a whole text, which is written out where torch's kernels take longer."""
    drawn = torch.randn(3, 2, 4, 7, 6, generator=torch.Generator().manual_seed(3))
    for dtype, close in ((torch.float64, CLOSE), (torch.float32, dict(rtol=0, atol=1e-5))):
        found = []
        for attend in (torch.nn.functional.scaled_dot_product_attention, _attend):
            parts = drawn.to(dtype).requires_grad_()
            out = attend(*parts, is_causal=True)
            out.square().sum().backward()
            found.append([out.detach(), parts.grad])
        for theirs, ours in zip(*found):
            torch.testing.assert_close(ours, theirs, **close)


def test_gradients_reach_every_weight():
    model = transformer()
    transformer_module.F.cross_entropy(
        model(tokens(4, 12)).flatten(0, 1), tokens(4, 12, seed=1).flatten()
    ).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.norm() > 0, name


def test_weights_depend_on_shape_and_seed_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = Transformer(SHAPE, 5)
    assert torch.get_rng_state().equal(state), "the global generator is left alone"
    torch.manual_seed(2)
    again, other = Transformer(SHAPE, 5), Transformer(SHAPE, 6)
    assert all(a.equal(b) for a, b in zip(first.parameters(), again.parameters()))
    assert all(not a.equal(b) for a, b in zip(first.parameters(), other.parameters()) if a.ndim > 1)
    assert {parameter.dtype for parameter in first.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "sizes", [{}, dict(width=48, heads=3, layers=1), dict(vocabulary=300, width=8, heads=1)]
)
def test_weights_are_counted(sizes):
    model = transformer(**sizes)
    assert model.shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert [Shape(2, width, 1, 1, 1).feed_forward for width in (8, 16, 48, 64, 96)] == [
        24,
        48,
        128,
        176,
        256,
    ]


def test_autocast_computes_in_bfloat16():
    model, read = transformer().float(), tokens(3, 12)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        half, cache = model(read), model.cache(3)
        parts = torch.cat([model(read[:, :5], cache), model(read[:, 5:], cache)], 1)
    assert half.dtype == cache.stored.dtype == torch.bfloat16
    assert (half - model(read)).abs().max() < 0.05 and (parts - model(read)).abs().max() < 0.05


# --- the cache ---------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [[1] * 12, [5, 1, 2, 1, 3], [3, 3, 3, 3], [12]])
def test_reading_in_parts_gives_the_logits_of_reading_at_once(parts):
    model, read = transformer(), tokens(4, 12)
    cache = model.cache(4)
    with torch.no_grad():
        logits = torch.cat([model(part, cache) for part in read.split(parts, 1)], 1)
        torch.testing.assert_close(logits, model(read), **CLOSE)
    assert cache.filled == 12


def test_memory_of_the_cache_is_taken_once():
    model = transformer()
    cache = model.cache(2, 8)
    place = cache.stored.data_ptr()
    with torch.no_grad():
        for part in tokens(2, 8).split(1, 1):
            model(part, cache)
        assert cache.stored.data_ptr() == place and cache.stored.shape == (2, 2, 2, 2, 8, 8)
        with pytest.raises(
            ValueError, match="tokens reach position 9 and the cache was made for length 8"
        ):
            model(tokens(2, 1), cache)


# --- sampling ----------------------------------------------------------------------------


def test_each_token_is_the_one_that_the_full_forward_pass_gives():
    model, prompts, numbers = transformer(), tokens(40, 4), uniforms(7, shape=(40, 9))
    texts = sample(model, prompts, numbers, END, PAD, temperature=1.3)
    with torch.no_grad():
        logits = model(texts[:, :-1])[:, 3:]
    due = torch.stack([draw(logits[:, t], numbers[:, t], 1.3) for t in range(9)], 1)
    mask = response_mask(texts, 4, END)
    assert texts[:, :4].equal(prompts)
    assert texts[:, 4:].equal(due.where(mask, PAD))
    lengths = set(mask.sum(1).tolist())
    assert len(lengths) > 3 and 9 in lengths, "texts of several lengths, one of them cut"


def test_a_text_does_not_depend_on_who_else_is_in_the_batch():
    model, prompts, numbers = transformer(), tokens(16, 4), uniforms(7, shape=(16, 9))
    together = sample(model, prompts, numbers, END, PAD)
    for row in range(16):
        assert sample(model, prompts[row : row + 1], numbers[row : row + 1], END, PAD).equal(
            together[row : row + 1]
        )
    assert sample(model, prompts.flip(0), numbers.flip(0), END, PAD).flip(0).equal(together)


def test_every_token_is_read_once_and_sampling_stops_when_all_have_ended(monkeypatch):
    model, read = transformer(), []
    hidden = Transformer.hidden
    monkeypatch.setattr(
        Transformer,
        "hidden",
        lambda self, new, cache=None: read.append(new) or hidden(self, new, cache),
    )
    prompts, numbers = tokens(2, 4), uniforms(0, shape=(2, 9))
    texts = sample(model, prompts, numbers, END, PAD)
    longest = int(response_mask(texts, 4, END).sum(1).max())
    assert 1 < longest < 9 and torch.cat(read, 1).equal(texts[:, : 4 + longest - 1])
    assert sample(model, prompts, numbers[:, :0], END, PAD).equal(prompts)


def test_drawn_tokens_have_the_probabilities_of_the_softmax():
    """Numbers on a grid fall into each token's share as often as it is wide, to one at each end."""
    logits, many = torch.tensor([[0.3, -1.0, 2.0, -torch.inf, 0.0, -torch.inf]]), 100_003
    grid = (torch.arange(many, dtype=torch.float64) + 0.5) / many
    for temperature in (0.5, 1.0, 3.0):
        counts = draw(logits.expand(many, -1), grid, temperature).bincount(minlength=6)
        assert (counts - many * torch.softmax(logits[0].double() / temperature, 0)).abs().max() <= 1
        assert counts[3] == counts[5] == 0


def test_shares_of_a_large_vocabulary_are_told_apart():
    vocabulary = 200_000  # in float32 the bounds of a share are rounded by a hundredth of it
    token = torch.arange(0, vocabulary, vocabulary // 10) + 7
    assert draw(torch.zeros(10, vocabulary), (token.double() + 1e-4) / vocabulary).equal(token)


def test_no_number_draws_a_token_without_probability():
    largest = 1 - 2**-53
    logits = (8 * uniforms(1, shape=(2000, 7)) - 4).float()
    logits[:, [0, 6]] = -torch.inf
    for number in (0.0, 5e-324, largest):
        drawn = draw(logits, torch.full((2000,), number, dtype=torch.float64))
        assert drawn.eq(1 if number < 0.5 else 5).all()


def test_response_mask_has_the_end_and_nothing_after_it():
    texts = torch.tensor(
        [
            [1, 9, 2, 3, 9, 10, 10],
            [1, 9, 9, 10, 10, 10, 10],
            [1, 9, 2, 10, 2, 2, 2],
            [1, 9, 9, 2, 9, 2, 9],
        ]
    )
    assert response_mask(texts, 2, 9).long().tolist() == [
        [1, 1, 1, 0, 0],
        [1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1],
        [1, 0, 0, 0, 0],
    ]


def test_uniform_numbers_are_keyed_by_all_that_is_named():
    first = uniforms(1, "texts", 2, shape=(3, 4))
    assert (
        first.dtype == torch.float64
        and first.shape == (3, 4)
        and ((first >= 0) & (first < 1)).all()
    )
    assert uniforms(np.int64(1), "texts", 2, shape=(3, 4)).equal(first)
    others = [
        uniforms(*key, shape=(3, 4))
        for key in (
            (2, "texts", 2),
            (1, "texts", 3),
            (1, "text", 2),
            (1, "texts", "2"),
            (1, "texts"),
            (1, "texts", 2, 0),
            (1, 2, "texts"),
        )
    ]
    assert len({tuple(numbers.flatten().tolist()) for numbers in (first, *others)}) == 8
    # Fixed, so that a run is taken up, and a record made again, by other versions of libraries.
    assert uniforms(1, "texts", 2, shape=(2,)).tolist() == [0.43851221349923797, 0.7224255135497838]
    with pytest.raises(ValueError, match="counters is 0.5; give a whole number"):
        uniforms(1, 0.5, shape=(2,))


# --- files -------------------------------------------------------------------------------


@pytest.mark.parametrize("double", [False, True])
def test_a_saved_model_comes_back_as_it_was(tmp_path, double):
    model = transformer() if double else transformer().float()
    save(tmp_path / "new" / "a.safetensors", model, made_by="a test")
    again = load(tmp_path / "new" / "a.safetensors")
    assert again.shape == SHAPE and again.head.weight.dtype == model.head.weight.dtype
    assert again(tokens(2, 12)).equal(model(tokens(2, 12)))
    assert notes(tmp_path / "new" / "a.safetensors")["made_by"] == "a test"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.safetensors"], (
        "nothing else is left"
    )
    model.head.weight.data = model.head.weight.data.T.contiguous().T  # row after row no more
    save(tmp_path / "b", model)
    assert load(tmp_path / "b").head.weight.equal(model.head.weight)


def test_a_write_that_fails_leaves_the_file_before(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save(path, transformer(1))
    with open(path, "rb") as reading:
        before = path.read_bytes()
        save(path, transformer(2))
        assert reading.read() == before, "who reads the old file reads it to its end"
    save(path, transformer(1))

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(path, transformer(2))
    assert load(path)(tokens(2, 12)).equal(transformer(1)(tokens(2, 12)))
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_hold_no_model_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(FileNotFoundError):
        load(path)
    save(path, transformer())
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(
            ValueError, match="no whole safetensors file .*; make it again with save"
        ):
            load(path)
    path.write_text("some other file")
    with pytest.raises(ValueError, match="no whole safetensors file"):
        load(path)
    for metadata in (None, {"format": "pt"}):
        safetensors.torch.save_file({"a": torch.zeros(2)}, path, metadata)
        with pytest.raises(
            ValueError,
            match=f"with the format {metadata and 'pt'!r} in its metadata; give a file that save",
        ):
            load(path)


@pytest.mark.parametrize(
    "shape, weights",
    [
        ('{"vocabulary": 12, "width": 16, "layers": 2, "heads": 2, "length": 12}', None),
        ('{"vocabulary": 11, "width": 16, "layers": 3, "heads": 2, "length": 12}', None),
        ('{"vocabulary": 11}', None),
        ("not JSON", None),
        ('{"vocabulary": 11, "width": 16, "layers": 2, "heads": 2, "length": 12}', {}),
    ],
)
def test_weights_that_do_not_fit_the_shape_are_refused(tmp_path, shape, weights):
    weights = transformer().state_dict() if weights is None else weights
    safetensors.torch.save_file(weights, tmp_path / "a", {"format": module.FORMAT, "shape": shape})
    with pytest.raises(
        ValueError, match="path is '.*', whose weights do not fit the shape it names"
    ):
        load(tmp_path / "a")


def test_a_fingerprint_is_of_names_shapes_and_weights():
    model, digest = transformer(), hashlib.sha256()
    for name in sorted(model.state_dict()):
        weight = model.state_dict()[name].numpy()
        digest.update(f"{name} {weight.shape} torch.float64".encode() + weight.tobytes())
    assert module.fingerprint(model) == digest.hexdigest()


# --- errors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes, message",
    [
        (dict(vocabulary=0), "vocabulary is 0; give a whole number \\(an int\\) of at least 1"),
        (dict(layers=1.0), "layers is 1.0; give a whole number"),
        (dict(length=True), "length is True; give a whole number"),
        (
            dict(heads=3),
            "heads is 3 and width 16; give heads that divide the width into even parts",
        ),
        (dict(heads=16), "heads is 16 and width 16"),
    ],
)
def test_sizes_that_make_no_transformer_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        Shape(**{**vars(SHAPE), **sizes})


def test_too_long_a_text_is_refused():
    model = transformer()
    with pytest.raises(
        ValueError,
        match="tokens has shape \\(2, 13\\) and follows 0 tokens; "
        "the model has 12 positions \\(length\\), so give at most 12",
    ):
        model(tokens(2, 13))
    cache = model.cache(2, 20)
    model(tokens(2, 8), cache)
    with pytest.raises(ValueError, match="follows 8 tokens; .* give at most 4"):
        model(tokens(2, 5), cache)
    assert sample(model, tokens(2, 4), uniforms(0, shape=(2, 9)), END, PAD).shape == (2, 13)
    with pytest.raises(
        ValueError, match="the model reads 12 positions \\(length\\), and P \\+ T - 1 is 13"
    ):
        sample(model, tokens(2, 4), uniforms(0, shape=(2, 10)), END, PAD)


@pytest.mark.parametrize(
    "numbers, temperature, message",
    [
        (
            torch.zeros(2, 3),
            1.0,
            "dtype torch.float32; give one float64 number for each token to draw, shape \\(2, T\\)",
        ),
        (torch.zeros(3, 3).double(), 1.0, "uniforms has shape \\(3, 3\\)"),
        (torch.ones(2, 3).double(), 1.0, "uniforms holds a number outside \\[0, 1\\)"),
        (-torch.ones(2, 3).double(), 1.0, "uniforms holds a number outside"),
        (torch.zeros(2, 3).double(), 0.0, "temperature is 0.0; give a number above 0"),
    ],
)
def test_sampling_refuses_what_it_cannot_use(numbers, temperature, message):
    with pytest.raises(ValueError, match=message):
        sample(transformer(), tokens(2, 4), numbers, END, PAD, temperature)
