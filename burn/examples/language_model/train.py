"""The same model in PyTorch, from the same weights and on the same batches.

    python train.py FOLDER [STEPS]

FOLDER has the init.safetensors of the example language_model, and gets loss-torch.csv.
"""

import json
import math
import pathlib
import sys

import torch
import torch.nn.functional as F

BATCH, TOKENS, LEARNING_RATE, WARM_UP, STORE_EVERY = 16, 256, 3e-3, 50, 100


def load(path):
    """The tensors of a safetensors file of f32, and its config."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    config = json.loads(header.pop("__metadata__")["config"])
    tensors = {}
    for name, of in header.items():
        begin, end = of["data_offsets"]
        of_tensor = bytearray(data[8 + size + begin : 8 + size + end])
        flat = torch.frombuffer(of_tensor, dtype=torch.float32)
        tensors[name] = flat.reshape(of["shape"]).clone().requires_grad_()
    return tensors, config


def norm(x, gamma):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * gamma


def attend(rule, q, k, v, decay, beta):
    """q, k and v [B,T,H,D], decay and beta [B,T,H]: all tokens at once, T x T weights for each head."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    is_seen = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril()
    if rule == "Linear":
        weights = ((F.elu(q) + 1) @ (F.elu(k) + 1).mT).masked_fill(~is_seen, 0)
        return (weights @ v / weights.sum(-1, keepdim=True)).transpose(1, 2)
    q, k = (x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6) for x in (q, k))
    # The decays from token j, behind it, to token i.
    sums = decay.transpose(1, 2).cumsum(-1)
    decays = (sums[..., :, None] - sums[..., None, :]).masked_fill(~is_seen, -torch.inf).exp()
    beta = beta.transpose(1, 2)[..., None]
    # u_i = beta_i (v_i - sum of the decayed k_i . k_j u_j before it).
    recalled = (beta * (k @ k.mT) * decays).tril(-1)
    system = recalled + torch.eye(q.shape[2])
    u = torch.linalg.solve_triangular(system, beta * v, upper=False, unitriangular=True)
    o = (q @ k.mT * q.shape[-1] ** -0.5 * decays) @ u
    return o.transpose(1, 2)


def attention(w, prefix, rule, heads, x):
    rows = lambda name: (x @ w[f"{prefix}.{name}.weight"]).unflatten(-1, (heads, -1))
    q, k, v = rows("query"), rows("key"), rows("value")
    decay = beta = None
    if rule == "GatedDelta":
        dt = x @ w[f"{prefix}.decay.projection.weight"] + w[f"{prefix}.decay.dt_bias"]
        decay = -w[f"{prefix}.decay.a_log"].exp() * F.softplus(dt)
        beta = torch.sigmoid(x @ w[f"{prefix}.beta.weight"] + w[f"{prefix}.beta.bias"])
    o = attend(rule, q, k, v, decay, beta)
    if f"{prefix}.norm.gamma" in w:
        o = norm(o, w[f"{prefix}.norm.gamma"])
    return o.flatten(-2) @ w[f"{prefix}.output.weight"]


def loss_of(w, config, tokens, following):
    x = w["embedding.weight"][tokens]
    for i, rule in enumerate(config["layers"]):
        of = lambda name: w[f"layers.{i}.{name}"]
        normed = norm(x, of("attention_norm.gamma"))
        x = x + attention(w, f"layers.{i}.attention", rule, config["heads"], normed)
        x = x + F.silu(norm(x, of("mlp_norm.gamma")) @ of("up.weight")) @ of("down.weight")
    logits = norm(x, w["norm.gamma"]) @ w["embedding.weight"].T
    return F.cross_entropy(logits.flatten(0, 1), following.flatten())


class Random:
    """xorshift64*."""

    def __init__(self, seed):
        self.x = seed

    def below(self, end):
        mask = (1 << 64) - 1
        self.x ^= self.x >> 12
        self.x ^= (self.x << 25) & mask
        self.x ^= self.x >> 27
        return ((self.x * 0x2545F4914F6CDD1D & mask) >> 33) % end


def learning_rate(step, steps):
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    return LEARNING_RATE * min(1, (step + 1) / WARM_UP) * (0.1 + 0.9 * cosine)


def main():
    folder = pathlib.Path(sys.argv[1])
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    w, config = load(folder / "init.safetensors")
    data = pathlib.Path(__file__).parents[2] / "data/persuasion.txt"
    text = torch.tensor(list(data.read_bytes()))
    end = len(text) // 10 * 9
    train, valid = text[:end], text[end:]
    optimizer = torch.optim.AdamW(w.values(), betas=(0.9, 0.99), eps=1e-5, weight_decay=1e-4)
    random, mean = Random(1), ""

    def batch(text, begins):
        return tuple(torch.stack([text[b + s : b + s + TOKENS] for b in begins]) for s in (0, 1))

    with open(folder / "loss-torch.csv", "w") as csv:
        print("step,train,valid", file=csv)
        for step in range(steps + 1):
            if step % STORE_EVERY == 0:
                begins = [i * (len(valid) - TOKENS - 1) // 15 for i in range(16)]
                with torch.no_grad():
                    loss = loss_of(w, config, *batch(valid, begins)).item()
                print(f"{step},{mean},{loss}", file=csv, flush=True)
                print(f"step {step}: loss {loss:.4f}", flush=True)
            if step == steps:
                break
            begins = [random.below(len(train) - TOKENS - 1) for _ in range(BATCH)]
            loss = loss_of(w, config, *batch(train, begins))
            optimizer.zero_grad()
            loss.backward()
            # Burn clips each tensor by its own norm.
            for x in w.values():
                torch.nn.utils.clip_grad_norm_([x], 1.0)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps)
            optimizer.step()
            mean = 0.9 * mean + 0.1 * loss.item() if mean != "" else loss.item()


main()
