"""PyTorch peer of bench/train-step.ts: the same decoder, loss and optimizer in eager mode.

Reads one line per round from standard input (number of steps) and answers with milliseconds per step, as
`wall cpu loss`. Arguments: JSON with the shape, see train-step.ts.
"""

import json
import math
import sys
import time

try:
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
except ImportError:
    print("missing", flush=True)
    sys.exit(0)

shape = json.loads(sys.argv[1])
V, D, L, H, HK, FF = (shape[k] for k in ("vocabulary", "hidden", "layers", "heads", "kvHeads", "intermediate"))
DH, B, T = D // H, shape["rows"], shape["length"]
RANK = shape.get("lora", 0)
torch.manual_seed(0)
torch.set_num_threads(shape["threads"])


class Adapter(nn.Module):
    """x -> scale * B(A x), as in PEFT: A uniform, B zero, scale 2."""

    def __init__(self, outputs, inputs):
        super().__init__()
        self.a = nn.Parameter((torch.rand(RANK, inputs) * 2 - 1) * inputs**-0.5)
        self.b = nn.Parameter(torch.zeros(outputs, RANK))

    def forward(self, x):
        return F.linear(F.linear(x, self.a), self.b) * 2


def adapted(x, y, adapters):
    """y, the product of x with one matrix or several stacked ones, with the adapter of each added."""
    if RANK == 0:
        return y
    return y + torch.cat([adapter(x) for adapter in adapters], -1)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        matrix = lambda rows, columns: nn.Parameter(torch.randn(rows, columns) * columns**-0.5, requires_grad=RANK == 0)
        if RANK > 0:
            rows = {"qkv": [H * DH, HK * DH, HK * DH], "o": [D], "gate_up": [FF, FF], "down": [D]}
            columns = {"qkv": D, "o": D, "gate_up": D, "down": FF}
            self.adapters = nn.ModuleDict({k: nn.ModuleList(Adapter(r, columns[k]) for r in rows[k]) for k in rows})
        else:
            self.adapters = {"qkv": [], "o": [], "gate_up": [], "down": []}
        self.n1, self.n2 = nn.Parameter(torch.ones(D)), nn.Parameter(torch.ones(D))
        self.qkv, self.o = matrix((H + 2 * HK) * DH, D), matrix(D, D)
        self.gate_up, self.down = matrix(2 * FF, D), matrix(D, FF)


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(V, D) * 0.02)
        self.norm = nn.Parameter(torch.ones(D))
        self.layers = nn.ModuleList(Layer() for _ in range(L))
        angle = torch.arange(T)[:, None] * 10000 ** (-torch.arange(0, DH, 2).float() / DH)
        self.register_buffer("cos", torch.cat([angle.cos(), angle.cos()], -1))
        self.register_buffer("sin", torch.cat([-angle.sin(), angle.sin()], -1))

    def rotate(self, x):
        half = DH // 2
        return x * self.cos + torch.cat([x[..., half:], x[..., :half]], -1) * self.sin

    def forward(self, ids):
        x = F.embedding(ids, self.embedding)
        for layer in self.layers:
            normed = F.rms_norm(x, (D,), layer.n1, 1e-5)
            qkv = adapted(normed, F.linear(normed, layer.qkv), layer.adapters["qkv"])
            q, k, v = qkv.split([H * DH, HK * DH, HK * DH], -1)
            q = self.rotate(q.view(B, T, H, DH).transpose(1, 2))
            k = self.rotate(k.view(B, T, HK, DH).transpose(1, 2))
            v = v.view(B, T, HK, DH).transpose(1, 2)
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            a = a.transpose(1, 2).reshape(B, T, D)
            x = x + adapted(a, F.linear(a, layer.o), layer.adapters["o"])
            normed = F.rms_norm(x, (D,), layer.n2, 1e-5)
            gate, up = adapted(normed, F.linear(normed, layer.gate_up), layer.adapters["gate_up"]).chunk(2, -1)
            inner = F.silu(gate) * up
            x = x + adapted(inner, F.linear(inner, layer.down), layer.adapters["down"])
        return F.linear(F.rms_norm(x, (D,), self.norm, 1e-5), self.embedding)


model = Decoder()
if RANK > 0:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("adapters" in name)
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
tokens = torch.tensor([[(r * 7919 + t * 104729 + ((r * t) % 13) * 31) % V for t in range(T + 1)] for r in range(B)])
ids, labels = tokens[:, :-1].contiguous(), tokens[:, 1:].reshape(-1)
weights = torch.full((B * T,), 1 / (B * T))


def step():
    logits = model(ids).view(B * T, V)
    loss = (F.cross_entropy(logits, labels, reduction="none") * weights).sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    return loss.item()


print(f"torch {torch.__version__}", flush=True)
for line in sys.stdin:
    count = int(line)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        loss = step()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{1000 * wall / count:.3f} {1000 * cpu / count:.3f} {loss:.6f}", flush=True)
