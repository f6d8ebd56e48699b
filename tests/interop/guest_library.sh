# What steps have at hand. PORTAL (ADDRESS:PORT) and TARGET come from the test.

retry() { # until the command succeeds, for a minute
	local end=$((SECONDS + 60))
	while [ $SECONDS -lt $end ]; do
		"$@" && return
		sleep 0.05
	done
	echo "gave up waiting for: $*" >&2
	return 1
}

answers() { # iscsiadm says 21, "no session", once iscsid answers it
	iscsiadm -m session >/dev/null 2>&1
	[ $? = 21 ]
}

start_iscsid() {
	iscsid -f >/run/iscsid.log 2>&1 &
	retry answers
}

discover() { iscsiadm -m discovery -t sendtargets -p "$PORTAL"; }

add_node() { # for a target that does not advertise an address which the guest can reach
	iscsiadm -m node -o new -T "$TARGET" -p "$PORTAL,1"
}

setting() { iscsiadm -m node -T "$TARGET" -p "$PORTAL" -o update -n "$1" -v "$2"; }

# The kernel scans for logical units after the login has returned, and names a disk or a tape a moment after that.
device_count() { [ "$(lsscsi | grep -vcE '(disk|tape) .* -[[:space:]]*$')" = "$1" ]; }

log_in() { # and wait until so many devices have appeared
	iscsiadm -m node -T "$TARGET" -p "$PORTAL" --login && retry device_count "$1" && find_devices
}

log_out() { iscsiadm -m node -T "$TARGET" -p "$PORTAL" --logout; }

find_devices() { # CHANGER, TAPE0, TAPE1 (no rewind), TAPE0_SG, TAPE1_SG, DISK, DISK_SG
	local kind device generic
	unset CHANGER TAPE0 TAPE0_SG TAPE1 TAPE1_SG DISK DISK_SG
	while read -r kind device generic; do
		case $kind in
		mediumx) CHANGER=$generic ;;
		tape)
			if [ -z "$TAPE0" ]; then
				TAPE0=/dev/n${device#/dev/} TAPE0_SG=$generic
			else
				TAPE1=/dev/n${device#/dev/} TAPE1_SG=$generic
			fi
			;;
		disk) : "${DISK:=$device}" "${DISK_SG:=$generic}" ;;
		esac
	done < <(lsscsi -g | awk '{ print $2, $(NF-1), $NF }')
	local node
	for node in $TAPE0 $TAPE1; do # made after the one that lsscsi shows
		retry test -c $node || return
	done
}
