#!/usr/bin/env python3
"""An independent reference for the training step: the model of docs/architecture.md in PyTorch.

Trains conf/jobs/tiny.toml on the bytes of LICENSE and compares loss, gradient norm and held-out loss
with golden.json, which golden_test.cpp holds the C++ trainer against. Shares nothing with the C++ code
but the definition of the initial weights and of the batches, which are pure functions of a seed.

  reference.py check   exit 0: golden.json agrees to 1e-4 at every step; 77: PyTorch is not installed
  reference.py write   computes golden.json anew
"""
import json
import math
import pathlib
import sys
import tomllib

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
except ImportError:
    print("PyTorch (python3-torch) is not installed: skipped")
    sys.exit(77)

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
STEPS = 20
MASK = (1 << 64) - 1


def mix(x):
    """splitmix64's finaliser on a Python integer."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def mix_array(x):
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(bits):
    return ((bits >> np.uint64(11)).astype(np.float64) + 1) * 2.0**-53


class Parameters:
    """Groups in canonical order, each tensor initialised by (seed, group, element)."""

    def __init__(self, job):
        self.job, self.groups, self.decayed, self.plain = job, [], [], []
        m = job["model"]
        d, base = m["width"], 0.02
        kv = d // m["heads"] * m["kv_heads"]
        small = base / math.sqrt(2.0 * m["layers"])
        self.add([("table", (m["vocabulary"], d), base)])
        for _ in range(m["layers"]):
            self.add([("norm", (d,), 0), ("q", (d, d), base), ("k", (kv, d), base),
                      ("v", (kv, d), base), ("o", (d, d), small)])
            self.add([("norm", (d,), 0), ("router", (m["experts"], d), base)])
            f = m["expert_width"]
            for _ in range(m["experts"]):
                self.add([("gate", (f, d), base), ("up", (f, d), base), ("down", (d, f), small)])
        self.add([("norm", (d,), 0), ("output", (m["vocabulary"], d), base)])

    def add(self, tensors):
        number, offset, group = len(self.groups), 0, {}
        for name, shape, stddev in tensors:
            count = math.prod(shape)
            element = np.arange(offset, offset + count, dtype=np.uint64)
            key = mix_array(np.uint64(mix(mix(self.job["seed"]) ^ number)) ^ element)
            values = np.ones(count)
            if stddev:
                values = stddev * np.sqrt(-2 * np.log(uniform(key))) * np.cos(
                    2 * np.pi * uniform(mix_array(key)))
            tensor = torch.tensor(values.astype(np.float32).reshape(shape), requires_grad=True)
            (self.decayed if stddev else self.plain).append(tensor)
            group[name] = tensor
            offset += count
        self.groups.append(group)


def norm(x, weight, epsilon):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) * weight


def rotate(x, theta):  # [B, T, heads, A]: pairs are (a, a + A/2)
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * theta ** (
        -torch.arange(half, dtype=torch.float64) / half)
    c, s = angle.cos().float()[:, None], angle.sin().float()[:, None]
    low, high = x[..., :half], x[..., half:]
    return torch.cat([low * c - high * s, high * c + low * s], -1)


def attention(x, g, m):
    b, t, d = x.shape
    width = d // m["heads"]
    h = norm(x, g["norm"], m.get("norm_epsilon", 1e-5))
    theta = m.get("rope_theta", 10000.0)
    q = rotate((h @ g["q"].T).view(b, t, m["heads"], width), theta)
    k = rotate((h @ g["k"].T).view(b, t, m["kv_heads"], width), theta)
    v = (h @ g["v"].T).view(b, t, m["kv_heads"], width)
    share = m["heads"] // m["kv_heads"]
    k, v = k.repeat_interleave(share, 2), v.repeat_interleave(share, 2)
    scores = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(width)
    future = torch.triu(torch.ones(t, t, dtype=torch.bool), 1)
    p = scores.masked_fill(future, -math.inf).softmax(-1)
    return x + torch.einsum("bhts,bshd->bthd", p, v).reshape(b, t, d) @ g["o"].T


def moe(x, router, experts, m):
    """The block's output and its weighted auxiliary losses."""
    flat = x.reshape(-1, x.shape[-1])
    h = norm(flat, router["norm"], m.get("norm_epsilon", 1e-5))
    logits = h @ router["router"].T
    p = logits.softmax(-1)
    gates, chosen = p.topk(m["top_k"], -1)
    if m["top_k"] > 1:
        gates = gates / gates.sum(-1, keepdim=True)
    y = flat.clone()
    for e, g in enumerate(experts):
        token, rank = (chosen == e).nonzero(as_tuple=True)
        hidden = F.silu(h[token] @ g["gate"].T) * (h[token] @ g["up"].T)
        y = y.index_add(0, token, gates[token, rank, None] * (hidden @ g["down"].T))
    fraction = torch.bincount(chosen.flatten(), minlength=m["experts"]) / chosen.numel()
    balance = m["experts"] * (fraction * p.mean(0)).sum()
    z = logits.logsumexp(-1).pow(2).mean()
    extra = m.get("load_balance_weight", 1e-2) * balance + m.get("z_loss_weight", 1e-3) * z
    return y.view_as(x), extra


