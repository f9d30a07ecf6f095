# SPDX-License-Identifier: GPL-2.0
# Compiles the kernel's own hmm-tests from its source tree, with the neighbours that its Makefile names.
#
#   build-selftests.sh          (in the chroot; the program goes to /build/out)
set -eu
tree=/build/kernel/tree
tests=$tree/tools/testing/selftests
cd "$tests/mm"
# The harness waits for each test with poll, for as long as is written in the test for hardware. A test that it
# gives up goes on using the module.
cat >/tmp/patient.h <<'EOT'
#include <poll.h>
#define poll(fds, count, milliseconds) poll(fds, count, 20 * (milliseconds))
EOT
# Linked statically, as the guest's C library is another one.
exec gcc -static -O2 -U_FORTIFY_SOURCE -D_GNU_SOURCE -include /tmp/patient.h -I"$tests" -I"$tree" \
	-isystem "$tree/tools/include/uapi" -o /build/out/hmm-tests \
	hmm-tests.c vm_util.c hugepage_settings.c -lrt -lpthread -lm
