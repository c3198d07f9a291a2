# Sourced by tools/dev/run and tools/dev/cluster: starting quipud and waiting for
# it.  NAME must be the program's name for messages.

say() { echo "$NAME: $*" >&2; }
die() { say "$*"; exit 1; }

# Is somebody listening on HOST:PORT?
port_used() {
	(exec 3<> "/dev/tcp/${1%:*}/${1##*:}") 2>/dev/null
}

# Who: "pid 123 (quipud)", or nothing where the system does not say.
port_holder() {
	command -v ss >/dev/null || return 0
	ss -Hltnp "sport = :${1##*:}" 2>/dev/null |
		sed -n 's/.*users:(("\([^"]*\)",pid=\([0-9]*\).*/pid \2 (\1)/p' |
		sed -n 1p
}

need_port() { # address, how to choose another
	local holder
	port_used "$1" || return 0
	holder=$(port_holder "$1")
	die "$1 is in use${holder:+ by $holder}; end that, or choose another: $2"
}

# 0: serves; 1: the process has ended; 2: not within the time.
wait_ready() { # pid, address of the gateway, seconds
	local end=$((SECONDS + $3))
	until curl -fsS --noproxy '*' -o /dev/null --max-time 2 \
			"http://$2/readyz" 2>/dev/null; do
		kill -0 "$1" 2>/dev/null || return 1
		[ "$SECONDS" -lt "$end" ] || return 2
		sleep 0.05
	done
}

# 0 once the process has ended.
wait_gone() { # pid, seconds
	local end=$((SECONDS + $2))
	while kill -0 "$1" 2>/dev/null; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.05
	done
}

# What a log complains of.
complaints() { # log
	{ grep -v -e 'level=info' -e 'level=debug' "$1" || true; } | tail -n 12 >&2
}

# Settings of quipud in the environment would win over files.
forget_settings() {
	local section var
	for section in $(sed -n 's/^SECTION(\([a-z]*\),.*/\1/p' base/conf.tbl); do
		for var in $(compgen -v "QUIPU_${section^^}_"); do unset "$var"; done
	done
}
