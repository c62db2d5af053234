"""Verify of rate-limited keys: counted in memory, in Redis with each call, and in Redis in batches of permits."""

from .measure import SHAPES, counted, in_turns, median, ratio
from .servers import Keyward, Postgres, Redis, seeded, settle
from .warm import LIMIT, first

BATCH = 100
# Batches help with keys that are used often. With very many keys, each is used less than once per bucket of its window.
USES = [("every key", None), ("1,000 keys", 1_000)]


def limits(workspace, driver, binaries, arguments, report):
    """Throughput, CPU and p99 by the place where limits are counted."""
    postgres = Postgres(workspace)
    name, bodies, bearer = seeded(workspace, postgres, binaries, arguments.keys)
    url = f"{postgres.url}/{name}"
    redis = {label: Redis(workspace) for label in ("Redis, each call", f"Redis, batch {BATCH}")}
    stores = {"memory": {}}
    for (label, server), batch in zip(redis.items(), (1, BATCH)):
        stores[label] = {"store": server.url, "batch": batch}
    servers = {
        label: Keyward(workspace, binaries.keyward, url, rate_limit=LIMIT, bearer=bearer, **store)
        for label, store in stores.items()
    }
    for server in servers.values():
        driver.warm(server, bodies)
    settle()
    for use, count in USES:
        used = first(bodies, count) if count else bodies
        rows = []
        for shape in SHAPES:
            runs = {
                label: lambda label=label, server=server: turn(driver, server, redis.get(label), used, shape)
                for label, server in servers.items()
            }
            labels = {"part": "limits", "use": use, "shape": f"{shape[0]}x{shape[1]}"}
            results = in_turns(arguments.rounds, runs, report.about(**labels))
            memory = results["memory"]
            for label, others in results.items():
                rows.append([
                    f"{shape[0]} x {shape[1]}", label,
                    *(median(others, field) for field in ("rate", "server_cpu_us", "p50_us", "p99_us")),
                    *(ratio(others, memory, field) for field in ("rate", "server_cpu_us")),
                    *(median(others, field) for field in ("trips", "local")),
                ])
        report.text(f"### {use} in use, {LIMIT} each")
        report.table(
            ["shape", "limits in", "calls/s", "CPU µs/call", "p50 µs", "p99 µs", "it/memory: calls/s", "CPU",
             "round trips/call", "counted locally/call"],
            rows,
        )


def turn(driver, server, redis, bodies, shape):
    """One run, with its round trips to Redis and the calls that Redis did not answer in time."""
    fallbacks = lambda: server.metrics()["keyward_rate_limit_fallbacks_total"]
    round_trips, local = redis.scripts() if redis else 0, fallbacks()
    found = counted(server, lambda: driver.unary(server, bodies, shape))
    found["trips"] = (redis.scripts() - round_trips) / found["sent"] if redis else 0.0
    found["local"] = (fallbacks() - local) / found["sent"]
    return found
