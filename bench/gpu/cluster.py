#!/usr/bin/env python3
"""Whole clusters on this machine's accelerators: first whether they train right and survive, then what
snapshots and recoveries cost. Builds nothing: run it on an unpacked bundle.

    cluster.py --commit ID [--only accuracy,kill,eight,stages,snapshots] [--out FILE] [--data TOKENS] BUNDLE

Where every worker has an accelerator of its own, tokens that do not go by NCCL make a part not good.

  accuracy   one job twice on one accelerator: losses bit-identical; and on the CPU: the mean loss of the
             last 50 of 200 steps within 1%
  kill       a lane per accelerator (two lanes where there is one): SIGKILL of a worker in mid-step, how
             long until noticed, decided, restored, first step; it re-joins; the losses afterwards
             beside those of an unbroken run
  eight      eight workers on the accelerators there are: three of them killed, one after another
  stages     two pipelines of two stages, four workers on the accelerators there are: two of them killed, one
             after another, and back; the losses beside those of one stage
  snapshots  step time with and without dense snapshots (at most 1.05 times), bytes a second into the
             arena, copied and summed (at least 50 GB), longest stall

Exit 0: everything that was asked for holds. 1: not, and it says what.
"""
import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

from playground import Cluster, Failed

SMALL = {"vocabulary": 256, "layers": 3, "width": 256, "heads": 4, "kv_heads": 2, "experts": 8,
         "top_k": 2, "expert_width": 512, "context": 128}
LARGE = {"vocabulary": 256, "layers": 6, "width": 768, "heads": 12, "kv_heads": 12, "experts": 16,
         "top_k": 2, "expert_width": 2048, "context": 1024}

ACCURACY_SEEDS = (1, 2, 3)


def make_job(name, model, steps, pipelines, micro_batches, sequences, policy, backend="cuda"):
    return {"name": name, "backend": backend, "seed": 1, "steps": steps, "pipelines": pipelines,
            "micro_batches": micro_batches, "micro_batch_sequences": sequences, "tolerate": 1,
            "evaluate_every": 0, "evaluate_micro_batches": 2, "model": model,
            "data": {"path": "text.tokens", "held_out_fraction": 0.02, "seed": 1},
            "optimizer": {"learning_rate": 1e-3, "min_learning_rate": 1e-4, "warmup_steps": 20},
            "snapshot": {"policy": policy, "replicas": 1, "every": 1}}


def devices():
    names = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
                           capture_output=True, text=True, check=True).stdout.split("\n")
    return [line.strip() for line in names if line.strip()]


def commit_id(text):
    """What a result can be traced by."""
    if not re.fullmatch(r"[0-9a-f]{7,40}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no commit: 7 to 40 hexadecimal digits")
    return text


def path_of(line):
    """How payload travels, as a line of a worker's log tells it; with the warning, where there is one."""
    found = re.search(r"(FOR TESTING ONLY: )?payload goes.*", line)
    return found.group(0) if found else line


def payload_paths(cluster):
    return sorted({path_of(line) for line in cluster.worker_logs("payload goes")})


def paths_good(paths, count, workers):
    """By NCCL in every view where there are devices enough, and else told to be for testing."""
    testing = [path for path in paths if path.startswith("FOR TESTING ONLY")]
    if count < workers:
        return bool(testing)
    return bool(paths) and not testing and all("by NCCL" in path for path in paths)


def losses(rows):
    return [row["loss"] for row in rows]


def tail_mean(rows, count=50):
    return statistics.fmean(losses(rows)[-count:])


def train(bundle, data, job, nodes, arena):
    with Cluster(bundle, nodes, arena) as cluster:
        cluster.submit(job, data)
        cluster.wait_done()
        rows = cluster.steps(job)
    if [row["step"] for row in rows] != list(range(job["steps"])):
        raise Failed(f"{job['name']}: {len(rows)} step records for {job['steps']} steps")
    return rows


def accuracy(bundle, data):
    """The same micro-batches of a step on one accelerator and on four CPU lanes. Rounding alone moves the
    loss of one run by a percent, as runs of one seed with more lanes show; so the means of several seeds are
    compared."""
    rows, gpu_means, cpu_means, repeats = [], [], [], 0
    for seed in ACCURACY_SEEDS:
        on_gpu = dict(make_job(f"accuracy-{seed}", SMALL, 200, 1, 4, 4, "none"), seed=seed)
        on_cpu = dict(make_job(f"accuracy-{seed}", SMALL, 200, 4, 1, 4, "none", "cpu"), seed=seed)
        first, again = (train(bundle, data, on_gpu, 1, "64MiB") for _ in range(2))
        reference = train(bundle, data, on_cpu, 4, "64MiB")
        repeats += sum(a != b for a, b in zip(losses(first), losses(again)))
        gpu_means.append(tail_mean(first))
        cpu_means.append(tail_mean(reference))
        rows.append({"seed": seed, "first_loss": {"cuda": losses(first)[0], "cpu": losses(reference)[0]},
                     "mean_loss_of_last_50": {"cuda": gpu_means[-1], "cpu": cpu_means[-1]}})
    off = statistics.mean(gpu_means) / statistics.mean(cpu_means) - 1
    result = {"steps": 200, "steps_that_differ_when_repeated": repeats, "seeds": rows,
              "relative_difference_of_means": off}
    return result, repeats == 0 and abs(off) <= 0.01


