# Sampan: `make run` starts it and shows it at work, `make test` passes all tests.
BIN := target/release/sampan

.PHONY: run stop build test unit outside walk faults node-faults vm replay clients access plugins lint bench tools clean

run: tools build            ## Start a server here, deploy examples/hello, say how to go on
	examples/run.sh

stop:                       ## Stop what `make run` started, pods included
	examples/stop.sh

build: tools
	cargo build --release --locked

test: tools lint build unit outside  ## Everything that CI runs

unit:                       ## Each room's own tests (as root: containers and networks are real)
	tests/unit.sh

outside: build              ## The program from outside, two suites at a time, each one's output in one piece
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target walk faults node-faults clients access plugins

walk: build                 ## A user's way through it, by kubectl
	tests/walk.sh

faults: build               ## What goes wrong for users and operators
	tests/faults.sh

node-faults: build          ## What goes wrong on a node that runs: floods, kills, disks, cut power
	tests/node-faults.sh

vm: build                   ## A node on a machine of its own, in QEMU: cgroup v2, AppArmor, logind, cut power (by hand: it is slow)
	tests/vm.sh

replay: build               ## The API beside answers that upstream's kube-apiserver gave
	tests/replay.sh

clients: build              ## Real clients at it: client-go, controller-runtime, the Python client, kube
	tests/clients.sh

access: build               ## Users, permissions, audit log and sealed secrets, with those whom the server asks
	tests/access.sh

plugins: build              ## A CSI driver, a device plugin and a DRA driver at a node
	cargo build --release --locked -p rpc --example mock
	tests/plugins.sh

lint:                       ## Formatting, warnings, the rules of the house
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo xtask tidy

bench: build                ## Beside upstream's components, in one run
	bench/run.sh

tools:                      ## What building and testing need: Debian's packages, kubectl
	tests/tools.sh

clean:
	cargo clean
