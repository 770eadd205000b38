"""A cluster of daemons on this machine, driven through holdfastctl: what the GPU benchmarks of whole
clusters share. Everything it starts it ends."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time

LIMIT_S = 240  # of any one wait


class Failed(Exception):
    pass


def toml(job):
    """A job file of a dict; tables last."""
    lines, tables = [], []
    for key, value in job.items():
        if isinstance(value, dict):
            tables.append(f"\n[{key}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in value.items()))
        else:
            lines.append(f"{key} = {json.dumps(value)}\n")
    return "".join(lines + tables)


class Cluster:
    def __init__(self, bundle, nodes, arena):
        self.ctl = str(pathlib.Path(bundle) / "bin" / "holdfastctl")
        self.nodes = [f"node-{i}" for i in range(nodes)]
        self.arena = arena
        self.dir = tempfile.mkdtemp(prefix="hf-")

    def __enter__(self):
        try:
            self.run("playground", "--nodes", str(len(self.nodes)), "--dir", self.dir, "--detach",
                     "--arena", self.arena)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None:
            self.tell_logs()
        subprocess.run([self.ctl, "playground", "stop", "--dir", self.dir], capture_output=True,
                       timeout=60, check=False)
        shutil.rmtree(self.dir, ignore_errors=True)

    def tell_logs(self):
        for log in sorted(pathlib.Path(self.dir).glob("node-*/**/*.log")):
            if "catalog" in log.parts:
                continue
            print(f"--- {log}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-8:]))

    def run(self, *arguments, node="node-0"):
        command = [self.ctl, *arguments]
        environment = dict(os.environ, HOLDFAST_SOCKET=f"{self.dir}/{node}/control.sock")
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment,
                              check=False)
        if done.returncode != 0:
            raise Failed(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *arguments, node="node-0"):
        return json.loads(self.run(*arguments, "-o", "json", node=node))

    def submit(self, job, data):
        file = pathlib.Path(self.dir) / "job.toml"
        file.write_text(toml(job))
        self.run("job", "submit", str(file), "--data", str(data))

    def job(self):
        return self.get("status")["job"] or {}

    def wait(self, what, condition):
        end = time.monotonic() + LIMIT_S
        while not condition():
            job = self.job()
            if job.get("state") in ("failed", "done", "stopped"):
                if condition():
                    return
                raise Failed(f"while waiting for {what}: job {job['state']}: {job['detail']}")
            if time.monotonic() > end:
                raise Failed(f"not within {LIMIT_S} s: {what}; {job}")
            time.sleep(0.05)

    def wait_step(self, step):
        self.wait(f"step {step}", lambda: self.job().get("step", 0) >= step)

    def wait_done(self):
        self.wait("the end of the job", lambda: self.job().get("state") == "done")

    def events(self, since=0):
        return [e for e in self.get("events", "--limit", "100000") if e["sequence"] > since]

    def steps(self, job):
        return self.get("job", "steps", job["name"], "--limit", "10000")

    def kill_worker(self, node):
        """SIGKILL to the worker of a node; returns when, in ms since 1970."""
        workers = self.get("status", node=node)["local"]["workers"]
        pids = [w["pid"] for w in workers if w["pid"]]
        if not pids:
            raise Failed(f"{node} runs no worker")
        at = time.time() * 1e3
        os.kill(pids[0], signal.SIGKILL)
        return at

    def metric(self, name, node):
        """Of one node's /metrics; None where it has none of that name."""
        text = subprocess.run(
            ["curl", "-s", "--max-time", "10", "--unix-socket", f"{self.dir}/{node}/control.sock",
             "http://localhost/metrics"], capture_output=True, text=True, check=True).stdout
        found = re.search(rf"^{name} (\S+)$", text, re.M)
        return float(found.group(1)) if found else None

    def worker_logs(self, pattern):
        found = []
        for log in sorted(pathlib.Path(self.dir).glob("node-*/state/worker-0.log")):
            found += [line for line in log.read_text(errors="replace").splitlines()
                      if re.search(pattern, line)]
        return found
