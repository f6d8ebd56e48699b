#!/bin/bash
# Process 1 of the guest: a User-Mode Linux kernel whose root is the host's own file system, shared read-only.
# Stage one lays a tmpfs over it, so that the guest may write anywhere and the host never sees it; stage two brings up what an
# iSCSI initiator needs, runs the steps that the test wrote into the shared folder, and switches the machine off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C TERM=dumb

# A fork and exec costs 25 ms in the guest; busybox starts faster than the real programs.
if [ -x /bin/busybox ]; then
	for applet in mount umount mkdir insmod ip uname hostname; do
		eval "$applet() { /bin/busybox $applet \"\$@\"; }"
	done
fi

die() {
	echo "guest: $*"
	echo o >/proc/sysrq-trigger
	sleep 10
}

option() { # the value of NAME=VALUE on the kernel's command line
	local word
	for word in $(</proc/cmdline); do
		[ "${word%%=*}" = "$1" ] && echo "${word#*=}"
	done
}

lay_overlay() {
	local modules=/usr/lib/uml/modules
	mount -t tmpfs scratch /mnt || die "no tmpfs"
	mkdir -p /mnt/upper /mnt/work /mnt/root /mnt/modules
	mount -t hostfs none /mnt/modules -o $modules || die "no kernel modules in $modules"
	insmod "/mnt/modules/$(uname -r)/kernel/fs/overlayfs/overlay.ko" || die "overlay module"
	umount /mnt/modules
	mount -t overlay root /mnt/root -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work || die "no overlay"
	mkdir -p /mnt/root/lib/modules /mnt/root/mnt/share
	mount -t devtmpfs devices /mnt/root/dev
	mount -t hostfs none /mnt/root/lib/modules -o $modules
	mount -t hostfs none /mnt/root/mnt/share -o "$(option tapebay.share)" || die "no shared folder"
	umount -l /proc
}

mount_kernel_file_systems() {
	# A root over hostfs would show the host's own /proc and /run.
	mount -t proc proc /proc
	mount -t sysfs sysfs /sys
	mkdir -p /dev/pts /dev/shm
	mount -t devpts devpts /dev/pts
	local folder
	for folder in /dev/shm /run /tmp /var/lib/iscsi /etc/iscsi; do
		mkdir -p $folder
		mount -t tmpfs tmpfs $folder
	done
	mkdir -p /run/lock/iscsi /mnt/disk
	ln -sfn /proc/self/fd /dev/fd
}

bring_up_network() {
	hostname guest
	ip link set lo up
	ip addr add 10.0.2.15/24 dev vec0
	ip link set vec0 up
	ip route add default via 10.0.2.2
	# libslirp looks at a window that was closed only every 5 seconds: keep it from closing. iscsid sets the socket's
	# buffer itself, from node.conn[0].tcp.window_size, within this limit.
	local limit
	for limit in rmem_max wmem_max; do
		echo 33554432 >/proc/sys/net/core/$limit
	done
}

configure_initiator() {
	unset -f insmod # modprobe is kmod's
	modprobe -a iscsi_tcp sd_mod st sg ch || die "modprobe"
	echo "InitiatorName=$(option tapebay.initiator)" >/etc/iscsi/initiatorname.iscsi
	cat >/etc/iscsi/iscsid.conf <<-END
		iscsid.startup = /bin/true
		node.startup = manual
		node.conn[0].tcp.window_size = 8388608
		node.conn[0].timeo.noop_out_timeout = 60
	END
}

if [ "$1" != stage-two ]; then
	mount -t proc proc /proc
	lay_overlay
	exec chroot /mnt/root /bin/bash /mnt/share/guest_init.sh stage-two
fi
mount_kernel_file_systems
bring_up_network
configure_initiator
echo "tapebay: ready" >/dev/kmsg
setsid -w bash /mnt/share/steps.sh </dev/null
dmesg -x >/mnt/share/dmesg
echo done >/mnt/share/done
echo o >/proc/sysrq-trigger
sleep 10
