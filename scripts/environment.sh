# Sourced by scripts/demo, test and bench: a virtual environment in the checkout with the tested versions in it.
#
#   prepare_environment EXTRA    EXTRA is "" or the name of an extra of pyproject.toml; afterwards $VENV/bin/python has it
#
# The environment is kept and used again while constraints.txt, pyproject.toml and the Python that made it are the same.

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV="$checkout/.venv"

fail() {
    echo "error: $*" >&2
    exit 1
}

# The first Python that runs and is new enough; $PYTHON names another one.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python3.10 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.10 or newer found (python3 is $(python3 --version 2>&1 || true)); install one, or name it: PYTHON=/path/to/python bash scripts/..."
}

prepare_environment() {
    local extra=$1 python version wanted stamp
    python=$(find_python)
    version=$("$python" -c 'import sys; print(sys.version.split()[0], sys.executable)')
    wanted=$(cat "$checkout/constraints.txt" "$checkout/pyproject.toml" - <<<"$version $checkout" | cksum | tr ' ' '-')
    stamp="$VENV/.pocketft-$wanted"
    if [ -n "$extra" ]; then stamp="$stamp-$extra"; fi
    if [ -e "$stamp" ] && "$VENV/bin/python" -c 'import pocketft' >/dev/null 2>&1; then
        return
    fi
    # Another Python, or a move of the checkout, makes what is there useless; only our own environment is replaced.
    if [ -e "$VENV" ] && ! ls "$VENV"/.pocketft-"$wanted"* >/dev/null 2>&1; then
        [ -e "$VENV/pyvenv.cfg" ] || fail "$VENV is in the way and is not a virtual environment; move it aside"
        rm -rf "$VENV"
    fi
    if [ ! -x "$VENV/bin/python" ]; then
        "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 ||
            fail "$python has no venv module; install it (on Debian and Ubuntu: sudo apt install python3-venv) and run this again"
        echo "Making a virtual environment in $VENV ($version)" >&2
        "$python" -m venv "$VENV" || fail "could not make $VENV; is the folder writable and the disk not full?"
    fi
    echo "Installing the tested versions (a few minutes the first time)" >&2
    # torch alone first: pip then takes the build that this machine's package index prefers (a CPU build where it offers
    # one), and nothing that follows can replace it.
    install torch
    install -e "$checkout${extra:+[$extra]}"
    touch "$stamp"
}

install() {
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$checkout/constraints.txt" "$@" ||
        fail "pip could not install $*; the lines above say why. Run this again when it is solved"
}
