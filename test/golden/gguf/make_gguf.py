"""Write small GGUF files and what must be read from them.

    python make_gguf.py --text ../text/llama-tiny --out .

* `blocks.gguf` holds one tensor of each element type, `blocks.safetensors` the same numbers as the `gguf` package
  dequantises them.
* For each architecture `NAME/` holds a Hugging Face folder written by transformers and `NAME/gguf/NAME.gguf` with the same
  model: names, metadata and the order of rows as llama.cpp's `convert_hf_to_gguf.py` writes them. Before a pair is kept,
  transformers reads the GGUF file and must find the weights of the folder in it.

The tokenizer in all files is that of `--text`. The files here came from gguf 0.19, transformers 5.23, torch 2.13.
"""

import argparse
import json
import math
import shutil
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForCausalLM

COMMON = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
              intermediate_size=48, max_position_embeddings=16384, rms_norm_eps=1e-5, bos_token_id=None, eos_token_id=319,
              pad_token_id=317)
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
MODELS = {
    "llama": dict(model_type="llama", tie_word_embeddings=False, rope_parameters=LLAMA3),
    "qwen2": dict(model_type="qwen2", tie_word_embeddings=True),
    "qwen3": dict(model_type="qwen3", tie_word_embeddings=True),
    "qwen3moe": dict(model_type="qwen3_moe", tie_word_embeddings=False, num_experts=3, num_experts_per_tok=2,
                     moe_intermediate_size=24, norm_topk_prob=True, mlp_only_layers=[], decoder_sparse_step=1),
}
HF_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
}


