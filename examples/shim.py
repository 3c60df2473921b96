#!/usr/bin/env python3
"""A shim: starts example-receiver for the conformance suite, and looks into it.

    multifd conformance receiver 'shim:examples/shim.py ./example-receiver'

Questions come as lines of JSON on stdin, answers go as lines of JSON to stdout; README.md tells
which there are. Yours would start, watch and stop your implementation in place of this one.
"""

import json
import os
import subprocess
import sys

SIZE = 1 << 20
process = memory = reason = None


def describe():
    """Tell what is tested, and what can be seen of it."""
    return {"product": "example-receiver", "version": "1", "dialect": "11.1",
            "blocks": {"ram0": SIZE}, "memory": True, "state": True, "reason": True}  # fmt: skip


def receive(channels, uuid, **_):
    """Await a migration."""
    global process, memory, reason
    memory = os.memfd_create("guest")  # a file that needs no cleaning up
    os.truncate(memory, SIZE)
    command = [sys.argv[1], "--memory", f"/proc/{os.getpid()}/fd/{memory}"]
    command += ["--channels", str(channels), "--uuid", uuid]
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *command],  # it ends with us, however we end
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    reason = ""
    said = process.stdout.readline()  # "receiver: listens on port 40123"
    return {"address": f"tcp:127.0.0.1:{said.split()[-1]}"}


def read(offset, length, **_):
    """Return guest memory, as it is now."""
    return {"hex": os.pread(memory, length, offset).hex()}


def state():
    """Tell how the migration goes."""
    global reason
    if process.poll() is None:
        return {"state": "running"}
    reason = reason or process.stderr.read().strip()
    return {"state": "failed" if process.returncode else "completed", "reason": reason}


def stop():
    """End it, whatever its state."""
    process.kill()
    process.communicate()
    os.close(memory)
    return {}


ANSWERS = {"describe": describe, "receive": receive, "read": read, "state": state, "stop": stop}

for line in sys.stdin:
    question = json.loads(line)
    answer = ANSWERS.get(question.pop("do"))
    json.dump(answer(**question) if answer else {"unsupported": True}, sys.stdout)
    sys.stdout.write("\n")
    sys.stdout.flush()