def forward(params, m, tokens, targets):
    """Cross entropy and auxiliary losses of one micro-batch."""
    g, at, extra = params.groups, 1, 0.0
    x = g[0]["table"][tokens]
    for _ in range(m["layers"]):
        x = attention(x, g[at], m)
        x, more = moe(x, g[at + 1], g[at + 2:at + 2 + m["experts"]], m)
        extra = extra + more
        at += 2 + m["experts"]
    h = norm(x, g[at]["norm"], m.get("norm_epsilon", 1e-5))
    logits = h @ g[at]["output"].T
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten()), extra


class Text:
    def __init__(self, job):
        self.job, data = job, (ROOT / "LICENSE").read_bytes()
        if not data.endswith(b"\n"):
            data += b"\n"
        self.data = torch.tensor(list(data))
        self.training = len(data) - int(len(data) * job["data"]["held_out_fraction"])

    def batch(self, starts):
        rows = torch.stack([self.data[s:s + self.job["model"]["context"] + 1] for s in starts])
        return rows[:, :-1], rows[:, 1:]

    def train(self, step, j):
        below = self.training - self.job["model"]["context"]
        key = mix(mix(mix(self.job["data"]["seed"]) ^ step) ^ j)
        return self.batch([(mix(key ^ s) * below) >> 64
                           for s in range(self.job["micro_batch_sequences"])])

    def held_out(self, index):
        b = self.job["micro_batch_sequences"]
        total = self.job["evaluate_micro_batches"] * b
        room = len(self.data) - self.training - self.job["model"]["context"] - 1
        return self.batch([self.training + room * (index * b + s) // (total - 1)
                           for s in range(b)])


def rate(o, steps, step):
    if step < o["warmup_steps"]:
        return o["learning_rate"] * (step + 1) / o["warmup_steps"]
    done = min((step - o["warmup_steps"]) / (steps - 1 - o["warmup_steps"]), 1.0)
    low = o["min_learning_rate"]
    return low + (o["learning_rate"] - low) * 0.5 * (1 + math.cos(math.pi * done))


def run(top_k):
    job = tomllib.loads((ROOT / "conf/jobs/tiny.toml").read_text())
    job["model"]["top_k"] = top_k
    o, m = job["optimizer"], job["model"]
    params, text = Parameters(job), Text(job)
    optimizer = torch.optim.AdamW(
        [{"params": params.decayed, "weight_decay": o.get("weight_decay", 0.1)},
         {"params": params.plain, "weight_decay": 0.0}],
        betas=(o.get("beta1", 0.9), o.get("beta2", 0.95)), eps=o.get("epsilon", 1e-8))
    count = job["pipelines"] * job["micro_batches"]
    result = {"loss": [], "gradient_norm": []}
    for step in range(STEPS):
        optimizer.zero_grad()
        losses = []
        for j in range(count):
            cross_entropy, extra = forward(params, m, *text.train(step, j))
            ((cross_entropy + extra) / count).backward()
            losses.append(cross_entropy.item())
        everything = params.decayed + params.plain
        total = math.sqrt(sum(p.grad.double().pow(2).sum().item()
                              for p in everything if p.grad is not None))
        clip = o.get("clip", 1.0)
        for p in everything:
            if p.grad is None:  # an expert that no token chose: the update still decays it
                p.grad = torch.zeros_like(p)
            if 0 < clip < total:
                p.grad *= clip / total
        for group in optimizer.param_groups:
            group["lr"] = rate(o, job["steps"], step)
        optimizer.step()
        result["loss"].append(sum(losses) / count)
        result["gradient_norm"].append(total)
    with torch.no_grad():
        held = [forward(params, m, *text.held_out(i))[0].item()
                for i in range(job["evaluate_micro_batches"])]
    result["held_out"] = sum(held) / len(held)
    return result


def main():
    torch.set_num_threads(1)
    found = {f"top{k}": run(k) for k in (1, 2)}
    golden = HERE / "golden.json"
    if sys.argv[1:] == ["write"]:
        golden.write_text(json.dumps(found, indent=1) + "\n")
        return 0
    if sys.argv[1:] != ["check"]:
        print(__doc__)
        return 2
    wanted, worst = json.loads(golden.read_text()), 0.0
    for name, run_of in wanted.items():
        pairs = list(zip(run_of["loss"], found[name]["loss"], strict=True))
        pairs.append((run_of["held_out"], found[name]["held_out"]))
        worst = max(worst, *(abs(a - b) for a, b in pairs))
    print(f"largest difference from golden.json over {STEPS} steps: {worst:.2e}")
    return 0 if worst <= 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main())
