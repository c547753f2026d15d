"""Runs one contender once: ``python -m speed CONTENDER WORKLOAD DEVICES ROUNDS``."""

import importlib
import json
import sys

contender, workload, devices, rounds = sys.argv[1:]
run = importlib.import_module(f"speed.{contender}").run
seconds = run(workload, int(devices), int(rounds))
if seconds:
    print("seconds", json.dumps(seconds), flush=True)
