"""Verify from memory, unary and over a stream, beside the bare twin; and the memory that it takes."""

from dataclasses import replace
from pathlib import Path

from .measure import counted, in_turns, median, ratio
from .servers import Keyward, Postgres, Twin, seeded, settle

LIMIT = '{ limit = 1000000000, window = "60s" }'


def record(driver, workspace, server, bodies):
    """Records a response of Keyward, for the twins to repeat."""
    response = workspace.new("response")
    driver.unary(server, bodies, (1, 1), warmup=0, seconds=0.05, response=response)
    return response


def trio(workspace, driver, binaries, url, bodies, bearer, **options):
    """Keyward with a warm cache, and the two twins that send the same response."""
    ours = Keyward(workspace, binaries.keyward, url, bearer=bearer, **options)
    driver.warm(ours, bodies)
    response = record(driver, workspace, ours, bodies)
    twins = [Twin(workspace, binary, response) for binary in (binaries.twin_default, binaries.twin_ours)]
    for twin in twins:
        # The same request headers, although the twins ignore the credential.
        twin.bearer = bearer
    settle()
    return {"ours": ours, "default twin": twins[0], "twin built as ours": twins[1]}


def verify(workspace, driver, binaries, arguments, report):
    """Throughput, CPU and p99 of Verify beside the bare twin."""
    postgres = Postgres(workspace)
    name, bodies, bearer = seeded(workspace, postgres, binaries, arguments.keys)
    setups = {"plain": ("no limit", {}), "limited": ("rate limit", {"rate_limit": LIMIT})}
    for setup, options in (setups[name] for name in arguments.setups):
        servers = trio(workspace, driver, binaries, f"{postgres.url}/{name}", bodies, bearer, **options)
        for tool in arguments.tools:
            rows = []
            targets = []
            for shape in (tuple(map(int, shape.split("x"))) for shape in arguments.shapes):
                act = driver.h2load if tool == "h2load" else driver.unary
                runs = {
                    label: lambda server=server: counted(server, lambda: act(server, bodies, shape))
                    for label, server in servers.items()
                }
                labels = {"part": "verify", "setup": setup, "tool": tool, "shape": f"{shape[0]}x{shape[1]}"}
                results = in_turns(arguments.rounds, runs, report.about(**labels))
                ours = results["ours"]
                for label, others in results.items():
                    rows.append([
                        f"{shape[0]} x {shape[1]}", label,
                        *(median(others, field) for field in ("rate", "server_cpu_us", "p50_us", "p99_us")),
                        *(ratio(ours, others, field) for field in ("rate", "server_cpu_us", "p99_us")),
                    ])
                targets += wanted(shape, results)
            drives = "h2load, 4 bodies (1 with one connection)" if tool == "h2load" else "own load, another key in every call"
            report.text(f"### {setup}, {drives}, {arguments.keys:,} keys in memory")
            report.table(
                ["shape", "server", "calls/s", "CPU µs/call", "p50 µs", "p99 µs",
                 "ours/it: calls/s", "CPU", "p99"],
                rows,
            )
            for target in targets:
                report.target(*target)
            report.text("")
        for server in servers.values():
            server.stop()


def wanted(shape, results):
    """The figures of a shape that have a target."""
    name = f"{shape[0]} x {shape[1]}"
    ours, default, same = results["ours"], results["default twin"], results["twin built as ours"]
    faster, equal = ratio(ours, default, "rate"), ratio(ours, same, "rate")
    least = 0.85 if shape in ((8, 16), (32, 1)) else 1.0
    late = ratio(ours, same, "p99_us")
    yield f"{name}: throughput to the default twin's", faster, faster >= 1.3, "at least 1.3"
    yield f"{name}: throughput to that of the twin built as ours", equal, equal >= least, f"at least {least}"
    yield f"{name}: p99 to that of the twin built as ours", late, late <= 1.2, "at most 1.2"


def stream(workspace, driver, binaries, arguments, report):
    """VerifyStream beside unary calls and the twin's stream."""
    postgres = Postgres(workspace)
    name, bodies, bearer = seeded(workspace, postgres, binaries, arguments.keys)
    servers = trio(workspace, driver, binaries, f"{postgres.url}/{name}", bodies, bearer)
    ours = servers["ours"]
    rows = []
    found = {}
    for in_flight in (1, 8, 64, 256):
        runs = {
            label: lambda server=server: counted(server, lambda: driver.load(server, "stream", bodies, in_flight=in_flight))
            for label, server in servers.items()
        }
        runs["ours, unary"] = lambda: counted(ours, lambda: driver.unary(ours, bodies, (1, in_flight)))
        results = in_turns(arguments.rounds, runs, report.about(part="stream", in_flight=in_flight))
        found[in_flight] = results
        for label, result in results.items():
            fields = ("rate", "server_cpu_us", "load_cpu_us", "p50_us", "p99_us")
            rows.append([in_flight, label, *(median(result, field) for field in fields)])
    report.table(["in flight", "server", "checks/s", "CPU µs", "CPU µs of the load", "p50 µs", "p99 µs"], rows)
    checks = median(found[64]["ours"], "rate")
    report.target("checks a second at 64 in flight", checks, checks >= 200_000, "at least 200,000")
    alone = ratio(found[1]["ours"], found[1]["ours, unary"], "rate")
    report.target("checks a second to unary calls at 1 in flight", alone, alone >= 1.0, "at least 1.0")


