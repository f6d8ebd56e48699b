# Shared by ./quickstart and ./run-tests, which source it from the top of the tree. POSIX sh.

say() {
	printf '%s\n' "$*"
}

fail() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# Prints the Debian packages of the given lists that are not installed.
missing_packages() {
	sed -e 's/#.*//' "$@" | tr -s ' \t' '\n\n' | sort -u | while read -r package; do
		[ -n "$package" ] || continue
		dpkg-query -W -f='${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed' || echo "$package"
	done
}

# Installs what is missing of the given lists. Returns 1, having said what to do, where that is not possible.
install_packages() {
	if ! command -v dpkg-query >/dev/null 2>&1; then
		say "This is not a Debian system. Needed here, by their Debian names: $(sed -e 's/#.*//' "$@" | xargs)"
		return 0
	fi
	packages=$(missing_packages "$@" | xargs)
	[ -n "$packages" ] || return 0
	if [ "$(id -u)" = 0 ]; then
		as_root=
	elif command -v sudo >/dev/null 2>&1 && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
		as_root=sudo
	else
		say "Debian packages are missing. As root: apt-get install --no-install-recommends $packages"
		return 1
	fi
	say "Installing Debian packages: $packages"
	$as_root apt-get update -q </dev/null >/dev/null || say "apt-get update failed; trying with the package lists that are there"
	# Word splitting is wanted: $packages is a list, $as_root may be empty.
	# shellcheck disable=SC2086
	$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $packages </dev/null >/dev/null ||
		{ say "apt-get could not install: $packages"; return 1; }
}

# The first Python that is new enough.
find_python() {
	for python in python3 python3.14 python3.13 python3.12 python3.11; do
		"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$python"; return; }
	done
	fail "Python 3.11 or newer is needed (Debian 12 has it)"
}

# What an installation depends on, as one line: another line means that it has to be made again.
fingerprint() {
	echo "$*"
	find pyproject.toml setup.py appliance scsi_targets vlib_images datamover -type f \
		\( -name '*.py' -o -name '*.c' -o -name '*.h' -o -name '*.toml' -o -name '*.pyi' \) | LC_ALL=C sort | xargs cksum | cksum
}

# Makes .venv and installs this tree into it with `pip install ARGUMENTS`, unless that has been done for these very files.
install_tree() {
	python=$(find_python) || exit 1
	wanted=$(fingerprint "$@" | xargs)
	[ -x .venv/bin/tapebay ] && [ "$(cat .venv/installed 2>/dev/null)" = "$wanted" ] && return
	[ -x .venv/bin/python ] || { rm -rf .venv && "$python" -m venv .venv; } || fail "cannot make .venv (Debian: apt-get install python3-venv)"
	say "Building and installing Tapebay into .venv"
	.venv/bin/python -m pip install --quiet --disable-pip-version-check "$@" </dev/null || fail "pip install failed, see above"
	echo "$wanted" >.venv/installed
}