def after(events, kind, killed_ms):
    for event in events:
        if event["kind"] == kind:
            return round(event["wall_ms"] - killed_ms)
    raise Failed(f"no event {kind} followed the kill")


def recovery(cluster, victim, step_more):
    """Kills the worker of `victim`; waits until `step_more` steps beyond."""
    before = cluster.events()[-1]["sequence"]
    killed_ms = cluster.kill_worker(victim)
    cluster.wait("the first step after the kill",
                 lambda: any(e["kind"] == "first_step" for e in cluster.events(before)))
    events = cluster.events(before)
    times = {kind: after(events, kind, killed_ms) for kind in ("worker_lost", "view", "first_step")}
    cluster.wait(f"{victim} to re-join",
                 lambda: any(e["kind"] == "rejoined" for e in cluster.events(before)))
    times["rejoined"] = after(cluster.events(before), "rejoined", killed_ms)
    cluster.wait_step(cluster.job()["step"] + step_more)
    told = [f"{e['wall_ms'] - killed_ms:8.0f} ms  {e['kind']}: {e['text']}" for e in cluster.events(before)]
    return {"ms_after_kill": times}, told


def kill(bundle, data, count, steps):
    job = make_job("kill", LARGE, steps, 2, 1, 16 if count > 1 else 4, "dense")
    with Cluster(bundle, 2, "28GiB") as cluster:
        cluster.submit(job, data)
        cluster.wait_step(60)
        result, told = recovery(cluster, "node-1", 20)
        print("\n".join(told + cluster.worker_logs("idle after")))
        cluster.wait_done()
        result["payload"] = payload_paths(cluster)
        rows = cluster.steps(job)
    unbroken = train(bundle, data, dict(job, name="unbroken", snapshot={"policy": "none"}), 2, "1GiB")
    seconds = [row["seconds"] for row in rows]
    first = result["ms_after_kill"]["first_step"]
    result.update({
        "steps": steps, "step_ms": 1e3 * statistics.median(seconds[10:55]),
        "step_ms_without_snapshots": 1e3 * statistics.median(
            row["seconds"] for row in unbroken[10:]),
        "mean_loss_of_last_50": {"killed": tail_mean(rows), "unbroken": tail_mean(unbroken)}})
    off = tail_mean(rows) / tail_mean(unbroken) - 1
    good = (len(rows) == job["steps"] and abs(off) <= 0.01 and first <= 2000 + result["step_ms"]
            and paths_good(result["payload"], count, 2))
    return result, good


def eight(bundle, data, count):
    job = make_job("eight", SMALL, 400, 8, 1, 4, "dense")
    unbroken = train(bundle, data, dict(job, name="unbroken", snapshot={"policy": "none"}), 8, "64MiB")
    kills = []
    with Cluster(bundle, 8, "1GiB") as cluster:
        cluster.submit(job, data)
        cluster.wait_step(30)
        for victim in ("node-3", "node-5", "node-7"):
            result, told = recovery(cluster, victim, 10)
            kills.append(result["ms_after_kill"])
            print("\n".join(told[:6]))
        cluster.wait_done()
        paths = payload_paths(cluster)
        rows = cluster.steps(job)
    result = {"steps": job["steps"], "ms_after_kill": kills, "payload": paths,
              "mean_loss_of_last_50": {"killed": tail_mean(rows), "unbroken": tail_mean(unbroken)}}
    good = (len(rows) == job["steps"] and abs(tail_mean(rows) / tail_mean(unbroken) - 1) <= 0.01
            and paths_good(paths, count, 8))
    return result, good


def stages(bundle, data, count):
    model = dict(SMALL, layers=4)
    job = dict(make_job("stages", model, 300, 2, 4, 4, "dense"), stages=2)
    whole = train(bundle, data, make_job("whole", model, 300, 2, 4, 4, "none"), 2, "64MiB")
    kills = []
    with Cluster(bundle, 4, "1GiB") as cluster:
        cluster.submit(job, data)
        cluster.wait_step(30)
        for victim in ("node-3", "node-1"):
            result, told = recovery(cluster, victim, 20)
            kills.append(result["ms_after_kill"])
            print("\n".join(told[:8]))
        cluster.wait_done()
        paths = payload_paths(cluster)
        rows = cluster.steps(job)
    off = tail_mean(rows) / tail_mean(whole) - 1
    first = max(abs(a / b - 1) for a, b in zip(losses(rows)[:5], losses(whole)[:5]))
    result = {"steps": job["steps"], "ms_after_kill": kills, "payload": paths,
              "first_five_losses_off": first,
              "mean_loss_of_last_50": {"stages": tail_mean(rows), "one_stage": tail_mean(whole)}}
    good = (len(rows) == job["steps"] and abs(off) <= 0.01 and first <= 1e-3
            and paths_good(paths, count, 4))
    return result, good


