# SPDX-License-Identifier: GPL-2.0
# Calls a tool on the modules' Rust crates: for each object that Kbuild has compiled, with what Kbuild called rustc with.
# Nothing is compiled to machine code.
#
#   check-crates.sh clippy|doc|examples OBJECT… [--private OBJECT…]          (in the chroot)
#
# clippy: its warnings, on standard error.
# doc: the documentation, into /build/doc; of the objects after `--private` of all items, of the others of the public ones.
# examples: whether the examples in the documentation compile.
set -eu
tool=$1
shift
cd /build/modules
# As Kbuild does, for the features that the kernel uses.
export RUSTC_BOOTSTRAP=1
# Clippy's settings are the kernel's.
export CLIPPY_CONF_DIR=/build/kernel/tree

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

run_clippy() {
	env "${variables[@]}" clippy-driver "${arguments[@]}" --emit=metadata --out-dir "$(mktemp -d)"
}

run_doc() {
	env "${variables[@]}" rustdoc "${arguments[@]}" "${items[@]}" --out-dir /build/doc --extern-html-root-takes-precedence \
		--extern-html-root-url kernel=https://rust.docs.kernel.org -D warnings
}

# Those of the files in core/ are run on the host. The others are marked `no_run`: they compile, and nothing is made of them.
run_examples() {
	local word index root attributes='' status=0 name
	name=$(basename "$1" .o)
	root=${1%.o}_examples.rs
	for index in "${!arguments[@]}"; do
		word=${arguments[index]}
		case $word in
		# rustdoc leaves these out of account for examples.
		-Zcrate-attr=*) attributes+="#![${word#*=}] " ;;
		*.rs) arguments[index]=$root ;;
		esac
	done
	{ echo "$attributes" && cat "${1%.o}.rs"; } >"$root"
	env "${variables[@]}" rustdoc "${arguments[@]}" --crate-name "$name" --extern "$name=${1%/*}/lib$name.rmeta" \
		--test --test-args '--skip /core/' || status=$?
	rm "$root"
	return $status
}

items=()
for object; do
	if [ "$object" = --private ]; then
		items=(--document-private-items -A rustdoc::private_intra_doc_links)
		continue
	fi
	compiled_with "$object"
	"run_$tool" "$object"
done