def compare(workspace, driver, binaries, arguments, report):
    """Throughput, CPU and p99 of Verify beside other builds of Keyward, with the shapes of `verify`."""
    postgres = Postgres(workspace)
    builds = {"this build": binaries.keyward}
    for other in arguments.other:
        label, _, path = other.rpartition("=")
        builds[label] = Path(path).resolve()
    servers = {}
    for label, path in builds.items():
        # A database each: versions may differ in their migrations.
        name, bodies, bearer = seeded(workspace, postgres, replace(binaries, keyward=path), arguments.keys)
        servers[label] = (Keyward(workspace, path, f"{postgres.url}/{name}", bearer=bearer), bodies)
    for server, bodies in servers.values():
        driver.warm(server, bodies)
    settle()
    rows = []
    for shape in (tuple(map(int, shape.split("x"))) for shape in arguments.shapes):
        runs = {
            label: lambda server=server, bodies=bodies: counted(server, lambda: driver.unary(server, bodies, shape))
            for label, (server, bodies) in servers.items()
        }
        labels = {"part": "compare", "shape": f"{shape[0]}x{shape[1]}"}
        results = in_turns(arguments.rounds, runs, report.about(**labels))
        for label, others in results.items():
            rows.append([
                f"{shape[0]} x {shape[1]}", label,
                *(median(others, field) for field in ("rate", "server_cpu_us", "p50_us", "p99_us")),
                *(ratio(results["this build"], others, field) for field in ("rate", "server_cpu_us", "p99_us")),
            ])
    report.table(
        ["shape", "build", "calls/s", "CPU µs/call", "p50 µs", "p99 µs", "this/it: calls/s", "CPU", "p99"],
        rows,
    )


def scale(workspace, driver, binaries, arguments, report):
    """CPU of warm calls with many keys and with few."""
    postgres = Postgres(workspace)
    servers = {}
    for label, keys, used in (("many", arguments.many, arguments.keys), ("few", 1_000, 1_000)):
        name, bodies, bearer = seeded(workspace, postgres, binaries, keys)
        bodies = first(bodies, used)
        server = Keyward(workspace, binaries.keyward, f"{postgres.url}/{name}", bearer=bearer)
        driver.warm(server, bodies)
        servers[label] = (server, bodies)
    settle()
    runs = {
        label: lambda server=server, bodies=bodies: counted(server, lambda: driver.unary(server, bodies, (8, 16)))
        for label, (server, bodies) in servers.items()
    }
    results = in_turns(arguments.rounds, runs, report.about(part="scale"))
    rows = [[label, *(median(result, field) for field in ("rate", "server_cpu_us", "p99_us"))]
            for label, result in results.items()]
    report.text(f"many: {arguments.many:,} keys in the database, {arguments.keys:,} in use; few: 1,000 and 1,000. 8 x 16.")
    report.table(["keys", "calls/s", "CPU µs/call", "p99 µs"], rows)
    share = ratio(results["many"], results["few"], "server_cpu_us")
    report.target("CPU a call with many keys to that with few", share, share <= 1.1, "at most 1.1")


def first(bodies, count):
    """Writes the first frames of a file into another one."""
    data = bodies.read_bytes()
    at = 0
    for _ in range(count):
        if at >= len(data):
            break
        at += 5 + int.from_bytes(data[at + 1 : at + 5], "big")
    out = bodies.with_name("first")
    out.write_bytes(data[:at])
    return out


def memory(workspace, driver, binaries, arguments, report):
    """Resident memory with many cached keys."""
    postgres = Postgres(workspace)
    name, bodies, bearer = seeded(workspace, postgres, binaries, arguments.many)
    server = Keyward(workspace, binaries.keyward, f"{postgres.url}/{name}", bearer=bearer, cache="2GiB")
    settle()
    before = server.rss()
    filled = driver.warm(server, bodies)
    peak = server.rss()
    for _ in range(5):
        settle()
    after, metrics = server.rss(), server.metrics()
    report.log({"part": "memory", "before": before, "peak": peak, "after": after, **filled})
    mega = lambda amount: amount / 1e6
    cached = int(metrics["keyward_cached_keys"])
    report.table(
        ["keys in memory", "weight MB", "RSS MB empty", "RSS MB right after", "RSS MB after usage is flushed"],
        [[cached, mega(metrics["keyward_cached_bytes"]), mega(before), mega(peak), mega(after)]],
    )
    # The cache also holds the caller's service key.
    whole = cached == arguments.many + 1
    report.target("keys in memory", cached, whole, f"all of {arguments.many:,}, and the caller's")
    report.target("resident MB", mega(after), mega(after) <= 400,
                  "at most 400 with 1,000,000 keys")
