#!/usr/bin/python3
"""Runs the workflow of docs/pipeline.md as its runner would: the steps in order under bash, with expressions, outputs,
masks, conditions and the job's time limit. Knows what that page uses and refuses the rest.

usage: run.py PAGE RUN SECONDS INPUT=VALUE...

The working directory is the job's workspace; RUN is the id of the run; SECONDS stand for the job's `timeout-minutes`,
and begin with its third step: how far a run comes is not to depend on the machine's speed. Prints a JSON line a step:
{"step", "outcome": success | failure | cancelled | skipped, "code", "log"}. Exits 0 where all went well, else 1.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

import yaml

MARK = "<!-- A test runs this workflow. -->\n```yaml\n"


def workflow(page):
    with open(page, encoding="utf-8") as file:
        block = file.read().split(MARK)[1].split("\n```")[0]
    return yaml.safe_load(block)


class Job:
    """A job's contexts, and how it stands."""

    def __init__(self, name, body, run, inputs):
        self.contexts = {"inputs": inputs, "github": {"run_id": run, "run_attempt": "1", "job": name}, "steps": {}}
        self.state = "success"
        self.masks = []
        self.env = {key: self.text(value) for key, value in body.get("env", {}).items()}
        # Evaluated at a real runner too, where a mistake in it ends the run before it begins.
        self.text(body.get("concurrency", ""))

    def value(self, path):
        at = self.contexts
        for part in path.split("."):
            # What is not there is empty, as at a real runner.
            at = at.get(part, "") if isinstance(at, dict) else ""
        return at

    def text(self, text):
        """`text` with its `${{ }}` expressions replaced."""
        return re.sub(r"\$\{\{\s*([a-z_.]+)\s*\}\}", lambda found: str(self.value(found[1])), str(text))

    def may_run(self, condition):
        """A conjunction of always() and comparisons with a string; success() where there is neither."""
        if condition is None:
            return self.state == "success"
        terms = [term.strip() for term in str(condition).split("&&")]
        held = "always()" in terms or self.state == "success"
        for term in terms:
            if term == "always()":
                continue
            found = re.fullmatch(r"([a-z_.]+)\s*(!=|==)\s*'([^']*)'", term)
            if not found:
                raise SystemExit(f"not understood: if: {condition}")
            held = held and (str(self.value(found[1])) != found[3]) == (found[2] == "!=")
        return held

    def masked(self, log):
        for mask in self.masks:
            log = log.replace(mask, "***")
        return log

    def run(self, step, deadline):
        """Outcome, exit code and log of one step."""
        with tempfile.TemporaryDirectory() as folder:
            script, output = os.path.join(folder, "script.sh"), os.path.join(folder, "output")
            for path, text in ((script, self.text(step["run"])), (output, "")):
                with open(path, "w", encoding="utf-8") as file:
                    file.write(text)
            env = os.environ | self.env | {"GITHUB_OUTPUT": output, "CI": "true"}
            env |= {key: self.text(value) for key, value in step.get("env", {}).items()}
            with subprocess.Popen(
                ["bash", "-e", script],
                env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, start_new_session=True,
            ) as process:
                outcome = None
                try:
                    log, _ = process.communicate(timeout=None if deadline is None else max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGTERM)
                    log, _ = process.communicate()
                    outcome = "cancelled"
            with open(output, encoding="utf-8") as file:
                pairs = [line.rstrip("\n").split("=", 1) for line in file]
            if "id" in step:
                self.contexts["steps"][step["id"]] = {"outputs": dict(pairs)}
        self.masks += [line[len("::add-mask::"):] for line in log.splitlines() if line.startswith("::add-mask::")]
        shown = "\n".join(line for line in log.splitlines() if not line.startswith("::add-mask::"))
        return outcome or ("success" if process.returncode == 0 else "failure"), process.returncode, self.masked(shown)


def main():
    page, run, seconds, *pairs = sys.argv[1:]
    flow = workflow(page)
    inputs = dict(pair.split("=", 1) for pair in pairs)
    # YAML 1.1 reads the key `on` as true.
    asked = flow[True]["workflow_dispatch"]["inputs"]
    if set(asked) != set(inputs):
        raise SystemExit(f"the workflow asks for {sorted(asked)}")
    ((name, body),) = flow["jobs"].items()
    assert body["timeout-minutes"] > 0
    job = Job(name, body, run, inputs)
    deadline = None
    for number, step in enumerate(body["steps"]):
        if number == 2:
            deadline = time.monotonic() + float(seconds)
        said = {"step": step["name"], "outcome": "skipped", "code": None, "log": ""}
        if job.may_run(step.get("if")):
            # Once the job's time is over, what runs always is no longer cut.
            limit = deadline if job.state == "success" else None
            said["outcome"], said["code"], said["log"] = job.run(step, limit)
            if said["outcome"] != "success" and job.state == "success":
                job.state = said["outcome"]
        print(json.dumps(said), flush=True)
    sys.exit(0 if job.state == "success" else 1)


if __name__ == "__main__":
    main()