def permute(weight, heads):
    """As `LlamaModel.permute` of llama.cpp's converter."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def gguf_tensors(state, config):
    """GGUF names and arrays of a Hugging Face state dict; experts are stacked as [experts, out, in]."""
    tensors = {}
    for name, tensor in state.items():
        array = tensor.float().numpy()
        module, kind = name.rsplit(".", 1)
        if kind == "gate_up_proj":
            layer = module.split(".")[2]
            gate, up = np.split(array, 2, axis=1)
            tensors[f"blk.{layer}.ffn_gate_exps.weight"] = gate
            tensors[f"blk.{layer}.ffn_up_exps.weight"] = up
            continue
        if kind == "down_proj":
            tensors[f"blk.{module.split('.')[2]}.ffn_down_exps.weight"] = array
            continue
        if module in HF_NAMES:
            tensors[f"{HF_NAMES[module]}.{kind}"] = array
            continue
        _, _, layer, part = module.split(".", 3)
        if config.model_type == "llama" and part in ("self_attn.q_proj", "self_attn.k_proj"):
            array = permute(array, config.num_attention_heads if "q_proj" in part else config.num_key_value_heads)
        tensors[f"blk.{layer}.{HF_NAMES[part]}.{kind}"] = array
    return tensors


def frequency_divisors(config):
    """`rope_freqs.weight` as the converter makes it for Llama 3.1."""
    scaling = LLAMA3
    frequencies = 1.0 / scaling["rope_theta"] ** (np.arange(0, config.head_dim, 2) / config.head_dim)
    divisors = []
    for frequency in frequencies:
        wavelength = 2 * math.pi / frequency
        context = scaling["original_max_position_embeddings"]
        if wavelength < context / scaling["high_freq_factor"]:
            divisors.append(1)
        elif wavelength > context / scaling["low_freq_factor"]:
            divisors.append(scaling["factor"])
        else:
            smooth = (context / wavelength - scaling["low_freq_factor"]) / (
                scaling["high_freq_factor"] - scaling["low_freq_factor"])
            divisors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return np.array(divisors, dtype=np.float32)


def add_tokenizer(writer, text, pre):
    tokenizer = json.loads((text / "tokenizer.json").read_text())
    config = json.loads((text / "tokenizer_config.json").read_text())
    vocabulary = {**tokenizer["model"]["vocab"], **{t["content"]: t["id"] for t in tokenizer["added_tokens"]}}
    added = {t["id"]: t["special"] for t in tokenizer["added_tokens"]}
    tokens = [token for token, _ in sorted(vocabulary.items(), key=lambda item: item[1])]
    types = [gguf.TokenType.NORMAL if i not in added else
             gguf.TokenType.CONTROL if added[i] else gguf.TokenType.USER_DEFINED for i in range(len(tokens))]
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(vocabulary[config["eos_token"]])
    if pre == "llama-bpe":
        writer.add_bos_token_id(vocabulary[config["bos_token"]])
        writer.add_add_bos_token(True)
    writer.add_chat_template(config["chat_template"])
    return len(tokens)


def write_gguf(path, architecture, config, tensors, text):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if architecture == "llama":
        writer.add_rope_dimension_count(config.head_dim)
    if architecture == "qwen3moe":
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    add_tokenizer(writer, text, "llama-bpe" if architecture == "llama" else "qwen2")
    if architecture == "llama":
        writer.add_tensor("rope_freqs.weight", frequency_divisors(config))
    for name, array in tensors.items():
        writer.add_tensor(name, array.astype(np.float32 if array.ndim == 1 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_model(out, architecture, settings, text, seed):
    torch.manual_seed(seed)
    config = AutoConfig.for_model(**{**COMMON, **settings, "vocab_size": 320})
    if architecture == "qwen2":
        config.head_dim = config.hidden_size // config.num_attention_heads
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            mean, spread = (0, 0.3) if parameter.ndim > 1 else (1, 0.2)
            parameter.copy_((mean + spread * torch.randn_like(parameter)).half().float())
    folder = out / architecture
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "gguf").mkdir(parents=True)
    model.half().save_pretrained(folder)
    model.float()
    (folder / "generation_config.json").unlink(missing_ok=True)
    state = {name: w for name, w in model.state_dict().items()
             if not (name == "lm_head.weight" and config.tie_word_embeddings)}
    path = folder / "gguf" / f"{architecture}.gguf"
    write_gguf(path, architecture, config, gguf_tensors(state, config), text)
    again = AutoModelForCausalLM.from_pretrained(folder / "gguf", gguf_file=path.name, config=config,
                                                 dtype=torch.float32).state_dict()
    for name, expected in state.items():
        assert torch.equal(again[name], expected), name


def write_blocks(out, seed):
    """Random elements where the package can quantise them, else random blocks with scales of a usual size."""
    random = np.random.default_rng(seed)
    kinds = gguf.GGMLQuantizationType
    writer = gguf.GGUFWriter(out / "blocks.gguf", "llama")
    expected = {}
    for kind in (kinds.F32, kinds.F16, kinds.BF16, kinds.Q4_0, kinds.Q5_0, kinds.Q8_0, kinds.Q4_K, kinds.Q5_K, kinds.Q6_K):
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        rows, columns = 3, 512
        if kind in (kinds.Q4_K, kinds.Q5_K, kinds.Q6_K):
            blocks = random.integers(0, 256, (rows * columns // elements, size), dtype=np.uint8)
            scales = (0.01 * random.standard_normal((len(blocks), 2))).astype(np.float16).view(np.uint8)
            if kind == kinds.Q6_K:
                blocks[:, -2:] = scales[:, :2]
            else:
                blocks[:, :4] = scales
            data = blocks.reshape(rows, -1)
        else:
            data = gguf.quants.quantize(random.standard_normal((rows, columns)).astype(np.float32), kind)
        expected[kind.name] = gguf.quants.dequantize(data, kind).astype(np.float32).reshape(rows, columns)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(expected, out / "blocks.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    write_blocks(arguments.out, arguments.seed)
    for i, (architecture, settings) in enumerate(MODELS.items()):
        write_model(arguments.out, architecture, settings, arguments.text, arguments.seed + i)


main()
