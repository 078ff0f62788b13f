#!/bin/sh
# Say in one line what is wrong with this machine, then run the command; with SPECTRALMC_GPU set, only on a machine that is as it should be.
set -eu
spectralmc device --brief ${SPECTRALMC_GPU:+--gpu} >&2 || [ -z "${SPECTRALMC_GPU:-}" ]
exec "$@"
