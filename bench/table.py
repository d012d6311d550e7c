"""Makes the bench's table and JSON from what run.sh left in a directory: table.py DIR OUT.json"""
import json
import pathlib
import sys

work, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])


def load(name):
    path = work / name
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError:
        return {}


def at(run, *path):
    for key in path:
        run = run.get(key, {}) if isinstance(run, dict) else {}
    return run if isinstance(run, (int, float)) else None


def server_cpu(run, phase):
    """CPU of all server processes in a phase, in seconds."""
    cpu = run.get(phase, {}).get("cpu_s", {})
    own = [v for k, v in cpu.items() if k not in ("kload", "machine")]
    return sum(own) if own else None


def list_cpu(run, flavour):
    cpu = run.get("list", {}).get(flavour, {}).get("cpu_ms_per_list", {})
    own = [v for k, v in cpu.items() if k not in ("kload", "machine")]
    return sum(own) if own else None


def memory(run, when):
    held = run.get(when, {})
    total = sum(v.get("rss_kib", 0) for v in held.values() if isinstance(v, dict))
    return total / 1024 if total else None


rows = []
for phase, name in (("seq", "create, one at a time"), ("par", "create, 16 workers"), ("get", "get"), ("update", "update"), ("delete", "delete")):
    def per_operation(run, phase=phase):
        cpu, n = server_cpu(run, phase), at(run, phase, "n")
        return cpu / n * 1000 if cpu is not None and n else None
    rows.append((f"{name}: server CPU", "ms/op", per_operation))
    rows.append((f"{name}: rate", "/s", lambda run, phase=phase: at(run, phase, "per_s")))
    rows.append((f"{name}: p50", "ms", lambda run, phase=phase: at(run, phase, "p50_ms")))
    rows.append((f"{name}: p99", "ms", lambda run, phase=phase: at(run, phase, "p99_ms")))
rows += [
    ("list: server CPU", "ms/list", lambda run: list_cpu(run, "consistent_raw")),
    ("list: p50", "ms", lambda run: at(run, "list", "consistent_raw", "p50_ms")),
    ("watch: answer to last watcher p50", "ms", lambda run: at(run, "watch", "paced_response_to_last_p50_ms")),
    ("watch: answer to last watcher p99", "ms", lambda run: at(run, "watch", "paced_response_to_last_p99_ms")),
    ("memory before load", "MiB", lambda run: memory(run, "memory_start")),
    ("memory after load", "MiB", lambda run: memory(run, "memory_end")),
]
result = {"idle": load("sampan-idle.json"), "load": {}}
for encoding, suffix in (("protobuf", ""), ("JSON", "-json")):
    runs = {name: load(f"load-{name}{suffix}.json") for name in ("sampan", "kine", "etcd")}
    result["load"][encoding] = runs
    if not any(runs.values()):
        continue
    print(f"\n{encoding:38} {'':8} {'sampan':>10} {'kine':>10} {'etcd':>10} {'kine/sampan':>12} {'etcd/sampan':>12}")
    for title, unit, of in rows:
        values = [of(run) for run in runs.values()]
        cells = "".join(f" {'-' if v is None else format(v, '10.3f'):>10}" for v in values)
        ratios = "".join(f" {v / values[0]:12.2f}" if v is not None and values[0] else f" {'-':>12}" for v in values[1:])
        print(f"{title:38} {unit:8}{cells}{ratios}")
idle = result["idle"]
print("\nstart and idle (control plane, empty cluster)")
for key, title, budget in (
    ("first_ready_ms", "first start to API ready, ms", "500 to node Ready"),
    ("restart_ready_ms", "restart after kill -9 to API ready, ms", "150"),
    ("idle_rss_mib", "resident memory, MiB", "40 with a node"),
    ("idle_cpu_percent", "CPU, % of a core", "0.02"),
    ("idle_bytes_written", "bytes written to disk", "0"),
    ("binary_mib", "binary, MiB", "25"),
):
    value = idle.get(key)
    print(f"  {title:42} {'-' if value is None else round(value, 3):>12}   budget: {budget}")
