#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# PID 1 of the guest: brings up the device, then runs what the host asks for, one at a time.
#
# The host talks over the virtio port testbed.ctl, one line per message:
#   host:  driver NAME               guest:  driver STATUS
#   host:  run NUMBER TOKEN SECONDS SCRIPT  guest:  exit STATUS     (SCRIPT in base64)
#   host:  shell ROWS COLUMNS TERM   guest:  exit STATUS     (on /dev/hvc0)
#   host:  size ROWS COLUMNS         while the shell runs
#   host:  off
# A command's output goes to the ports testbed.out and testbed.err, unchanged, followed by TOKEN:
# so the host knows that it has seen all of it. NUMBER is for the kernel log: `testbed: end of command NUMBER`
# comes after what the kernel said during the command. `testbed: driver NAME` comes before the driver is loaded.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8 TERM=dumb
# How many times longer than on an ordinary kernel programs should wait.
export TESTBED_PATIENCE=1

say() {
	echo "testbed: $*" >/dev/kmsg
}

mount_all() {
	mkdir -p /dev/pts /dev/hugepages
	mount -t devpts devpts /dev/pts
	mount -t debugfs debugfs /sys/kernel/debug
	mount -t tracefs tracefs /sys/kernel/tracing
	mount -t hugetlbfs hugetlbfs /dev/hugepages
	ln -sf /proc/self/fd /dev/fd
	ln -sf /proc/self/fd/0 /dev/stdin
	ln -sf /proc/self/fd/1 /dev/stdout
	ln -sf /proc/self/fd/2 /dev/stderr
}

port() {
	local dir
	for dir in /sys/class/virtio-ports/*; do
		if [ -e "$dir/name" ] && [ "$(<"$dir/name")" = "$1" ]; then
			echo "/dev/${dir##*/}"
		fi
	done
}

# What follows `testbed.$1=` in the kernel's command line.
setting() {
	grep -o "testbed\.$1=[0-9]*" /proc/cmdline | cut -d= -f2
}

# The names of this VM and of the others, if there are any.
names() {
	local host nodes node
	host=$(setting host)
	nodes=$(setting nodes)
	hostname "testbed$host"
	[ -z "$nodes" ] || hostname "node$host"
	{
		echo "127.0.0.1 localhost"
		if [ -n "$nodes" ]; then
			for node in $(seq "$nodes"); do
				echo "10.77.0.$node node$node"
			done
		elif [ -n "$host" ]; then
			printf '10.77.0.%s testbed%s\n' 1 1 2 2
		else
			echo "10.77.0.1 testbed"
		fi
	} >/etc/hosts
}

# Runs the script file $1 for at most $2 seconds in a process group of its own. A command that
# overruns is ended after the kernel has logged which tasks are blocked and where. Whoever keeps what others
# have said has a moment to pass it on; then it is killed.
bounded() {
	local script=$1 seconds=$2 pid watch nap status
	setsid bash "$script" </dev/null >&4 2>&5 3>&- 4>&- 5>&- &
	pid=$!
	(
		exec 3>&- 4>&- 5>&-
		trap 'kill $nap; exit' TERM
		sleep "$seconds" &
		nap=$!
		wait $nap
		say "a command ran longer than $seconds seconds"
		echo w >/proc/sysrq-trigger
		echo l >/proc/sysrq-trigger
		: >/run/overrun
		kill -TERM -- "-$pid"
		for _ in $(seq 50); do
			kill -0 -- "-$pid" 2>/dev/null || exit
			sleep 0.1
		done
		kill -KILL -- "-$pid"
	) &
	watch=$!
	wait "$pid"
	status=$?
	# Once it has begun to end the others, it goes through with it.
	[ -e /run/overrun ] || kill "$watch" 2>/dev/null
	wait "$watch" 2>/dev/null
	if [ -e /run/overrun ]; then
		rm /run/overrun
		status=124
	fi
	return "$status"
}

run() {
	local number=$1 token=$2 seconds=$3 status
	base64 -d <<<"$4" >/run/command
	bounded /run/command "$seconds"
	status=$?
	say "end of command $number"
	printf '%s' "$token" >&4
	printf '%s' "$token" >&5
	echo "exit $status" >&3
}

shell() {
	local rows=$1 columns=$2 term=$3 pid status verb
	(
		cd /root
		exec 3>&- 4>&- 5>&- </dev/hvc0 >/dev/hvc0 2>&1
		# Its settings would be lost if nobody had the terminal open.
		stty sane rows "$rows" cols "$columns"
		# What is run beside this one starts with interrupts ignored.
		exec env --default-signal=INT,QUIT TERM="$term" setsid -c bash -l
	) &
	pid=$!
	while kill -0 "$pid" 2>/dev/null; do
		if read -t 0.2 -r verb rows columns <&3 && [ "$verb" = size ]; then
			stty rows "$rows" cols "$columns" </dev/hvc0
		fi
	done
	wait "$pid"
	status=$?
	echo "exit $status" >&3
}

# The console is the kernel log's. What goes wrong here is said in it, too.
exec </dev/null >/dev/kmsg 2>&1
mount_all
for word in $(</proc/cmdline); do
	case $word in
	testbed.patience=*) TESTBED_PATIENCE=${word#*=} ;;
	esac
done
ip link set lo up
ulimit -l unlimited
ulimit -n 65536
names
if grep -qw testbed.pmem /proc/cmdline; then
	/usr/local/lib/testbed/pmem || say "there is no persistent memory"
fi
exec 3<>"$(port testbed.ctl)" 4>"$(port testbed.out)" 5>"$(port testbed.err)"
cd /root || exit
say ready
echo ready >&3

while read -r verb first second third fourth <&3; do
	case $verb in
	driver)
		say "driver $first"
		rxe-driver "$first" </dev/null >&5 2>&1 3>&- 4>&- 5>&-
		echo "driver $?" >&3
		;;
	run) run "$first" "$second" "$third" "$fourth" ;;
	shell) shell "$first" "$second" "$third" ;;
	off) break ;;
	esac
done
say off
sync
echo b >/proc/sysrq-trigger
sleep 60
