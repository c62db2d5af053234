"""Drives servers in turns and compares the results."""

import json
import re
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

from .servers import Keyward, settle

# Connections x calls in flight on each.
SHAPES = [(8, 16), (32, 1), (1, 8), (1, 64)]

# A prime, so that keys are used in another order than they were created in: keys that are neighbours in a table or in
# memory are then not used one after the other.
STRIDE = 61_967


class Driver:
    """Runs the load on its own cores."""

    def __init__(self, workspace, binaries, seconds):
        self.workspace = workspace
        self.binaries = binaries
        self.seconds = seconds
        self.rates = {}

    def command(self, arguments):
        return ["taskset", "-c", self.workspace.load_cores, *map(str, arguments)]

    def load(self, server, kind, bodies, **options):
        """Runs the project's own load and returns its results. Options are its flags."""
        options = {"seconds": self.seconds, "pid": server.pid, "bearer": server.bearer, "stride": STRIDE, **options}
        flags = []
        for name, value in options.items():
            if value is not None and value is not False:
                flags += ["--" + name.replace("_", "-")] + ([] if value is True else [str(value)])
        arguments = [self.binaries.load, kind, "--addr", server.grpc, "--bodies", bodies, *flags]
        done = subprocess.run(self.command(arguments), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")
        return json.loads(done.stdout)

    def unary(self, server, bodies, shape, **options):
        connections, streams = shape
        return self.load(server, "unary", bodies, connections=connections, streams=streams, **options)

    def h2load(self, server, bodies, shape):
        """Runs h2load for about `seconds`. It sends only one body, so one process runs for each of several bodies."""
        connections, streams = shape
        files = split(self.workspace, bodies, min(4, connections))
        key = (server.pid, shape)
        sent = 0
        if key not in self.rates:
            # Short runs estimate how many calls take that long.
            calls = 1_000
            for _ in range(2):
                tried = self.h2load_once(server, files, shape, calls)
                sent += tried["sent"]
                self.rates[key] = tried["rate"]
                calls = max(1_000, int(tried["rate"] * min(0.5, self.seconds)))
        found = self.h2load_once(server, files, shape, max(1_000, int(self.rates[key] * self.seconds)))
        self.rates[key] = found["rate"]
        return {**found, "sent": sent + found["sent"]}

    def h2load_once(self, server, files, shape, calls):
        connections, streams = shape
        bearer = ["-H", f"authorization: Bearer {server.bearer}"] if server.bearer else []
        bearer = bearer or ["-H", "authorization: Bearer " + "k" * 43]
        each = calls // len(files)
        cpu, began = server.cpu(), time.monotonic()
        runs = []
        for file in files:
            log = self.workspace.new("log")
            arguments = ["h2load", "-n", each, "-c", connections // len(files), "-m", streams, "-t", 1, "-d", file]
            arguments += ["-H", "content-type: application/grpc", "-H", "te: trailers", *bearer]
            arguments += [f"--log-file={log}", f"http://{server.grpc}/keyward.v1.KeyService/Verify"]
            runs.append((log, subprocess.Popen(self.command(arguments), text=True, stdout=subprocess.PIPE)))
        texts = [run.communicate()[0] for _, run in runs]
        took, cpu = time.monotonic() - began, server.cpu() - cpu
        micros = sorted(int(line.split("\t")[2]) for log, _ in runs for line in open(log))
        for log, _ in runs:
            log.unlink()
        good = sum(int(re.search(r"status codes: (\d+) 2xx", text)[1]) for text in texts)
        if good != each * len(files) or len(micros) != good:
            raise RuntimeError(f"h2load: {good} of {each * len(files)} calls were answered\n{texts[0]}")
        at = lambda share: micros[min(len(micros) - 1, int(len(micros) * share))]
        return {
            "calls": good,
            "sent": good,
            "seconds": took,
            "rate": good / took,
            "p50_us": at(0.5),
            "p99_us": at(0.99),
            "server_cpu_us": cpu * 1e6 / good,
        }

    def warm(self, server, bodies, **options):
        """Verifies every key once, so that memory holds all of them."""
        return self.unary(server, bodies, (8, 16), once=True, warmup=0, seconds=600, **options)


def split(workspace, bodies, count):
    """Writes the first frames of a file into files of their own."""
    files = [bodies.with_name(f"{bodies.name}.{number}") for number in range(count)]
    with open(bodies, "rb") as source:
        for file in files:
            header = source.read(5)
            if not file.exists():
                file.write_bytes(header + source.read(int.from_bytes(header[1:], "big")))
    return files


def counted(server, act):
    """Runs a load. Keyward must have counted each of its calls as VALID."""
    if not isinstance(server, Keyward):
        return act()
    before = server.verdicts("VALID")
    found = act()
    valid = server.verdicts("VALID") - before
    if valid != found["sent"]:
        raise RuntimeError(f"{found['sent']} calls were made and {valid} VALID verdicts counted")
    found["valid"] = valid
    return found


def in_turns(rounds, runs, log):
    """Runs each of the named runs once per round, in an order that is reversed each time; returns all results by name."""
    results = {name: [] for name in runs}
    for number in range(rounds):
        names = list(runs) if number % 2 == 0 else list(reversed(runs))
        for name in names:
            found = runs[name]()
            results[name].append(found)
            log({"round": number, "run": name, **found})
            settle()
    return results


def median(results, field):
    values = [result[field] for result in results if result.get(field) is not None]
    return statistics.median(values) if values else float("nan")


def ratio(ours, others, field):
    """The median of the ratios within each round."""
    ratios = [a[field] / b[field] for a, b in zip(ours, others) if a.get(field) and b.get(field)]
    return statistics.median(ratios) if ratios else float("nan")


def together(*acts):
    """Runs several loads at once and returns their results."""
    with ThreadPoolExecutor(len(acts)) as pool:
        return [future.result() for future in [pool.submit(act) for act in acts]]
