# Shared by the scripts beside it; sourced, never run.
# shellcheck shell=bash

# repo is the top of this checkout, wherever a script was called from.
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# cache holds the tools built once per machine. It is outside the checkout, so that `make clean`
# and a fresh clone do not cost a quarter of an hour.
# shellcheck disable=SC2034 # used by those who source this
cache=${XDG_CACHE_HOME:-$HOME/.cache}/vault-plugin-secrets-rotation

say() { printf '%s\n' "$*" >&2; }

die() {
	say "$(basename "$0"): $*"
	exit 1
}

# version_at_least HAVE WANT compares dotted versions; a leading v is ignored.
version_at_least() {
	[[ $(printf '%s\n%s\n' "${2#v}" "${1#v}" | sort -V | head -n 1) == "${2#v}" ]]
}

# require_go stops with a sentence when there is no Go, or one that cannot build this module.
require_go() {
	command -v go >/dev/null ||
		die "Go is not on PATH. Install Go $(go_wanted) or newer (https://go.dev/doc/install) and try again."
	local have
	have=$(cd / && GOTOOLCHAIN=local go env GOVERSION)
	# A Go from 1.21 on fetches a newer toolchain by itself unless that was switched off.
	if ! version_at_least "${have#go}" "$(go_wanted)"; then
		if version_at_least "${have#go}" 1.21 && [[ $(cd / && go env GOTOOLCHAIN) != local ]]; then
			return
		fi
		die "${have} is too old: this module needs Go $(go_wanted) or newer (https://go.dev/doc/install)."
	fi
}

# go_wanted is the Go version that go.mod asks for.
go_wanted() { awk '$1 == "go" { print $2; exit }' "$repo/go.mod"; }

# module_version FOLDER MODULE prints the version of MODULE that FOLDER/go.mod requires.
module_version() {
	awk -v module="$2" '$1 == module && $2 ~ /^v/ { print $2; exit }
		$1 == "require" && $2 == module { print $3; exit }' "$1/go.mod"
}

# build_tool FOLDER PACKAGE TARGET [BUILD ARGUMENTS] builds PACKAGE, a tool of the module in FOLDER,
# to the file TARGET. It builds beside TARGET and renames, so that an interrupted build leaves
# nothing that looks like a binary; a lock makes a second caller wait for the first one's result.
build_tool() {
	local folder=$1 package=$2 target=$3
	shift 3
	mkdir -p "$(dirname "$target")"
	(
		if command -v flock >/dev/null; then
			flock 9
		fi
		if [[ ! -x $target ]]; then
			trap 'rm -f "$target.partial.$BASHPID"' EXIT
			cd "$folder" || exit
			# What is set for the checkout's own builds must not reach the tool's.
			env -u GOOS -u GOARCH GOFLAGS='' GOWORK=off \
				go build -mod=readonly -trimpath "$@" -o "$target.partial.$BASHPID" "$package" >&2
			mv "$target.partial.$BASHPID" "$target"
		fi
	) 9>"$target.lock"
}
