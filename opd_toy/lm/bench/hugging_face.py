"""The lab's transformer as transformers' Llama, and the parts of a plain training loop of it.

Llama is the same architecture: RMSNorm, rotary positions, SwiGLU, no biases, a head of its
own.  It turns coordinate i of a head together with i + D/2, where the lab turns 2 i together
with 2 i + 1, so the rows of the query's and the key's weights are put in another order.
transformers: Hugging Face, Apache 2.0.
"""

import os

import torch

from opd_toy.lm.bench.cases import textbook
from opd_toy.lm.transformer import TURN_BASE

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
from transformers import LlamaConfig, LlamaForCausalLM


def llama(model):
    """A LlamaForCausalLM with the weights of ``model``, a Transformer."""
    shape = model.shape
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.length,
        rms_norm_eps=model.norm.eps,
        rope_parameters={"rope_type": "default", "rope_theta": TURN_BASE},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,  # its embedding would not be trained, where a text has drawn it
    )
    made = LlamaForCausalLM(config)
    made.load_state_dict(weights(model))
    return made


def weights(model):
    """The weights of a Transformer under the names that they have in Llama."""
    heads, width = model.shape.heads, model.shape.width
    in_halves = lambda w: w.view(heads, -1, 2, width).transpose(1, 2).reshape(width, width)
    found = {
        "model.embed_tokens.weight": model.embedding.weight,
        "model.norm.weight": model.norm.weight,
        "lm_head.weight": model.head.weight,
    }
    for index, block in enumerate(model.blocks):
        query, key, value = block.query_key_value.weight.chunk(3)
        gate, up = block.gate_and_up.weight.chunk(2)
        parts = {
            "input_layernorm": block.attention_norm.weight,
            "self_attn.q_proj": in_halves(query),
            "self_attn.k_proj": in_halves(key),
            "self_attn.v_proj": value,
            "self_attn.o_proj": block.mixed.weight,
            "post_attention_layernorm": block.feed_forward_norm.weight,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": block.down.weight,
        }
        found |= {f"model.layers.{index}.{name}.weight": part for name, part in parts.items()}
    return {name: weight.detach() for name, weight in found.items()}


def write(model, prompts, task, seed=0, **options):
    """Texts (B, P + T) by ``generate``, drawn at temperature 1 unless the options say else."""
    torch.manual_seed(seed)
    settings = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    settings |= {"max_new_tokens": task.length}
    settings |= {"eos_token_id": task.end, "pad_token_id": task.pad}
    seen = torch.ones_like(prompts)
    return model.generate(prompts, attention_mask=seen, **settings | options)


def response_logits(model, texts, task):
    """Logits (B, T, V) of the T tokens behind the prompts of ``texts`` (B, P + T)."""
    return model(input_ids=texts[:, :-1], use_cache=False).logits[:, task.prompt_length - 1 :]


def reverse_kl(student_logits, teacher_logits, mask):
    """The textbook's, a mean over the tokens of ``mask`` (B, T)."""
    return (textbook(student_logits, teacher_logits, 1) * mask).sum() / mask.sum()
