"""Write a tiny Qwen3-MoE checkpoint and the numbers an implementation must reproduce.

    python make_moe.py --out qwen3-moe-tiny

The checkpoint is written by transformers (bfloat16, several shards), read back in float64, and everything else is computed
from it by transformers and torch: logits, logprobs, greedy decoding, two losses with their gradients, AdamW. The files here
came from transformers 5.23 and torch 2.13 on CPU.

Layer 1 is dense (`mlp_only_layers`), the others route each token to 2 of 6 experts. A seed is passed over where rounding
could decide something: a token's choice between two experts, the next greedy token, or the sign of a gradient, which is what
AdamW's first step follows.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

GREEDY_TOKENS = 16
MIN_GREEDY_MARGIN = 0.02
MIN_ROUTER_MARGIN = 5e-5
MIN_GRADIENT = 4e-7  # smallest gradient that is not exactly zero
ADAMW = {"lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1}
CONFIG = Qwen3MoeConfig(
    vocab_size=72,
    hidden_size=32,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    max_position_embeddings=512,
    num_experts=6,
    num_experts_per_tok=2,
    moe_intermediate_size=16,
    norm_topk_prob=True,
    decoder_sparse_step=1,
    mlp_only_layers=[1],
    tie_word_embeddings=False,
    bos_token_id=None,
    eos_token_id=70,
    attn_implementation="eager",
)


def write_checkpoint(folder, seed):
    torch.manual_seed(seed)
    model = Qwen3MoeForCausalLM(CONFIG)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.7, 1.4)
            elif name.endswith("mlp.gate.weight"):
                parameter.normal_(std=0.4)
            else:
                gain = 4 if name == "lm_head.weight" else 1.2
                parameter.normal_(std=gain / math.sqrt(parameter.shape[-1]))
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="60KB")


def by_checkpoint_name(named):
    """One tensor per expert and projection, as checkpoints have it; transformers keeps them stacked."""
    tensors = {}
    for name, tensor in named:
        if name.endswith("experts.gate_up_proj"):
            base = name.removesuffix("gate_up_proj")
            for expert, rows in enumerate(tensor):
                gate, up = rows.chunk(2)
                tensors[f"{base}{expert}.gate_proj.weight"] = gate
                tensors[f"{base}{expert}.up_proj.weight"] = up
        elif name.endswith("experts.down_proj"):
            for expert, rows in enumerate(tensor):
                tensors[f"{name.removesuffix('down_proj')}{expert}.down_proj.weight"] = rows
        else:
            tensors[name] = tensor
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


class Margins:
    """Smallest gap, over all routed tokens, between the last expert chosen and the first one not chosen."""

    def __init__(self, model):
        self.smallest = math.inf
        for name, module in model.named_modules():
            if name.endswith("mlp.gate"):
                module.register_forward_hook(self.see)

    def see(self, module, inputs, outputs):
        logits = torch.nn.functional.linear(inputs[0].reshape(-1, CONFIG.hidden_size), module.weight)
        best = logits.softmax(-1).topk(CONFIG.num_experts_per_tok + 1).values
        self.smallest = min(self.smallest, (best[:, -2] - best[:, -1]).min().item())


def logits_of(model, ids):
    return model(torch.tensor([ids])).logits[0]


def logprobs_of(model, ids):
    labels = torch.tensor(ids[1:])
    return logits_of(model, ids)[:-1].log_softmax(-1).gather(1, labels[:, None])[:, 0]


def greedy(model, ids):
    ids, chosen, logprobs, margin = list(ids), [], [], math.inf
    for _ in range(GREEDY_TOKENS):
        logits = logits_of(model, ids)[-1]
        best = logits.topk(2).values
        margin = min(margin, (best[0] - best[1]).item())
        token = logits.argmax().item()
        chosen.append(token)
        logprobs.append(logits.log_softmax(-1)[token].item())
        ids.append(token)
    return {"greedy": chosen, "greedy_logprobs": logprobs, "greedy_margin": margin}


def make_prompts(model, seed):
    generator = torch.Generator().manual_seed(seed)
    prompts = []
    for length in (9, 31, 22):
        ids = torch.randint(0, CONFIG.vocab_size, (length,), generator=generator).tolist()
        mask = (torch.rand(length - 1, generator=generator) < 0.8).int().tolist()
        weights = (0.02 * torch.randn(length - 1, generator=generator)).tolist()
        prompts.append({"ids": ids, "loss_mask": mask, "pg_weights": [round(w, 6) for w in weights]})
    for prompt in prompts:
        prompt["logprobs"] = logprobs_of(model, prompt["ids"]).tolist()
        prompt.update(greedy(model, prompt["ids"]))
    return prompts


def loss_and_gradients(model, prompts, key, divisor):
    model.zero_grad()
    loss = 0
    for prompt in prompts:
        weights = torch.tensor(prompt[key], dtype=torch.float64)
        loss = loss - (weights * logprobs_of(model, prompt["ids"])).sum() / divisor
    loss.backward()
    zeros = {name: parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
             for name, parameter in model.named_parameters()}
    gradients = by_checkpoint_name(zeros.items())
    norm = math.sqrt(sum(g.pow(2).sum().item() for g in gradients.values()))
    return {"loss": loss.item(), "grad_norm": norm}, {name: g.float() for name, g in gradients.items()}


def adamw_steps(weights, gradients_per_step):
    parameters = {name: torch.nn.Parameter(w.float()) for name, w in weights.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=ADAMW["lr"], betas=tuple(ADAMW["betas"]), eps=ADAMW["eps"],
                                  weight_decay=ADAMW["weight_decay"])
    steps = []
    for file, gradients in gradients_per_step:
        for name, parameter in parameters.items():
            parameter.grad = gradients[name].clone()
        optimizer.step()
        state = {name: parameter.detach().double().flatten() for name, parameter in parameters.items()}
        index = {name: torch.arange(1, w.numel() + 1, dtype=torch.float64) for name, w in state.items()}
        kinds = {}
        for name in state:
            kinds.setdefault(".".join(part for part in name.split(".") if not part.isdigit()), name)
        steps.append({
            "gradients": file,
            "values": {name: {"first": state[name][:6].tolist(), "last": state[name][-6:].tolist()}
                       for name in kinds.values()},
            "checksums": {name: {"sum": w.sum().item(), "l2": w.norm().item(),
                                 "dot_sin": (w * index[name].sin()).sum().item()} for name, w in state.items()},
        })
    return steps


def write_goldens(folder, seed):
    """Returns what is too close to call, or None once the files are written."""
    write_checkpoint(folder, seed)
    weights = {}
    for shard in sorted(folder.glob("model*.safetensors")):
        weights.update(load_file(shard))
    model = Qwen3MoeForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager",
                                               experts_implementation="eager")
    margins = Margins(model)
    with torch.no_grad():
        prompts = make_prompts(model, seed)
        logits = {f"logits.{i}": logits_of(model, p["ids"]).float() for i, p in enumerate(prompts)}
    margin = min(prompt["greedy_margin"] for prompt in prompts)
    if margin < MIN_GREEDY_MARGIN or margins.smallest < MIN_ROUTER_MARGIN:
        return f"greedy margin {margin:.4f}, router margin {margins.smallest:.5f}"
    count = sum(sum(prompt["loss_mask"]) for prompt in prompts)
    sft, sft_gradients = loss_and_gradients(model, prompts, "loss_mask", count)
    pg, pg_gradients = loss_and_gradients(model, prompts, "pg_weights", 1)
    smallest = min(g[g != 0].abs().min().item() for g in sft_gradients.values() if g.any())
    if smallest < MIN_GRADIENT:
        return f"smallest gradient {smallest:.1e}"
    assert set(sft_gradients) == set(weights), set(sft_gradients) ^ set(weights)
    save_file(logits, folder / "golden.safetensors")
    save_file(sft_gradients, folder / "grads_sft.safetensors")
    save_file(pg_gradients, folder / "grads_pg.safetensors")
    steps = adamw_steps(weights, [("grads_sft.safetensors", sft_gradients), ("grads_pg.safetensors", pg_gradients)])
    golden = {"model": folder.name, "seed": seed, "router_margin": margins.smallest, "prompts": prompts,
              "sft": {**sft, "label_count": count}, "pg": pg, "adamw": {**ADAMW, "steps": steps}}
    (folder / "golden.json").write_text(json.dumps(golden))
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1, help="first seed to try")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.seed, arguments.seed + 200):
        too_close = write_goldens(arguments.out, seed)
        if too_close is None:
            print(f"seed {seed}: written")
            return
        print(f"seed {seed}: {too_close}")


main()
