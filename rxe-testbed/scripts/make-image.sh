# SPDX-License-Identifier: GPL-2.0
# Makes an ext4 image of a directory.
#
#   make-image.sh ROOT OUTPUT          (in the chroot)
set -eu
root=$1 output=$2
used=$(du -sm "$root" | cut -f1)
# Room for what commands in the guest write. The file is sparse: free space costs nothing.
mke2fs -q -t ext4 -O '^has_journal' -m 0 -d "$root" "$output" "$((used * 5 / 4 + 4096))M"
