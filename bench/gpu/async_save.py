#!/usr/bin/env python3
"""What torch.distributed.checkpoint.async_save costs for the same bytes as our snapshots: how long it
holds up training, and until it is done. One process per accelerator, each with its
part of the bytes, into a folder in memory.

    async_save.py [--total-gb 5.6] [--rounds 2] [--dir /dev/shm/hf-async] [--out FILE]
"""
import argparse
import json
import os
import shutil
import statistics
import time

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp


def rank_main(rank, ranks, arguments, told):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29531")
    torch.cuda.set_device(rank)
    dist.init_process_group("cpu:gloo,cuda:nccl", rank=rank, world_size=ranks,
                            device_id=torch.device("cuda", rank))
    tensor_bytes = 64 << 20
    count = int(arguments.total_gb * 1e9 / ranks) // tensor_bytes
    state = {f"shard.{rank}.{i}": torch.randn(tensor_bytes // 4, device="cuda") for i in range(count)}
    rows = []
    for turn in range(arguments.rounds):
        folder = f"{arguments.dir}/{turn}"
        torch.cuda.synchronize()
        dist.barrier()
        begun = time.monotonic()
        pending = dcp.async_save(state, checkpoint_id=folder)
        blocked = time.monotonic() - begun
        pending.result()
        rows.append({"bytes": count * tensor_bytes, "blocks_seconds": blocked,
                     "done_seconds": time.monotonic() - begun})
        dist.barrier()
        if rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
    told[rank] = rows
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--total-gb", type=float, default=5.6, help="of all processes")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dir", default="/dev/shm/hf-async")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    ranks = torch.cuda.device_count()
    try:
        with mp.Manager() as manager:
            told = manager.dict()
            mp.spawn(rank_main, args=(ranks, arguments, told), nprocs=ranks)
            rows = [row for rank in range(ranks) for row in told[rank]]
    finally:
        shutil.rmtree(arguments.dir, ignore_errors=True)
    result = {"bench": "torch.distributed.checkpoint.async_save", "torch": torch.__version__,
              "device": torch.cuda.get_device_name(0), "ranks": ranks, "rows": rows,
              "median_blocks_seconds": statistics.median(r["blocks_seconds"] for r in rows),
              "median_done_seconds": statistics.median(r["done_seconds"] for r in rows)}
    print(json.dumps(result))
    if arguments.out:
        with open(arguments.out, "w", encoding="utf-8") as file:
            file.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