growth = {name: {step: load(f"growth-{name}-{step}.json") for step in ("1000", "10000", "100000", "later", "wide", "hold")} for name in ("sampan", "etcd")}
result["growth"] = growth
if growth["sampan"]["1000"]:
    print(f"\ngrowth, server CPU in ms (protobuf) {'':12} {'1,000':>9} {'10,000':>9} {'100,000':>9} {'+ 100,000 writes':>17}")
    for name, steps in growth.items():
        for phase, title in (("seq", "create"), ("get", "get"), ("update", "update"), ("delete", "delete"), ("list", "list of 500")):
            def cost(run, phase=phase):
                if phase == "list":
                    return list_cpu(run, "consistent_raw")
                cpu, n = server_cpu(run, phase), at(run, phase, "n")
                return cpu / n * 1000 if cpu is not None and n else None
            values = [cost(steps[step]) for step in ("1000", "10000", "100000", "later")]
            cells = "".join(f"{'-' if v is None else format(v, '.3f'):>{width}}" for v, width in zip(values, (10, 10, 10, 18)))
            print(f"{name + ': ' + title:47}{cells}")

    def held(run):
        """Resident bytes that 10,000 objects of 4 KiB add, over their own bytes; just after, and when settled."""
        def rss(when):
            return sum(v.get("rss_kib", 0) for v in run.get("hold", {}).get(when, {}).values() if isinstance(v, dict))
        return [(rss(when) - rss("memory_before")) / 40960 if rss(when) else None for when in ("memory_just_after", "memory_settled")]
    print(f"\n{'wide':54} {'sampan':>10} {'etcd':>10} {'ratio':>8}")
    for title, of in (
        ("list of 50,000 x 4 KiB: server CPU, ms", lambda s: list_cpu(s["wide"], "consistent_raw")),
        ("list of 50,000 x 4 KiB: p50, ms", lambda s: at(s["wide"], "list", "consistent_raw", "p50_ms")),
        ("1,000 watchers: answer to last p50, ms", lambda s: at(s["wide"], "watch", "paced_response_to_last_p50_ms")),
        ("1,000 watchers: events per second in a burst", lambda s: at(s["wide"], "watch", "burst_events_per_s")),
        ("10,000 x 4 KiB: memory over their bytes, just after", lambda s: held(s["hold"])[0]),
        ("10,000 x 4 KiB: memory over their bytes, settled", lambda s: held(s["hold"])[1]),
    ):
        own, peer = (of(growth[name]) for name in ("sampan", "etcd"))
        cells = "".join(f" {'-' if v is None else format(v, '10.3f'):>10}" for v in (own, peer))
        print(f"{title:54}{cells} {format(peer / own, '8.2f') if own and peer is not None else '-':>8}")
nodes = {name: {kind: load(f"{kind}-{name}.json") for kind in ("pods", "burst", "latency", "node")} for name in ("sampan", "kine")}
result["pods"] = nodes
if nodes["sampan"]["pods"]:
    print(f"\npods (beside kubelet + containerd + runc on kine) {'':12} {'sampan':>10} {'upstream':>10} {'ratio':>8}   budget")
    n = at(nodes["sampan"]["pods"], "pods", "n")
    for title, unit, path, budget in (
        (f"create to Ready, one at a time ({n}), p50", "ms", ("pods", "pods", "ready_p50_ms"), "80"),
        (f"create to Ready, one at a time ({n}), p99", "ms", ("pods", "pods", "ready_p99_ms"), "200"),
        ("20 at once, all Ready", "ms", ("burst", "pods", "at_once_all_ready_ms"), "500"),
        (f"{n} at once, all Ready", "ms", ("pods", "pods", "at_once_all_ready_ms"), ""),
        ("deleted, ends on SIGTERM, p50", "ms", ("pods", "pods", "deleted_p50_ms"), "50"),
        ("deleted, ends on SIGTERM, p99", "ms", ("pods", "pods", "deleted_p99_ms"), ""),
        ("created to Succeeded, a program that ends at once, p50", "ms", ("latency", "exit_ms", "p50"), ""),
        ("created to Succeeded, a program that ends at once, p99", "ms", ("latency", "exit_ms", "p99"), ""),
        ("exec of a program that ends at once, p50", "ms", ("latency", "exec_ms", "p50"), ""),
        ("exec of a program that ends at once, p99", "ms", ("latency", "exec_ms", "p99"), ""),
        ("proportional memory per pod", "MiB", ("node", "per_pod_pss_mib"), "0.5"),
        ("proportional memory without pods", "MiB", ("node", "empty_pss_mib"), "40, control plane included"),
        ("first start to node Ready", "ms", ("node", "first_node_ready_ms"), "500"),
    ):
        own, peer = (at(nodes[name], *path) for name in ("sampan", "kine"))
        cells = "".join(f" {'-' if v is None else format(v, '10.3f'):>10}" for v in (own, peer))
        ratio = format(peer / own, "8.2f") if own and peer is not None else "-"
        print(f"{title:54} {unit:5}{cells} {ratio:>8}   {budget}")
    print("upstream's memory without pods is kubelet's and containerd's alone")
for store in ("kine", "etcd"):
    path = work / f"mem-{store}.txt"
    if path.exists():
        print(f"\nupstream on {store}, idle\n{path.read_text()}")
        result[f"idle_{store}"] = path.read_text()
out.write_text(json.dumps(result, indent=1))
print(f"\nwritten: {out}")
