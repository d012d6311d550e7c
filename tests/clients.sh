#!/bin/bash
# Real clients at the program: client-go and an operator on controller-runtime, the Python client, and kube. They are built
# from the package registries into the cache, and each says one line per check. world.sh says what this stands on.
#   SUITE_ONLY='python|kube-rs'     clients whose names match
#   CLIENTS_ONLY='patches'          of each, checks in whose name that is
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sampan-tests/clients
from=$here/tests/clients
mkdir -p "$cache"

# ---- what is built, side by side; warm caches make this short

make_go() { cd "$from/go" && CGO_ENABLED=0 go build -trimpath -o "$cache/" ./client ./operator; }
make_python() {
  local stamp
  stamp=$(cat "$from/python/requirements.txt" <(python3 --version) | sha256sum | cut -c1-16)
  [ -e "$cache/python-$stamp/done" ] && return
  rm -rf "$cache"/python-*
  python3 -m venv "$cache/python-$stamp"
  "$cache/python-$stamp/bin/pip" install -q -r "$from/python/requirements.txt"
  touch "$cache/python-$stamp/done"
}
make_kube_rs() { CARGO_TARGET_DIR=$cache/kube-rs cargo build --quiet --locked --manifest-path "$from/kube-rs/Cargo.toml"; }
command -v go >/dev/null 2>&1 || { echo "clients: Go 1.26 is needed: https://go.dev/dl" >&2; exit 1; }
names=(client-go operator python kube-rs)
declare -A make=([client-go]=make_go [operator]=make_go [python]=make_python [kube-rs]=make_kube_rs) making=()
wanted() { [[ $1 =~ ${SUITE_ONLY:-.} ]]; }
for name in "${names[@]}"; do
  wanted "$name" && [ -z "${making[${make[$name]}]:-}" ] || continue
  "${make[$name]}" &
  making[${make[$name]}]=$!
done
for pid in "${making[@]}"; do wait "$pid"; done
declare -A run=([client-go]="$cache/client" [operator]="$cache/operator" [kube-rs]="$cache/kube-rs/debug/kube-rs"
  [python]="$(echo "$cache"/python-*/bin/python) $from/python/check.py")

# ---- a server of their own, without a node, and the word by which they kill it

. "$here/tests/world.sh"
network
node_args=(--disable-agent)
start_server
export CLIENTS_KILL=$work/kill
cat >"$CLIENTS_KILL" <<KILL
#!/bin/bash
set -e
$(declare -p sampan work server id node_args KUBECONFIG)
$(declare -f at_bg start_server)
pid=\$(cat "\$work/server.pid")
kill -9 "\$pid"
tail --pid="\$pid" -s 0.05 -f /dev/null
start_server
KILL
chmod +x "$CLIENTS_KILL"
within 60 k get --raw /readyz

broken=0
for name in "${names[@]}"; do
  wanted "$name" || continue
  # shellcheck disable=SC2086
  at "$server" timeout 300 ${run[$name]} 2>"$work/log/$name.err" | tee "$work/log/$name" || true
  # One that died early says no total.
  if ! grep -qE "^$name: [0-9]+ passed, [0-9]+ failed$" "$work/log/$name"; then
    broken=$((broken + 1))
    echo "not ok $name: it ended early"
    tail -n 20 "$work/log/$name.err" | sed 's/^/  # /'
  fi
done
fails grep panicked "$work/log/server" || broken=$((broken + 1))
passed=$(cat "$work"/log/{client-go,operator,python,kube-rs} 2>/dev/null | grep -c '^ok ' || true)
failed=$(cat "$work"/log/{client-go,operator,python,kube-rs} 2>/dev/null | grep -c '^not ok ' || true)
echo "clients: $passed passed, $((failed + broken)) failed"
[ $((failed + broken)) = 0 ]
