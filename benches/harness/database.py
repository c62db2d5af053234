"""The parts that need the database: cache misses, a flood of forged keys, creations and revocations."""

import subprocess
from pathlib import Path

from .measure import in_turns, median, ratio, together
from .servers import Keyward, Naive, Postgres, ROOT_KEY, seeded, settle

CREATE = "/keyward.v1.KeyService/Create"
REVOKE = "/keyward.v1.KeyService/Revoke"
# The first bytes of a response whose first field is a Key.
KEY = "0a"
# The first bytes of a MALFORMED verdict.
MALFORMED = "0802"


def forgeries(workspace, binaries, count):
    """Writes requests with secrets whose checksum is wrong."""
    out = workspace.new("forged")
    subprocess.run([binaries.load, "forge", "--count", str(count), "--out", str(out)], check=True)
    return out


def cold(workspace, driver, binaries, arguments, report):
    """Calls that all miss the cache, beside a service that queries the database each time."""
    postgres = Postgres(workspace)
    name, bodies, bearer = seeded(workspace, postgres, binaries, arguments.many)
    url = f"{postgres.url}/{name}"
    naive = Naive(workspace, binaries.naive, url)
    naive.bearer = bearer
    rows = []
    found = {}
    stranger = forgeries(workspace, binaries, 1)

    def fresh():
        """A server whose cache holds only the caller's key."""
        server = Keyward(workspace, binaries.keyward, url, bearer=bearer)
        driver.unary(server, stranger, (1, 1), once=True, expect=MALFORMED, seconds=5, warmup=0)
        return server

    # Each round gets a new server, so that every key is verified once in its life.
    for shape in ((8, 16), (32, 1), (1, 1)):
        def ours():
            server = fresh()
            before = server.metrics()["keyward_cached_keys"]
            result = driver.unary(server, bodies, shape, once=True)
            result["missed"] = int(server.metrics()["keyward_cached_keys"] - before)
            server.stop()
            if result["missed"] != result["sent"]:
                raise RuntimeError(f"{result['sent']} calls, of which {result['missed']} were misses")
            return result

        runs = {"ours": ours, "naive": lambda: driver.unary(naive, bodies, shape, once=True)}
        results = in_turns(arguments.rounds, runs, report.about(part="cold", shape=f"{shape[0]}x{shape[1]}"))
        found[shape] = results
        for label, result in results.items():
            fields = ("rate", "server_cpu_us", "p50_us", "p99_us")
            rows.append([f"{shape[0]} x {shape[1]}", label, *(median(result, field) for field in fields)])
    report.text(f"{arguments.many:,} keys in the database; every call verifies another one that is not in memory.")
    report.table(["shape", "server", "calls/s", "CPU µs/call", "p50 µs", "p99 µs"], rows)
    for shape in ((8, 16), (32, 1)):
        times = ratio(found[shape]["ours"], found[shape]["naive"], "rate")
        report.target(f"{shape[0]} x {shape[1]}: calls/s to the naive twin's", times, times >= 2.0, "at least 2")
    alone = found[(1, 1)]
    added = (median(alone["ours"], "p50_us") - median(alone["naive"], "p50_us")) / 1e3
    report.target("ms added to a lone miss", added, added <= 0.2, "at most 0.2")

    for shape, seconds in (((1, 1), 1), ((8, 16), 1)):
        server = fresh()
        postgres.count_statements()
        result = driver.unary(server, bodies, shape, once=True, seconds=seconds, warmup=0)
        statements, rows_read = postgres.lookups()
        postgres.count_statements(False)
        server.stop()
        report.log({"part": "cold statements", "shape": shape, "statements": statements, "rows": rows_read, **result})
        each = statements / result["sent"]
        if shape == (1, 1):
            report.target("statements for each lone miss", each, each == 1.0, "1")
        else:
            report.text(f"Statements for each miss at 8 x 16: {each:.3f} ({statements:,} for {result['sent']:,})")
    naive.stop()


