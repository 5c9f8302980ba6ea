#!/usr/bin/env bash
# Installs the programs that tests/services start, where this is a Debian and we may.  A test whose program is missing
# is skipped and says so, so that a failure here fails nothing.
set -uo pipefail
cd "$(dirname "$0")/.."
# tritonserver comes in a wheel that needs NumPy 1, so it gets an environment of its own (tests/services/triton.py).
if [ ! -e .triton/ready ] && [ -z "${SUISEN_TRITON:-}" ]; then
    { "${PYTHON:-python3}" -m venv .triton &&
        .triton/bin/python -m pip install --quiet "numpy<2" nvidia-pytriton onnxruntime && touch .triton/ready; } ||
        echo "tritonserver could not be installed; tests of it are skipped"
fi
declare -A packages=(
    [redis-server]=redis-server [prometheus]=prometheus [promtool]=prometheus [haproxy]=haproxy [nginx]=nginx
    [logrotate]=logrotate [yamllint]=yamllint [chromium]=chromium
)
missing=()
for program in "${!packages[@]}"; do
    PATH="$PATH:/usr/sbin" command -v "$program" >/dev/null || missing+=("${packages[$program]}")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
    echo "not installed: ${missing[*]}; tests of them are skipped"
    exit 0
fi
# The tests start these programs themselves: the packages must not.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
    echo "could not be installed: ${missing[*]}; tests of them are skipped"
rm -f /usr/sbin/policy-rc.d
exit 0
