#!/usr/bin/env python3
"""The models of step_bench in PyTorch, for a figure beside ours from the same run: torch._grouped_mm,
scaled_dot_product_attention, fused AdamW, autocast to bf16 with fp32 weights, eager or torch.compile.

    pytorch_moe.py [--models moe-s16,moe-1b16,moe-s64] [--steps N] [--warm-up N] [--compile] [--out FILE]
"""
import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

MODELS = {  # width, layers, heads, ffn, experts, top_k, sequences
    "moe-s16": (768, 12, 12, 2048, 16, 2, 32),
    "moe-1b16": (1024, 16, 16, 2048, 16, 2, 16),
    "moe-s64": (768, 12, 12, 1024, 64, 8, 16),
}
VOCABULARY, CONTEXT = 50304, 1024


def rotary_tables(head_width, device):
    frequencies = 10000.0 ** (-torch.arange(0, head_width, 2, device=device) / head_width)
    angles = torch.arange(CONTEXT, device=device)[:, None] * frequencies[None, :]
    return torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)


def rotate(x, cos, sin):
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat([-high, low], -1) * sin


class Block(nn.Module):
    def __init__(self, d, heads, f, experts, top_k):
        super().__init__()
        self.heads, self.experts, self.top_k = heads, experts, top_k
        self.norm1, self.norm2 = nn.RMSNorm(d, eps=1e-5), nn.RMSNorm(d, eps=1e-5)
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.router = nn.Linear(d, experts, bias=False)
        self.gate_up = nn.Parameter(torch.randn(experts, d, 2 * f) * 0.02)
        self.down = nn.Parameter(torch.randn(experts, f, d) * 0.02)

    def attention(self, x, cos, sin):
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(heads.transpose(1, 2).reshape(b, t, d))

    def moe(self, x):
        n, d = x.shape
        logits = self.router(x).float()
        probabilities = logits.softmax(-1)
        gates, choices = probabilities.topk(self.top_k, -1)
        gates = gates / gates.sum(-1, keepdim=True)
        flat = choices.reshape(-1)
        order = flat.argsort(stable=True)
        counts = torch.zeros(self.experts, device=x.device, dtype=torch.int32)
        counts = counts.scatter_add(0, flat, torch.ones_like(flat, dtype=torch.int32))
        ends = counts.cumsum(0, dtype=torch.int32)
        rows = x.to(torch.bfloat16)[order // self.top_k]
        gate, up = torch._grouped_mm(rows, self.gate_up.to(torch.bfloat16), ends).chunk(2, -1)
        y = torch._grouped_mm(F.silu(gate) * up, self.down.to(torch.bfloat16), ends)
        back = torch.empty_like(order)
        back[order] = torch.arange(order.numel(), device=x.device)
        y = (y[back].view(n, self.top_k, d) * gates.to(y.dtype)[..., None]).sum(1)
        balance = self.experts * (counts.float() / flat.numel() * probabilities.mean(0)).sum()
        return y, balance, logits.logsumexp(-1).square().mean()

    def forward(self, x, cos, sin):
        x = x + self.attention(self.norm1(x), cos, sin)
        y, balance, z = self.moe(self.norm2(x).flatten(0, 1))
        return x + y.view_as(x), balance, z


class Model(nn.Module):
    def __init__(self, d, layers, heads, f, experts, top_k):
        super().__init__()
        self.head_width = d // heads
        self.embedding = nn.Embedding(VOCABULARY, d)
        self.blocks = nn.ModuleList(Block(d, heads, f, experts, top_k) for _ in range(layers))
        self.norm = nn.RMSNorm(d, eps=1e-5)
        self.head = nn.Linear(d, VOCABULARY, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, tokens, targets, cos, sin):
        x = self.embedding(tokens)
        balance = z = 0.0
        for block in self.blocks:
            x, b, s = block(x, cos, sin)
            balance, z = balance + b, z + s
        logits = self.head(self.norm(x))
        loss = F.cross_entropy(logits.view(-1, VOCABULARY), targets.view(-1))
        return loss + 1e-2 * balance + 1e-3 * z, loss


def measure(name, steps, warm_up, compiled):
    *shape, sequences = MODELS[name]
    torch.manual_seed(1)
    model = Model(*shape).cuda()
    cos, sin = rotary_tables(model.head_width, "cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1,
                                  fused=True)
    batches = [torch.randint(VOCABULARY, (2, sequences, CONTEXT), device="cuda") for _ in range(4)]
    forward = torch.compile(model) if compiled else model
    seconds, losses = [], []
    for step in range(warm_up + steps):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        tokens, targets = batches[step % len(batches)]
        with torch.autocast("cuda", dtype=torch.bfloat16):
            total, loss = forward(tokens, targets, cos, sin)
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        losses.append(loss.item())
        if step >= warm_up:
            seconds.append(time.perf_counter() - begin)
    peak = torch.cuda.max_memory_allocated() / 2**30
    return {"model": name, "mode": "compiled" if compiled else "eager",
            "first_loss": losses[0], "last_loss": losses[-1],
            "seconds": statistics.median(seconds), "fastest_seconds": min(seconds),
            "tokens_per_second": sequences * CONTEXT / statistics.median(seconds),
            "peak_gib": peak}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = True
    rows = []
    for name in options.models.split(","):
        try:
            row = measure(name, options.steps, options.warm_up, options.compile)
        except torch.cuda.OutOfMemoryError:
            row = {"model": name, "mode": "compiled" if options.compile else "eager",
                   "error": "out of memory"}
        print(row, flush=True)
        rows.append(row)
        torch.cuda.empty_cache()
        torch.compiler.reset()
    if options.out:
        with open(options.out, "w") as file:
            json.dump(rows, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
