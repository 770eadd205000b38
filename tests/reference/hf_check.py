#!/usr/bin/env python3
"""Are the logits of an exported model those that Holdfast computes?

  hf_check.py FOLDER LOGITS.json

FOLDER is what `holdfastctl snapshot export --format hf` wrote. LOGITS.json holds `sequences`, `tokens`
(all of them, in order), `logits` (tokens x vocabulary) as Holdfast computed them from the weights as the
files hold them (rounded, if they are bfloat16), and `type`, what it computed in: fp32 or bf16. The files are
read by hand and put through Mixtral's forward pass as the paper and transformers define it, in plain
PyTorch and fp32; where transformers can be imported, MixtralForCausalLM.from_pretrained is asked as
well. HOLDFAST_TRANSFORMERS=required makes it an error that it cannot be.

Exit 0: they agree, fp32 to 1e-4 in every logit, bf16 to 2e-2 of the logits' norm. 1: they do not. 77: PyTorch is not installed.
"""
import json
import math
import os
import pathlib
import struct
import sys

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    print("PyTorch (python3-torch) is not installed: skipped")
    sys.exit(77)

LIMITS = {"fp32": 1e-4, "bf16": 2e-2}
TYPES = {"F32": (torch.float32, 4), "BF16": (torch.bfloat16, 2)}


def read_safetensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        kind, width = TYPES[entry["dtype"]]
        first, last = entry["data_offsets"]
        assert first == end, f"{name}: a hole before it"
        assert last - first == math.prod(entry["shape"]) * width, f"{name}: shape and bytes differ"
        end = last
        raw = bytearray(data[8 + length + first:8 + length + last])
        tensors[name] = torch.frombuffer(raw, dtype=kind).reshape(entry["shape"])
    assert 8 + length + end == len(data), f"{path}: {len(data)} bytes"
    return tensors


def read_model(folder):
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return read_safetensors(folder / "model.safetensors")
    index, tensors = json.loads(index.read_text()), {}
    for file in sorted(set(index["weight_map"].values())):
        part = read_safetensors(folder / file)
        assert {n for n, f in index["weight_map"].items() if f == file} == set(part), file
        tensors.update(part)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    assert size == index["metadata"]["total_size"], size
    return tensors


class Mixtral:
    """Computes in fp32, whatever the files hold. Every tensor must be used: `left` is what was not."""

    def __init__(self, config, tensors):
        self.c, self.tensors, self.left = config, tensors, set(tensors)

    def weight(self, name):
        self.left.discard(name + ".weight")
        return self.tensors[name + ".weight"].float()

    def norm(self, x, name):
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.c["rms_norm_eps"])
        return self.weight(name) * (x * scale)

    def rotate(self, x):  # [B, heads, T, A]
        width = x.shape[-1]
        inverse = 1.0 / self.c["rope_theta"] ** (torch.arange(0, width, 2).float() / width)
        angle = torch.outer(torch.arange(x.shape[2]).float(), inverse)
        angle = torch.cat([angle, angle], -1)
        turned = torch.cat([-x[..., width // 2:], x[..., :width // 2]], -1)
        return x * angle.cos() + turned * angle.sin()

    def attention(self, x, at):
        b, t, d = x.shape
        heads, kv = self.c["num_attention_heads"], self.c["num_key_value_heads"]

        def project(name, count):
            y = F.linear(x, self.weight(f"{at}self_attn.{name}_proj"))
            return y.view(b, t, count, d // heads).transpose(1, 2)

        q, k, v = project("q", heads), project("k", kv), project("v", kv)
        q, k = self.rotate(q), self.rotate(k)
        k, v = (y.repeat_interleave(heads // kv, 1) for y in (k, v))
        scores = q @ k.transpose(2, 3) / math.sqrt(d // heads)
        scores += torch.full((t, t), -math.inf).triu(1)
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, d)
        return F.linear(y, self.weight(f"{at}self_attn.o_proj"))

    def experts(self, x, at):
        flat = x.reshape(-1, x.shape[-1])
        probabilities = F.linear(flat, self.weight(f"{at}gate")).softmax(-1)
        gates, chosen = probabilities.topk(self.c["num_experts_per_tok"], -1)
        gates = gates / gates.sum(-1, keepdim=True)
        y = torch.zeros_like(flat)
        for e in range(self.c["num_local_experts"]):
            w1, w2, w3 = (self.weight(f"{at}experts.{e}.w{i}") for i in (1, 2, 3))
            token, rank = (chosen == e).nonzero(as_tuple=True)
            h = flat[token]
            out = F.linear(F.silu(F.linear(h, w1)) * F.linear(h, w3), w2)
            y.index_add_(0, token, gates[token, rank, None] * out)
        return y.view_as(x)

    def logits(self, tokens):
        x = self.weight("model.embed_tokens")[tokens]
        for i in range(self.c["num_hidden_layers"]):
            at = f"model.layers.{i}."
            x = x + self.attention(self.norm(x, at + "input_layernorm"), at)
            x = x + self.experts(self.norm(x, at + "post_attention_layernorm"),
                                 at + "block_sparse_moe.")
        return F.linear(self.norm(x, "model.norm"), self.weight("lm_head"))


def transformers_logits(folder, tokens):
    try:
        from transformers import MixtralForCausalLM
    except ImportError:
        return None
    model, info = MixtralForCausalLM.from_pretrained(
        folder, torch_dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    for kind, names in info.items():
        assert not names, f"{kind}: {names}"
    model.eval()
    return model(input_ids=tokens).logits


def main():
    if len(sys.argv) != 3:
        print(__doc__)
        return 2
    torch.set_num_threads(1)
    folder = pathlib.Path(sys.argv[1])
    config = json.loads((folder / "config.json").read_text())
    ours = json.loads(pathlib.Path(sys.argv[2]).read_text())
    tokens = torch.tensor(ours["tokens"]).view(ours["sequences"], -1)
    wanted = torch.tensor(ours["logits"]).view(*tokens.shape, config["vocab_size"])
    assert config["architectures"] == ["MixtralForCausalLM"] and not config["tie_word_embeddings"]
    with torch.no_grad():
        model = Mixtral(config, read_model(folder))
        found = {"plain PyTorch": model.logits(tokens)}
        assert not model.left, f"nobody asked for {model.left}"
        theirs = transformers_logits(folder, tokens)
    if theirs is not None:
        found["transformers"] = theirs
    elif os.environ.get("HOLDFAST_TRANSFORMERS") == "required":
        print("transformers cannot be imported")
        return 1
    worst, limit = 0.0, LIMITS[ours["type"]]
    for name, logits in found.items():
        difference = logits.float() - wanted
        most = difference.abs().max().item()
        normalised = (difference.norm() / logits.float().norm()).item()
        off = most if ours["type"] == "fp32" else normalised
        worst = max(worst, off if off == off else math.inf)
        print(f"{name}, files of {config['torch_dtype']}, ours in {ours['type']}: logits off by {most:.2e} at "
              f"most, {normalised:.2e} of their norm, largest {wanted.abs().max().item():.2f}, allowed {limit:.0e}")
    return 0 if worst <= limit else 1


if __name__ == "__main__":
    sys.exit(main())
