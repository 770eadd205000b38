#!/usr/bin/env python3
"""The scripts of the GPU benchmarks: what they refuse, what they call good, and that results are of the
run that reports them. Programs that need an accelerator are stood in for."""
import argparse
import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

ROOT = pathlib.Path(__file__).resolve().parents[2]
GPU = ROOT / "bench" / "gpu"
sys.dont_write_bytecode = True
sys.path.insert(0, str(GPU))
import cluster  # noqa: E402

# Writes a row to the file that --out names.
PROGRAM = """#!/bin/sh
for last; do [ "$before" = --out ] && echo '[{"model": "m", "tokens_per_second": 1000, "dropped_fraction": 0}]' >"$last"
before=$last; done
"""
CHECK = """#!/bin/sh
echo "[  PASSED  ] 1 test: $HOLDFAST_SOURCE_DIR $HOLDFAST_PYTHON $HOLDFAST_NEED_DEVICES"
exit ${HOLDFAST_FAKE_CODE:-0}
"""


class RunSh(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.root = pathlib.Path(self.folder.name)
        self.out = self.root / "out"
        self.script("path/nvidia-smi", "#!/bin/sh\necho 'H, 1'\necho 'H, 1'\n")
        # No torch, and clusters are not started.
        self.script("path/python3", f"""#!/bin/sh
case "$*" in
  *import*) exit 1 ;;
  *cluster.py*) exec {self.root}/bin/cluster "$@" ;;
esac
exec {sys.executable} "$@"
""")
        for name in ("step_bench", "pipeline_bench", "cluster"):
            self.script(f"bin/{name}", PROGRAM)
        self.script("bin/a_cuda_test", CHECK)

    def script(self, name, text):
        file = self.root / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)

    def run_sh(self, *arguments, **environment):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
        kept["PATH"] = f"{self.root}/path:{kept['PATH']}"
        return subprocess.run([str(GPU / "run.sh"), "--out", str(self.out), *arguments, str(self.root)],
                              capture_output=True, text=True, env=dict(kept, **environment), check=False)

    def results(self):
        return json.loads((self.out / "results.json").read_text())

    def test_a_misspelt_part_is_refused(self):
        for only in ("step", "steps,clutsers", ""):
            done = self.run_sh("--commit", "c92e2b5", "--only", only)
            self.assertEqual(done.returncode, 2, done.stdout)
            self.assertIn("part", done.stderr)
            self.assertFalse(self.out.exists())

    def test_results_without_a_commit_are_refused(self):
        for arguments in ((), ("--commit", "unknown"), ("--commit", "gpustages")):
            done = self.run_sh("--only", "clusters", *arguments)
            self.assertEqual(done.returncode, 2, done.stdout)
            self.assertIn("hexadecimal", done.stderr)

    def test_checks_know_where_the_sources_are_and_how_many_devices_there_must_be(self):
        done = self.run_sh("--only", "checks")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(f"1 test: {ROOT} python3 2", done.stdout)
        done = self.run_sh("--only", "checks", HOLDFAST_SOURCE_DIR="/elsewhere", HOLDFAST_PYTHON="p")
        self.assertIn("1 test: /elsewhere p 2", done.stdout)

    def test_a_check_that_fails_ends_it_and_one_that_is_skipped_does_not(self):
        self.assertEqual(self.run_sh("--only", "checks", HOLDFAST_FAKE_CODE="77").returncode, 0)
        done = self.run_sh("--only", "checks", HOLDFAST_FAKE_CODE="1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("a_cuda_test failed", done.stderr)

    def test_every_part_is_reported(self):
        done = self.run_sh("--commit", "c92e2b5")
        self.assertEqual(done.returncode, 0, done.stderr)
        found = self.results()
        self.assertEqual(found["devices"], ["H, 1", "H, 1"])
        for part in ("holdfast", "holdfast_capacity", "holdfast_stages", "clusters"):
            self.assertTrue(found[part], part)
        self.assertIn("1,000", done.stdout)

    def test_clusters_alone_are_reported_and_old_files_are_not(self):
        self.run_sh("--commit", "c92e2b5")
        done = self.run_sh("--commit", "abcdef0", "--only", "clusters")
        self.assertEqual(done.returncode, 0, done.stderr)
        found = self.results()
        self.assertEqual((found["commit"], found["parts"]), ("abcdef0", ["clusters"]))
        self.assertTrue(found["clusters"])
        self.assertNotIn("holdfast", found)
        self.assertNotIn("steps", found)
        self.assertTrue((self.out / "step_bench.json").exists())

    def test_what_failed_is_told_and_leaves_nothing_of_an_earlier_run(self):
        self.run_sh("--commit", "c92e2b5")
        self.script("bin/cluster", "#!/bin/sh\nexit 1\n")
        done = self.run_sh("--commit", "abcdef0", "--only", "steps,clusters")
        self.assertEqual(done.returncode, 1)
        self.assertIn("failed: python3", done.stderr)
        self.assertIsNone(self.results()["clusters"])
        self.assertTrue(self.results()["holdfast"])


NCCL = "payload goes from device to device by NCCL 2.28.9"
TESTING = "FOR TESTING ONLY: payload goes through host memory, since lanes 0 and 1 share one accelerator"


class Verdicts(unittest.TestCase):
    def test_the_warning_is_kept(self):
        self.assertEqual(cluster.path_of(f"[12:00] [info] {TESTING}"), TESTING)
        self.assertEqual(cluster.path_of(f"[12:00] [info] {NCCL}"), NCCL)

    def test_a_fall_back_is_not_good_where_every_worker_has_a_device(self):
        self.assertTrue(cluster.paths_good([NCCL], 2, 2))
        self.assertTrue(cluster.paths_good([NCCL], 8, 4))
        self.assertFalse(cluster.paths_good([TESTING], 2, 2))
        self.assertFalse(cluster.paths_good([TESTING, NCCL], 2, 2))
        self.assertFalse(cluster.paths_good([], 2, 2))
        self.assertFalse(cluster.paths_good(["payload goes by pigeon"], 2, 2))

    def test_workers_that_share_a_device_must_say_so(self):
        self.assertTrue(cluster.paths_good([TESTING], 1, 2))
        self.assertTrue(cluster.paths_good([TESTING, NCCL], 2, 4))
        self.assertFalse(cluster.paths_good([NCCL], 1, 2))
        self.assertFalse(cluster.paths_good([], 1, 2))

    def test_a_node_that_captured_nothing_is_not_good(self):
        fast, slow = {"captured_gb_per_second": 53.0}, {"captured_gb_per_second": 35.0}
        both = {"longest_stall_seconds": 0, "node-0": fast, "node-1": fast}
        self.assertTrue(cluster.rates_good([both, both]))
        self.assertFalse(cluster.rates_good([both, {"node-0": fast, "node-1": slow}]))
        self.assertFalse(cluster.rates_good([both, {"node-0": fast, "node-1": {}}]))
        self.assertFalse(cluster.rates_good([{"longest_stall_seconds": 0}]))
        self.assertFalse(cluster.rates_good([]))

    def test_a_misspelt_part_measures_nothing(self):
        parser = argparse.ArgumentParser()
        arguments = argparse.Namespace(only="kill,snapshot", bundle="none", kill_steps=1, rounds=1,
                                       commit="c92e2b5", out=None)
        with mock.patch.object(cluster, "devices", lambda: ["H"]), \
                mock.patch.object(cluster, "kill", self.fail), \
                contextlib.redirect_stderr(io.StringIO()) as told, self.assertRaises(SystemExit):
            cluster.run(arguments, parser, None)
        self.assertIn("no such part: snapshot;", told.getvalue())

    def test_a_commit_is_hexadecimal(self):
        self.assertEqual(cluster.commit_id("c92e2b5"), "c92e2b5")
        for text in ("unknown", "gpustages", "c92", ""):
            with self.assertRaises(argparse.ArgumentTypeError):
                cluster.commit_id(text)


if __name__ == "__main__":
    unittest.main()
