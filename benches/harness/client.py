"""Checks inside an attached client, and Revokes that wait for many of them."""

import json
import subprocess
import time

from .measure import median
from .servers import Keyward, Postgres, ROOT_KEY, seeded, settle

LEASE_SECONDS = 2.0
MARGIN_SECONDS = 0.5


def client(workspace, driver, binaries, arguments, report):
    """Verify in the caller's memory beside calls; Revoke beside attached clients; what they cost the replica."""
    postgres = Postgres(workspace, durable=True)
    name, bodies, bearer = seeded(workspace, postgres, binaries, arguments.keys)
    url = f"{postgres.url}/{name}"
    checks(driver, binaries, arguments, report, Keyward(workspace, binaries.keyward, url), bodies, bearer)

    replicas = [Keyward(workspace, binaries.keyward, url) for _ in range(3)]
    settle()
    rows = []
    shapes = [(replicas, arguments.clients // 10), (replicas[:1], arguments.clients)]
    for servers, each in shapes:
        rows.append(revokes(driver, binaries, arguments, report, servers, each))
    report.text("### Revoke beside attached clients that hold the key, three replicas, fsync on")
    report.table(
        ["replicas with clients", "clients of each", "Revoke p50 ms", "p99 ms", "longest ms", "alone p50 ms", "alone p99 ms",
         "CPU of a replica while they are attached", "MiB for them"],
        rows,
    )
    hung(driver, binaries, arguments, report, replicas)


def checks(driver, binaries, arguments, report, server, bodies, bearer):
    """Verify from memory beside calls."""
    results = []
    for number in range(arguments.rounds):
        found = run(driver, binaries, "checks", "--addr", server.grpc, "--bearer", bearer, "--bodies", bodies,
                    "--samples", int(12_500 * arguments.seconds))
        report.log({"part": "client checks", "round": number, **found})
        results.append({f"{what} {at}": found[what][at] for what in SHAPES for at in ("p50", "p99", "p999")}
                       | {"calls_while_timed": found["calls_while_timed"], "bytes": found["bytes"]})
    server.stop()
    rows = [[label, *(median(results, f"{what} {at}") / 1e3 for at in ("p50", "p99", "p999"))] for what, label in SHAPES.items()]
    report.text(f"### Verify in an attached client, {arguments.keys:,} keys in memory, beside calls of the same process")
    report.table(["check", "p50 µs", "p99 µs", "p99.9 µs"], rows)
    kept = median(results, "bytes") / arguments.keys
    report.text(f"{kept:,.0f} bytes a key are counted. Checks that were calls while memory was timed: "
                f"{int(median(results, 'calls_while_timed'))}.")
    random, hot = median(results, "random p50"), median(results, "hot p50")
    report.target("p50 over all keys in random order, ns", random, random <= 1_000, "at most 1,000")
    report.target("p50 of one hot key, ns", hot, hot <= 300, "at most 300")


SHAPES = {
    "call": "a call, one at a time",
    "hot": "memory, one key",
    "random": "memory, all keys in random order",
    "hot_together": "memory, one key, threads at once",
    "random_together": "memory, all keys, threads at once",
}


def revokes(driver, binaries, arguments, report, servers, each):
    """Revokes beside clients of these replicas."""
    server = servers[0]
    rss = server.rss()
    command = driver.command([binaries.client, "revokes", "--addr", *(server.grpc for server in servers), "--bearer", ROOT_KEY,
                              "--clients", each, "--count", arguments.revokes])
    process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    attached = json.loads(process.stdout.readline() or "{}")
    if attached.get("live") != each * len(servers):
        process.kill()
        raise RuntimeError(f"{each * len(servers)} clients should be attached: {attached}")
    time.sleep(1)
    cpu, began = server.cpu(), time.monotonic()
    time.sleep(max(2.0, arguments.seconds))
    cpu = (server.cpu() - cpu) / (time.monotonic() - began)
    grown = server.rss() - rss
    text, _ = process.communicate("go\n")
    if process.returncode != 0:
        raise RuntimeError(f"the clients ended with {process.returncode}")
    found = json.loads(text)
    report.log({"part": "client revokes", "replicas": len(servers), "each": each, "cpu": cpu, "grown": grown, **found})
    if found["live"] != each * len(servers):
        report.text(f"Only {found['live']} of {each * len(servers)} clients might answer when a Revoke began.")
    settle()
    ms = lambda what, at: found[what][at] / 1e6
    return [len(servers), each, ms("revoke", "p50"), ms("revoke", "p99"), ms("revoke", "max"), ms("alone", "p50"),
            ms("alone", "p99"), f"{cpu:.1%} of a core", grown / 2**20]


def hung(driver, binaries, arguments, report, replicas):
    """Revokes beside one client that reads and acknowledges nothing."""
    found = run(driver, binaries, "revokes", "--addr", replicas[0].grpc, "--bearer", ROOT_KEY, "--clients", 0, "--count", 1,
                "--hung", 5)
    report.log({"part": "client hung", **found})
    longest = found["hung"]["max"] / 1e9
    bound = LEASE_SECONDS + MARGIN_SECONDS
    report.target("seconds of a Revoke beside a hung client, the longest of 5", longest, longest <= bound + 0.1,
                  f"at most {bound}: the lease and the margin")


def run(driver, binaries, *arguments):
    """Runs a command to its end; the last line that it prints."""
    command = driver.command([binaries.client, *arguments])
    done = subprocess.run(command, text=True, input="go\n", stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])
