"""Tiny random models of many families, those whose attention is unlike the others' included."""

from __future__ import annotations

from typing import Any

import torch
import transformers

VOCABULARY = 60
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
COMMON = SPECIAL | {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
GROUPED = COMMON | {"intermediate_size": 24, "num_key_value_heads": 1}
MIXED = GROUPED | {"head_dim": 8, "sliding_window": 12}
EXPERTS = GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}
BLOCKS = SPECIAL | {"vocab_size": VOCABULARY, "n_positions": 256, "n_embd": 16, "n_layer": 2, "n_head": 2}
MAMBA = SPECIAL | {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", BLOCKS),
    "gptj": ("GPTJConfig", BLOCKS | {"rotary_dim": 4}),
    "codegen": ("CodeGenConfig", BLOCKS | {"rotary_dim": 4, "n_head": 4}),
    "gpt_bigcode": ("GPTBigCodeConfig", BLOCKS),
    "gpt_neox": ("GPTNeoXConfig", COMMON | {"intermediate_size": 24}),
    "opt": ("OPTConfig", COMMON | {"ffn_dim": 24, "word_embed_proj_dim": 16, "max_position_embeddings": 256}),
    "biogpt": ("BioGptConfig", COMMON | {"intermediate_size": 24, "max_position_embeddings": 256}),
    "xglm": (
        "XGLMConfig",
        SPECIAL | {"vocab_size": VOCABULARY, "d_model": 16, "ffn_dim": 24, "num_layers": 2, "attention_heads": 2},
    ),
    "llama": ("LlamaConfig", GROUPED),
    "mistral": ("MistralConfig", MIXED),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen3": ("Qwen3Config", GROUPED | {"head_dim": 8}),
    "phi": ("PhiConfig", GROUPED),
    "phi3": ("Phi3Config", GROUPED),
    "stablelm": ("StableLmConfig", GROUPED),
    "olmo2": ("Olmo2Config", GROUPED),
    "smollm3": ("SmolLM3Config", GROUPED),
    "granite": ("GraniteConfig", GROUPED | {"logits_scaling": 2.0}),
    "cohere": ("CohereConfig", GROUPED),
    "starcoder2": ("Starcoder2Config", GROUPED),
    "falcon": ("FalconConfig", COMMON),
    "gemma": ("GemmaConfig", GROUPED | {"head_dim": 8}),
    "gemma2": ("Gemma2Config", MIXED | {"query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3TextConfig", MIXED),
    "mixtral": ("MixtralConfig", EXPERTS),
    "gpt_oss": ("GptOssConfig", EXPERTS | {"head_dim": 8, "sliding_window": 12}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        GROUPED | {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12},
    ),
    # Positions by column, local and chunked attention, states:
    "bloom": ("BloomConfig", SPECIAL | {"vocab_size": VOCABULARY, "hidden_size": 16, "n_layer": 2, "n_head": 2}),
    "mpt": ("MptConfig", SPECIAL | {"vocab_size": VOCABULARY, "d_model": 16, "n_layers": 2, "n_heads": 2}),
    "gpt_neo": (
        "GPTNeoConfig",
        SPECIAL
        | {"vocab_size": VOCABULARY, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "window_size": 12}
        | {"attention_types": [[["global", "local"], 1]], "max_position_embeddings": 256},
    ),
    "llama4": (
        "Llama4TextConfig",
        EXPERTS
        | {"intermediate_size_mlp": 24, "head_dim": 8, "attention_chunk_size": 12, "num_experts_per_tok": 1}
        | {"layer_types": ["chunked_attention", "full_attention"], "no_rope_layers": [1, 0]},
    ),
    "rwkv": (
        "RwkvConfig",
        SPECIAL | {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "context_length": 256},
    ),
    "mamba": ("MambaConfig", MAMBA),
    "mamba2": ("Mamba2Config", MAMBA | {"num_heads": 4, "head_dim": 8, "n_groups": 1, "chunk_size": 16}),
    "falcon_mamba": ("FalconMambaConfig", MAMBA),
    "recurrent_gemma": (
        "RecurrentGemmaConfig",
        GROUPED | {"head_dim": 8, "lru_width": 16, "attention_window_size": 12, "num_hidden_layers": 3},
    ),
}


def tiny_model(family: str, seed: int = 0, **changes: Any) -> Any:
    """A model of `family` with a vocabulary of 60, width 16 and random weights, in evaluation mode."""
    name, keys = FAMILIES[family]
    config = getattr(transformers, name)(**keys | changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():  # larger than at birth, so that what a token sees changes what it predicts
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model
