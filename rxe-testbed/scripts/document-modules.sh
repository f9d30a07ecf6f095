# SPDX-License-Identifier: GPL-2.0
# Documents the modules' Rust crates: for each object that Kbuild has compiled, rustdoc is called with what Kbuild called
# rustc with. Of the first ones the public items are documented, of those after `--private` all.
#
#   document-modules.sh OBJECT… --private OBJECT…          (in the chroot)
set -eu
cd /build/modules
# As Kbuild does, for the features that the kernel uses.
export RUSTC_BOOTSTRAP=1

# Sets `arguments` and `variables` to what OBJECT was compiled with, but for what says which files to make.
compiled_with() {
	local words word skip=
	words=$(sed -n 's/^savedcmd_[^ ]* := //p' "$(dirname "$1")/.$(basename "$1").cmd")
	# Kbuild wrote it for a shell; what comes after rustc is not rustc's.
	eval "words=(${words%%;*})"
	arguments=() variables=()
	for word in "${words[@]}"; do
		case $skip$word in
		[A-Z]*=*) variables+=("$word") ;;
		rustc | --emit=*) ;;
		--out-dir) skip=: ;;
		:*) skip= ;;
		*) arguments+=("$word") ;;
		esac
	done
}

items=()
for object; do
	if [ "$object" = --private ]; then
		items=(--document-private-items -A rustdoc::private_intra_doc_links)
		continue
	fi
	compiled_with "$object"
	env "${variables[@]}" rustdoc "${arguments[@]}" "${items[@]}" --out-dir /build/doc --extern-html-root-takes-precedence \
		--extern-html-root-url kernel=https://rust.docs.kernel.org -D warnings
done
