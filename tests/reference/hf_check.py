#!/usr/bin/env python3
"""Are the logits of an exported model those that Holdfast computes?

  hf_check.py FOLDER LOGITS.json

FOLDER is what `holdfastctl snapshot export --format hf` wrote. LOGITS.json holds `sequences`, `tokens`
(all of them, in order), `logits` (tokens x vocabulary) as Holdfast computed them from the weights as the
files hold them (rounded, if they are bfloat16), `choices` (by layer, tokens x top_k: the experts it
sent each token to) and `type`, what it computed in: fp32 or bf16. The files are read by hand and put
through Mixtral's forward pass as the paper and transformers define it, in plain PyTorch and fp32;
where transformers can be imported, MixtralForCausalLM.from_pretrained is asked as well.
HOLDFAST_TRANSFORMERS=required makes it an error that it cannot be.

In fp32 every logit agrees to 1e-4. In bf16 rounding turns the choice between experts that are nearly
level, which changes a token's logits altogether. So the two are told apart: each choice is the best by
the fp32 reference, or its router logit lies less than 0.1 below (they are spread about 1), and with the
same choices the logits agree to 2e-2 of their norm. transformers, which chooses for itself, agrees with
plain PyTorch, choosing for itself, to 1e-4.

Exit 0: they agree. 1: they do not. 77: PyTorch is not installed.
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

EXACT, ROUNDED = 1e-4, 2e-2
NEARLY_LEVEL = 0.1  # router logits, bf16
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
    """Computes in fp32, whatever the files hold. Every tensor must be used: `left` is what was not.
    choices: by layer, [tokens, top_k], what to choose; None: the best. missed: how far the router logit
    of a given choice was below that of the best ones, at most."""

    def __init__(self, config, tensors, choices=None):
        self.c, self.tensors, self.left = config, tensors, set(tensors)
        self.choices, self.missed = choices, 0.0

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

    def choose(self, scores, layer):
        best, chosen = scores.topk(self.c["num_experts_per_tok"], -1)
        if self.choices is not None:
            chosen = self.choices[layer]
            assert (chosen.sort(-1).values.diff(dim=-1) > 0).all(), "an expert is chosen twice"
            missed = best[:, -1] - scores.gather(-1, chosen).min(-1).values
            self.missed = max(self.missed, missed.max().item())
        return chosen

    def experts(self, x, at, layer):
        flat = x.reshape(-1, x.shape[-1])
        scores = F.linear(flat, self.weight(f"{at}gate"))
        chosen = self.choose(scores, layer)
        gates = scores.softmax(-1).gather(-1, chosen)
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
                                 at + "block_sparse_moe.", i)
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


def compare(what, logits, wanted, limit, normalised=False):
    difference = logits.float() - wanted
    most, norm = difference.abs().max().item(), (difference.norm() / wanted.norm()).item()
    off = norm if normalised else most
    print(f"{what}: logits off by {most:.2e} at most, {norm:.2e} of their norm, largest "
          f"{wanted.abs().max().item():.2f}" + (f", allowed {limit:.0e}" if limit else ""))
    return limit is None or off <= limit  # not, when it is no number


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
    choices = [torch.tensor(layer).view(-1, config["num_experts_per_tok"]) for layer in ours["choices"]]
    assert len(choices) == config["num_hidden_layers"]
    assert config["architectures"] == ["MixtralForCausalLM"] and not config["tie_word_embeddings"]
    tensors = read_model(folder)
    with torch.no_grad():
        free, bound = Mixtral(config, tensors), Mixtral(config, tensors, choices)
        own, same = free.logits(tokens), bound.logits(tokens)
        assert not free.left, f"nobody asked for {free.left}"
        theirs = transformers_logits(folder, tokens)
    if theirs is None and os.environ.get("HOLDFAST_TRANSFORMERS") == "required":
        print("transformers cannot be imported")
        return 1
    exact = ours["type"] == "fp32"
    print(f"files of {config['torch_dtype']}, ours in {ours['type']}; the worst choice lies {bound.missed:.1e} "
          "below the best in router logits")
    good = [compare("plain PyTorch, same choices", same, wanted, EXACT if exact else ROUNDED, not exact),
            compare("plain PyTorch, its own choices", own, wanted, EXACT if exact else None),
            bound.missed <= (EXACT if exact else NEARLY_LEVEL)]
    if theirs is not None:
        good.append(compare("transformers beside plain PyTorch", theirs, own, EXACT))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