def snapshots(bundle, data, count, rounds):
    """In turns, so that a device that warms up favours neither."""
    lanes = max(2, count)
    with_, without, captured, paths = [], [], [], set()
    for turn in range(2 * rounds):
        policy = "dense" if turn % 2 else "none"
        job = make_job("snapshots", LARGE, 120, lanes, 1, 16 if count > 1 else 8, policy)
        with Cluster(bundle, lanes, "28GiB" if policy == "dense" else "1GiB") as cluster:
            cluster.submit(job, data)
            cluster.wait_done()
            rows = cluster.steps(job)[20:]
            paths.update(payload_paths(cluster))
            (with_ if turn % 2 else without).append(statistics.median(r["seconds"] for r in rows))
            if policy == "dense":
                captured.append(measured(cluster, rows))
    ratio = statistics.median(with_) / statistics.median(without)
    return {"steps": job["steps"], "lanes": lanes, "payload": sorted(paths),
            "step_ms_without": [1e3 * s for s in without],
            "step_ms_with_dense": [1e3 * s for s in with_], "ratio": ratio, "captures": captured}, (
                ratio <= 1.05 and rates_good(captured) and paths_good(sorted(paths), count, lanes))


def rates_good(captured):
    """Every node of every round captured, at 50 GB a second at least."""
    rates = [told[node].get("captured_gb_per_second", 0)
             for told in captured for node in told if node.startswith("node-")]
    return bool(rates) and min(rates) >= 50


def measured(cluster, rows):
    told = {}
    for node in cluster.nodes:
        told[node] = {name: cluster.metric(f"holdfast_{name}", node) for name in (
            "snapshot_captured_bytes_total", "snapshot_capture_seconds_total",
            "snapshot_stall_seconds_total", "snapshots_skipped_total")}
        total, seconds = (told[node][f"snapshot_{n}_total"] for n in ("captured_bytes", "capture_seconds"))
        if total and seconds:
            told[node]["captured_gb_per_second"] = total / seconds / 1e9
    told["longest_stall_seconds"] = max((row.get("stall_seconds") or 0) for row in rows)
    told["longest_step_seconds"] = max(row["seconds"] for row in rows)
    return told


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="accuracy,kill,eight,stages,snapshots")
    parser.add_argument("--out", help="write the results there as JSON")
    parser.add_argument("--data", help="a token file; without it one is made of /usr/include")
    parser.add_argument("--kill-steps", type=int, default=600, help="of the part `kill`")
    parser.add_argument("--rounds", type=int, default=2, help="of the part `snapshots`")
    parser.add_argument("--commit", type=commit_id, required=True, help="that the bundle was built from")
    parser.add_argument("bundle")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hf-data-") as folder:
        data = arguments.data or f"{folder}/text.tokens"
        if not arguments.data:
            subprocess.run([f"{arguments.bundle}/bin/holdfastctl", "data", "prepare", "/usr/include",
                            "--out", data, "--max-size", "16MiB"], check=True)
        return run(arguments, parser, pathlib.Path(data).absolute())


def run(arguments, parser, data):
    found = devices()
    benches = {"accuracy": lambda: accuracy(arguments.bundle, data),
               "kill": lambda: kill(arguments.bundle, data, len(found), arguments.kill_steps),
               "eight": lambda: eight(arguments.bundle, data, len(found)),
               "stages": lambda: stages(arguments.bundle, data, len(found)),
               "snapshots": lambda: snapshots(arguments.bundle, data, len(found), arguments.rounds)}
    results = {"bench": "cluster.py", "devices": found, "commit": arguments.commit}
    failed, parts = [], arguments.only.split(",")
    for name in parts:
        if name not in benches:
            parser.error(f"no such part: {name}; there are {', '.join(benches)}")
    for name in parts:
        begun = time.monotonic()
        try:
            results[name], good = benches[name]()
        except Failed as error:
            results[name], good = {"failed": str(error)}, False
        results[name]["good"] = good
        failed += [] if good else [name]
        print(f"{name}: {'good' if good else 'NOT GOOD'}, {time.monotonic() - begun:.0f} s\n"
              f"{json.dumps(results[name], indent=1)}", flush=True)
        if arguments.out:
            pathlib.Path(arguments.out).write_text(json.dumps(results, indent=1) + "\n")
    if failed:
        print(f"not good: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
