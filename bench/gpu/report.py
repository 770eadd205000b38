#!/usr/bin/env python3
"""Brings what run.sh measured into one JSON and prints training beside PyTorch.

    report.py --commit ID --steps N --parts checks,steps,pipelines,clusters --out FILE FOLDER

FOLDER holds device.txt, and of the parts that were run step_bench.json, step_bench_capacity.json,
pytorch-eager.json, pytorch-compiled.json (steps), pipeline_bench.json (pipelines), cluster.json and
async_save.json (clusters). Files of other parts are of another run and left alone. Ratios are of this run,
rounded down.
"""
import argparse
import json
import math
import pathlib
import sys


FILES = {"holdfast": ("steps", "step_bench.json"),
         "holdfast_capacity": ("steps", "step_bench_capacity.json"),
         "holdfast_stages": ("pipelines", "pipeline_bench.json"),
         "pytorch_eager": ("steps", "pytorch-eager.json"),
         "pytorch_compiled": ("steps", "pytorch-compiled.json"),
         "clusters": ("clusters", "cluster.json"), "async_save": ("clusters", "async_save.json")}


def read(path):
    return json.loads(path.read_text()) if path.exists() else None


def by_model(rows):
    return {row["model"]: row for row in rows or []}


def ratio(ours, theirs):
    if not theirs or "tokens_per_second" not in theirs:
        return "-"
    return f"{math.floor(100 * ours / theirs['tokens_per_second']) / 100:.2f}"


def rate(row):
    return f"{row['tokens_per_second']:,.0f}" if row and "tokens_per_second" in row else "-"


def table(found):
    eager, compiled = by_model(found["pytorch_eager"]), by_model(found["pytorch_compiled"])
    capacity = by_model(found["holdfast_capacity"])
    lines = [f"{'model':<10}{'Holdfast':>10}{'eager':>10}{'compiled':>10}  {'of eager, compiled':<20}"
             f"{'capacity':>10}  {'of dropless, dropped':<20}"]
    for row in found["holdfast"]:
        name, ours = row["model"], row["tokens_per_second"]
        limited = capacity.get(name)
        beside = f"{ratio(ours, eager.get(name))}, {ratio(ours, compiled.get(name))}"
        kept = "-" if not limited else (f"{ratio(limited['tokens_per_second'], row)}, "
                                        f"{100 * limited['dropped_fraction']:.1f} %")
        lines.append(f"{name:<10}{rate(row):>10}{rate(eager.get(name)):>10}{rate(compiled.get(name)):>10}"
                     f"  {beside:<20}{rate(limited):>10}  {kept:<20}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--parts", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("folder", type=pathlib.Path)
    arguments = parser.parse_args()
    folder, parts = arguments.folder, arguments.parts.split(",")
    found = {"bench": "bench/gpu/run.sh", "commit": arguments.commit, "parts": parts,
             "devices": (folder / "device.txt").read_text().splitlines()}
    if "steps" in parts:
        found["steps"] = arguments.steps
    found.update({name: read(folder / file) for name, (part, file) in FILES.items() if part in parts})
    pathlib.Path(arguments.out).write_text(json.dumps(found, indent=1) + "\n")
    if found.get("holdfast"):
        print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