def forged(workspace, driver, binaries, arguments, report):
    """Honest callers beside a flood of forged keys, and beside as many honest calls."""
    postgres = Postgres(workspace)
    name, bodies, bearer = seeded(workspace, postgres, binaries, arguments.keys)
    flood = forgeries(workspace, binaries, 100_000)
    server = Keyward(workspace, binaries.keyward, f"{postgres.url}/{name}", bearer=bearer)
    driver.warm(server, bodies)
    settle()
    # The best of three: on a busy machine a single run may be far too low.
    most = max(driver.unary(server, bodies, (8, 16))["rate"] for _ in range(3))
    report.log({"part": "forged", "capacity": most})
    honest, beside = most * 0.2, most * 0.4
    # The flood starts a little before the honest calls and ends a little after.
    calls = lambda: driver.unary(server, bodies, (32, 1), rate=honest)
    around = {"rate": beside, "warmup": 0.3, "seconds": driver.seconds + 0.4}
    runs = {
        "alone": calls,
        "beside honest calls": lambda: together(
            calls, lambda: driver.unary(server, bodies, (8, 16), **around))[0],
        "beside forged keys": lambda: together(
            calls, lambda: driver.unary(server, flood, (8, 16), expect=MALFORMED, **around))[0],
    }
    malformed = server.verdicts("MALFORMED")
    postgres.count_statements()
    results = in_turns(arguments.rounds, runs, report.about(part="forged"))
    statements, _ = postgres.lookups()
    malformed = server.verdicts("MALFORMED") - malformed
    rows = [[label, *(median(result, field) for field in ("rate", "p50_us", "p99_us", "p999_us"))]
            for label, result in results.items()]
    report.text(f"Honest callers at {honest:,.0f} calls/s (32 x 1), a fifth of what the server can; beside them two fifths.")
    report.table(["honest callers", "calls/s", "p50 µs", "p99 µs", "p99.9 µs"], rows)
    late = ratio(results["beside forged keys"], results["beside honest calls"], "p99_us")
    report.target("p99 beside forged keys to that beside honest calls", late, late <= 1.5, "at most 1.5")
    report.target(f"look-ups for {malformed:,} forged keys", statements, statements == 0 and malformed > 0, "0")


def writes(workspace, driver, binaries, arguments, report):
    """Creations beside the naive twin on a durable Postgres, and revocations with three replicas."""
    postgres = Postgres(workspace, durable=True)
    name, _, _ = seeded(workspace, postgres, binaries, 1_000)
    url = f"{postgres.url}/{name}"
    creates = workspace.new("creates")
    subprocess.run([binaries.load, "creates", "--count", "1000", "--out", str(creates)], check=True)
    server = Keyward(workspace, binaries.keyward, url, bearer=ROOT_KEY)
    twins = {
        "naive": Naive(workspace, binaries.naive, url),
        "naive, own table": Naive(workspace, binaries.naive, url, own_table=True),
    }
    ids = workspace.new("ids")
    create = {"path": CREATE, "expect": KEY}
    runs = {"ours": lambda: driver.unary(server, creates, (8, 4), ids=ids, **create)}
    for label, twin in twins.items():
        runs[label] = lambda twin=twin: driver.unary(twin, creates, (8, 4), **create)
    results = in_turns(arguments.rounds, runs, report.about(part="create"))
    fields = ("rate", "server_cpu_us", "p50_us", "p99_us")
    rows = [[label, *(median(result, field) for field in fields)] for label, result in results.items()]
    report.text("### Create, 32 clients, fsync on")
    report.table(["server", "creations/s", "CPU µs/call", "p50 µs", "p99 µs"], rows)
    for label in twins:
        share = ratio(results["ours"], results[label], "rate")
        report.target(f"creations/s to those of: {label}", share, share >= 0.8, "at least 0.8")
    for twin in twins.values():
        twin.stop()

    replicas = [server] + [Keyward(workspace, binaries.keyward, url, bearer=ROOT_KEY) for _ in range(2)]
    settle()
    rows = []
    for clients in (1, 8, 32):
        results = []
        for number in range(arguments.rounds):
            driver.unary(server, creates, (8, 4), ids=ids, warmup=0, **create)
            revokes = revocations(workspace, binaries, ids)
            shape = (clients, 1)
            result = driver.unary(server, revokes, shape, path=REVOKE, expect=KEY, once=True, warmup=0)
            results.append(result)
            report.log({"part": "revoke", "clients": clients, "round": number, **result})
        rows.append([clients, *(median(results, field) for field in ("rate", "p50_us", "p99_us", "max_us"))])
    report.text(f"### Revoke, {len(replicas)} healthy replicas, fsync on")
    report.table(["clients", "revocations/s", "p50 µs", "p99 µs", "longest µs"], rows)
    p99 = rows[0][3] / 1e3
    report.target("Revoke's p99 in ms, one at a time", p99, p99 <= 10.0, "10")


def revocations(workspace, binaries, ids: Path):
    """Writes requests that revoke these keys."""
    out = workspace.new("revokes")
    subprocess.run([binaries.load, "revokes", "--ids", str(ids), "--out", str(out)], check=True)
    return out
