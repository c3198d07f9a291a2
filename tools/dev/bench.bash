# Sourced by tools/dev/bench and tools/dev/corpus: a cluster of their own, with
# nothing in it, and the options by which quipu-bench finds it.  NAME must be set.

B=${B:-build/release}
DIR=${QUIPU_BENCH_DIR:-build/bench}
BASE=${QUIPU_BENCH_PORT:-8280}
SIZE=${QUIPU_CLUSTER_SIZE:-3}
export B QUIPU_CLUSTER_DIR=$DIR QUIPU_BASE_PORT=$BASE QUIPU_CLUSTER_SIZE=$SIZE

. tools/dev/serve.bash

# Servers outlive this shell: they must not inherit its lock.
cluster() { tools/dev/cluster "$@" >/dev/null 9>&-; }

lock() {
	mkdir -p "$(dirname "$DIR")"
	exec 9>"$DIR.lock"
	flock -n 9 || die "another run uses $DIR: wait, or set QUIPU_BENCH_DIR and" \
		"QUIPU_BENCH_PORT"
	# Copies: whoever builds meanwhile does not take them away from a restart.
	mkdir -p "$DIR.bin"
	cp "$B/quipud" "$B/quipuctl" "$B/quipu-bench" "$DIR.bin/" || die "not built: make"
	B=$DIR.bin
}

cluster_new() {
	[ ! -e "$DIR/ca/ca.key" ] || cluster wipe
	cluster start || die "the cluster does not start; logs are in $DIR"
	trap cluster_end EXIT
}

cluster_end() {
	local rc=$?
	trap - EXIT
	if [ $rc -eq 0 ] && [ -z "${KEEP:-}" ]; then
		cluster wipe || true
	else
		cluster stop || true
		say "data and logs are left in $DIR"
	fi
	exit $rc
}

list_of() { # a text with N in it: one for each node, by comma
	local n all=
	for n in $(seq "$SIZE"); do all=$all${all:+,}${1//NODE/$n}; done
	echo "$all"
}

bench() { # command, options
	local gateways= n what=$1
	shift
	for n in $(seq "$SIZE"); do
		gateways=$gateways${gateways:+,}127.0.0.1:$((BASE + n))
	done
	"$B/quipu-bench" "$what" --gateway "$gateways" \
		--admin "$(list_of "$DIR/NODE/data/admin.sock")" \
		--token-key "$DIR/token.key" --data "$DIR/1/data" "$@"
}

# One request to the admin socket of a node; its answer.
admin() { # node, request
	python3 - "$DIR/$1/data/admin.sock" "$2" <<-'END'
	import socket, sys
	s = socket.socket(socket.AF_UNIX)
	s.settimeout(3)
	s.connect(sys.argv[1])
	s.sendall(sys.argv[2].encode() + b"\n")
	text = b""
	while not text.endswith(b"\n"):
	    more = s.recv(65536)
	    if not more:
	        sys.exit("admin socket: closed")
	    text += more
	print(text.decode(), end="")
	END
}

# The node that leads some shard; nothing when that is not known just now.
random_leader() {
	local n
	for n in $(seq "$SIZE" | shuf); do
		admin "$n" '{"verb":"leaders"}' 2>/dev/null | python3 -c '
import json, random, sys
known = [l["leader"] for l in json.load(sys.stdin)["leaders"] if l["leader"]]
print(random.choice(known))' 2>/dev/null && return
	done
}
