#!/usr/bin/env bash
# Lets the systemd of this machine read one unit of a node's tree, and start it: bash boot.sh TREE UNIT PROGRAM. It
# runs as process 1 of namespaces of its own, in the tree, in a control group of its own, without a network, and is
# ended once the unit was started or refused. What it saw is then in TREE/seen: arguments, environment, log.
set -euo pipefail
tree=$1 unit=$2 program=$3

if [[ ${4-} != inside ]]; then
    groups=$(findmnt --noheadings --first-only --types cgroup2 --output TARGET)
    group=$groups/kubelet-gate-systemd-$$
    mkdir "$group"
    # A process of this group becomes the root of what the inner systemd sees, so that it moves no other.
    bash -c 'echo $$ >"$0/cgroup.procs"; exec unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child \
        --mount-proc "$@"' "$group" bash "$0" "$tree" "$unit" "$program" inside >"$tree.out" 2>&1 &
    inner=$!
    for ((i = 0; i < 1000; i++)); do
        [[ ! -e $tree/seen/end ]] || break
        kill -0 "$inner" 2>/dev/null || break
        sleep 0.02
    done
    # The unit's process may still be writing: it is over when its control group is empty.
    for ((i = 0; i < 250; i++)); do
        grep -q . "$group"/system.slice/*"${unit##*@}"/cgroup.procs 2>/dev/null || break
        sleep 0.02
    done
    kill -KILL "$inner" 2>/dev/null || true
    wait "$inner" 2>/dev/null || true
    for ((i = 0; i < 250; i++)); do
        ! find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || break
        sleep 0.02
    done
    [[ -e $tree/seen/end ]] || { echo "systemd did not come to an end:"; cat "$tree.out" "$tree/seen/log"; exit 1; } >&2
    exit 0
fi

libraries=$(dirname "$(ldd /usr/lib/systemd/systemd | sed -n 's/.*libc\.so[^ ]* => \([^ ]*\) .*/\1/p')")
libraries=$(readlink -f "$libraries")
loader=$(readlink -f "$(dirname "$(ldd /usr/lib/systemd/systemd | sed -n 's/^\s*\(\/lib[^ ]*ld-[^ ]*\) .*/\1/p')")")
mount --bind "$tree" "$tree"
mkdir -p "$tree"/{usr/bin,usr/lib/systemd/system,proc,sys,dev,run,tmp,var/tmp,etc,seen} "$tree$libraries" "$tree$loader"
for folder in lib lib64 bin sbin; do
    [[ -e $tree/$folder || ! -d $tree/usr/${folder/sbin/bin} ]] || ln -s "usr/${folder/sbin/bin}" "$tree/$folder"
done
for folder in "$libraries" "$loader"; do mount --bind -o ro "$folder" "$tree$folder"; done
cp /usr/lib/systemd/systemd "$tree/usr/lib/systemd/systemd"
for name in kubelet k3s prepare end; do cp "$program" "$tree/usr/bin/$name"; done
# What is mounted already, systemd leaves alone.
mount --bind "$tree/run" "$tree/run"
# Without an identity of the machine systemd would take this for its first boot, and enable units.
[[ -e $tree/etc/machine-id ]] || printf '%032d\n' 1 >"$tree/etc/machine-id"
mount -t proc proc "$tree/proc"
mount --bind -o ro "$tree/proc/sys" "$tree/proc/sys"
mount -t sysfs -o ro sysfs "$tree/sys"
mount -t tmpfs tmpfs "$tree/sys/fs/cgroup"
mount -t cgroup2 cgroup2 "$tree/sys/fs/cgroup"
mount -t tmpfs tmpfs "$tree/dev"
for name in null zero full random urandom; do
    touch "$tree/dev/$name"
    mount --bind "/dev/$name" "$tree/dev/$name"
done
touch "$tree/seen/log" "$tree/dev/kmsg"
mount --bind "$tree/seen/log" "$tree/dev/kmsg"
units=$tree/usr/lib/systemd/system
for target in sysinit basic shutdown; do printf '[Unit]\nDefaultDependencies=no\n' >"$units/$target.target"; done
printf '[Unit]\nDefaultDependencies=no\nWants=%s end.service\n' "$unit" >"$units/default.target"
printf '[Unit]\nDefaultDependencies=no\nAfter=%s\n[Service]\nType=oneshot\nExecStart=/usr/bin/end\n' "$unit" \
    >"$units/end.service"
if [[ -e $tree/etc/hostname ]]; then hostname "$(sed -n '/^[^#]/{p;q}' "$tree/etc/hostname")"; fi
# `container` keeps systemd from touching the clock and other things that are the machine's.
exec env -i container=kubelet-gate FROM_SYSTEMD=passed "$(type -P chroot || echo /usr/sbin/chroot)" "$tree" \
    /usr/lib/systemd/systemd --system --unit=default.target --log-target=kmsg --log-level=info --show-status=no
