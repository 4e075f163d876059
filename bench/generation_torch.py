"""PyTorch peer of bench/generation.ts: decode steps of the same decoder in eager mode, sampling included.

Reads lines of two numbers (rows, steps) and answers with milliseconds of wall and of CPU time per step. The argument is
JSON with the shape, see generation.ts. The cache is allocated once and appended to in place; all rows have the same
length, which spares this side the masks that ragged rows would need.
"""

import json
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    print("missing", flush=True)
    sys.exit(0)

shape = json.loads(sys.argv[1])
V, D, L, H, HK, FF, T = (
    shape[k] for k in ("vocabulary", "hidden", "layers", "heads", "kvHeads", "intermediate", "context")
)
DH = D // H
torch.manual_seed(0)
torch.set_num_threads(shape["threads"])


def matrix(rows, columns):
    return torch.randn(rows, columns) * columns**-0.5


embedding, final_norm = torch.randn(V, D) * 0.02, torch.ones(D)
layers = [
    (torch.ones(D), matrix((H + 2 * HK) * DH, D), matrix(D, D), torch.ones(D), matrix(2 * FF, D), matrix(D, FF))
    for _ in range(L)
]
angle = torch.arange(T)[:, None] * 10000 ** (-torch.arange(0, DH, 2).float() / DH)
cos = torch.cat([angle.cos(), angle.cos()], -1)
sin = torch.cat([-angle.sin(), angle.sin()], -1)


def rotate(x, t):
    half = DH // 2
    return x * cos[t] + torch.cat([x[..., half:], x[..., :half]], -1) * sin[t]


def step(tokens, caches, t):
    rows = tokens.shape[0]
    x = F.embedding(tokens, embedding)
    for (n1, qkv, o, n2, gate_up, down), (keys, values) in zip(layers, caches):
        q, k, v = F.linear(F.rms_norm(x, (D,), n1, 1e-5), qkv).split([H * DH, HK * DH, HK * DH], -1)
        keys[:, :, t] = rotate(k.view(rows, HK, DH), t)
        values[:, :, t] = v.view(rows, HK, DH)
        a = F.scaled_dot_product_attention(
            rotate(q.view(rows, H, 1, DH), t), keys[:, :, : t + 1], values[:, :, : t + 1], enable_gqa=True
        )
        x = x + F.linear(a.reshape(rows, D), o)
        gate, up = F.linear(F.rms_norm(x, (D,), n2, 1e-5), gate_up).chunk(2, -1)
        x = x + F.linear(F.silu(gate) * up, down)
    logprobs = F.log_softmax(F.linear(F.rms_norm(x, (D,), final_norm, 1e-5), embedding), -1)
    sampled = torch.multinomial(logprobs.exp(), 1)
    return sampled[:, 0], logprobs.gather(1, sampled)


print(f"torch {torch.__version__}", flush=True)
for line in sys.stdin:
    rows, steps = map(int, line.split())
    with torch.inference_mode():
        caches = [(torch.randn(rows, HK, T, DH), torch.randn(rows, HK, T, DH)) for _ in range(L)]
        tokens = torch.arange(rows)
        wall, cpu = time.perf_counter(), time.process_time()
        for i in range(steps):
            tokens, _ = step(tokens, caches, shape["start"] + i)
            tokens.tolist()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{1000 * wall / steps:.4f} {1000 * cpu / steps:.4f}", flush=True)
