# shellcheck shell=bash
# What cache-host and runner-host have in common. Sourced; the tests set HOST_ROOT.
set -euo pipefail
shopt -s inherit_errexit

root=${HOST_ROOT:-}
settings=$root/etc/gitlab-runner-gce/settings.json
state=$root/var/lib/gitlab-runner-gce
# NEEDRESTART_SUSPEND: needrestart would restart services in the middle of the set-up.
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1

log() { printf '%s\n' "$*"; }

# mark: what went to standard error before it is no reason for a later failure. In a file, since subshells do it too.
mark() { [[ -z ${errors:-} ]] || stat -c %s "$errors" >"$errors.mark"; }

# die SENTENCE: ends a step; the sentence alone becomes the reason in the status.
die() {
  mark
  printf '%s\n' "$*" >&2
  exit 1
}

# json_get a.b <JSON: a string or number as it is, true and false, a list with NUL after each item.
json_get() {
  python3 -c '
import json, sys
value = json.load(sys.stdin)
for key in sys.argv[1].split("."):
    if key not in value:
        sys.exit(f"{sys.argv[1]} is missing in the JSON settings")
    value = value[key]
if isinstance(value, bool):
    value = json.dumps(value)
sys.stdout.write("".join(f"{item}\0" for item in value) if isinstance(value, list) else str(value))
' "$1"
}

setting() { json_get "$1" <"$settings"; }

# metadata PATH [CURL-OPTION…]
metadata() {
  curl -sSf --noproxy '*' --max-time 20 --retry 3 --retry-connrefused -H 'Metadata-Flavor: Google' "${@:2}" \
    "http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1/$1"
}

# publish KEY VALUE: a guest attribute, for whoever waits for this host. A host must not fail because nobody can watch it.
publish() {
  local LC_ALL=C value=$2
  value=${value//[$'\n\r\t']/ } value=${value//[^ -~]/?} value=${value//[\"\\]/\'}
  printf %s "${value:0:500}" |
    metadata "instance/guest-attributes/gitlab-runner/$1" -o /dev/null -X PUT --data-binary @- 2>/dev/null ||
    log "Could not publish the guest attribute gitlab-runner/$1; is the instance attribute enable-guest-attributes TRUE?"
}

# plain: without colours and empty lines
plain() { sed $'s/\e\\[[0-9;]*[A-Za-z]//g; /^[[:space:]]*$/d'; }

# begin: from here on, a command that fails becomes the status "failed: STEP: WHY".
begin() {
  step=start
  errors=$(mktemp)
  mark
  # Not through a pipe: a reason has to be in the file before the next command runs.
  exec 3>&2 2>>"$errors"
  tail -n +1 -f "$errors" >&3 2>/dev/null &
  tail_pid=$!
  trap 'report $?' EXIT
  # At once: what retries and what waits would go on until systemd kills it, and a shutdown would take that long.
  trap 'stopping=1; exit 143' TERM
  trap 'failed_command=$BASH_COMMAND' ERR
  set -E
  publish status starting
}

step() {
  step=$1
  mark
  log "Step $step"
  publish status "step: $step"
}

# finished WHAT: leaves a marker, which outlives a power cut only together with what it stands for.
finished() {
  sync
  mkdir -p "$state"
  : >"$state/$1"
}

# ready: the end of the bootstrap. Its marker comes last, so that an interrupted one runs again.
ready() {
  publish status ready
  log "Ready"
  finished bootstrapped
}

report() {
  local status=$1 why
  trap - EXIT
  exec 2>&3 3>&-
  # A shutdown in the middle is no failure: the next boot goes on.
  if ((status)) && [[ -z ${stopping:-} ]]; then
    why=$(tail -c +$(($(cat "$errors.mark") + 1)) "$errors" | plain | tail -n 3 | paste -sd ' ')
    why="failed: $step: ${why:-${failed_command:-it} ended with status $status}"
    log "$why"
    publish status "$why"
  fi
  sleep 0.5 # for the last lines to be shown
  kill "$tail_pid" 2>/dev/null || true
  rm -f "$errors" "$errors.mark"
  exit "$status"
}

# retry ATTEMPTS COMMAND…: a plain command; inside a function `set -e` would not hold here.
retry() {
  local attempts=$1 pause=${RETRY_PAUSE:-5}
  shift
  until "$@"; do
    attempts=$((attempts - 1))
    ((attempts)) || return 1
    log "$1 failed; next try in $pause s."
    sleep "$pause"
    pause=$((pause * 2))
    mark
  done
}

download() {
  local reason
  reason=$(curl -fsSL --connect-timeout 20 --retry 5 --retry-all-errors -o "$2" "$1" 2>&1) ||
    die "$1 cannot be downloaded: ${reason##*$'\n'}"
}

# import_key URL FINGERPRINT FILE: only that one key of what the URL holds gets into FILE.
import_key() {
  local url=$1 wanted keyring=$3 home gpg found
  wanted=$(tr -d '[:space:]' <<<"$2" | tr a-f A-F)
  mkdir -p "${keyring%/*}"
  download "$url" "$keyring.new"
  home=$(mktemp -d)
  gpg=(gpg --homedir "$home" --batch --quiet --no-autostart)
  "${gpg[@]}" --import "$keyring.new" 2>/dev/null || true
  # The fpr line right after a pub line: the fingerprints of subkeys do not count.
  found=$("${gpg[@]}" --with-colons --list-keys 2>/dev/null | awk -F: '$1 == "fpr" && pub { print $10 } { pub = $1 == "pub" }')
  "${gpg[@]}" --export "$wanted" >"$keyring.new" 2>/dev/null
  rm -rf "$home"
  [[ -n $found ]] || die "What $url serves is not an OpenPGP key."
  grep -qx -- "$wanted" <<<"$found" ||
    die "The repository key at $url has the fingerprint ${found//$'\n'/ and }, expected $wanted: if the owner of the repository announced a new key, set the new fingerprint; otherwise do not trust it."
  chmod 0644 "$keyring.new"
  mv "$keyring.new" "$keyring"
}

# add_repository NAME: the apt repository of that name in the settings.
add_repository() {
  local name=$1 url key_url fingerprint suite components keyring sources
  url=$(setting "$name.url")
  key_url=$(setting "$name.keyUrl")
  fingerprint=$(setting "$name.keyFingerprint")
  suite=$(setting "$name.suite")
  components=$(setting "$name.components")
  # shellcheck source=/dev/null disable=SC2016
  [[ $suite != *'$CODENAME'* ]] || suite=${suite//'$CODENAME'/$(. /etc/os-release && printf %s "$VERSION_CODENAME")}
  keyring=$root/etc/apt/keyrings/$name.gpg
  sources=$root/etc/apt/sources.list.d/$name.sources
  import_key "$key_url" "$fingerprint" "$keyring"
  mkdir -p "${sources%/*}"
  cat >"$sources.new" <<END
Types: deb
URIs: $url
Suites: $suite
Components: $components
Signed-By: $keyring
END
  chmod 0644 "$sources.new"
  mv "$sources.new" "$sources"
}

apt() { apt-get -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -o Dpkg::Options::=--force-confold "$@"; }

# install_packages NAME… [-- PACKAGE…]: adds the repositories and installs their packages at the versions in the settings.
install_packages() {
  local packages=() some
  while (($#)) && [[ $1 != -- ]]; do
    add_repository "$1"
    mapfile -d '' -t some < <(setting "$1.packages")
    ((${#some[@]})) || die "$settings lists no packages for $1."
    packages+=("${some[@]}")
    shift
  done
  retry 6 dpkg --configure -a
  retry 6 apt -qq -o APT::Update::Error-Mode=any update
  retry 6 apt -qq -y install --no-install-recommends "${packages[@]}" "${@:2}"
  # An upgrade on its own would restart Docker or the runner below running jobs.
  apt-mark hold "${packages[@]%%=*}" >/dev/null
}

# ops_agent FILE: a step that installs Google's Ops Agent with this configuration, if the settings ask for it. Jobs need none,
# and whoever asked for it relies on it: it comes last, and fails like any other.
ops_agent() {
  local enabled configuration=$root/etc/google-cloud-ops-agent/config.yaml
  enabled=$(setting opsAgent.enabled)
  [[ $enabled == true ]] || return 0
  step ops-agent
  # Before the package, which leaves it alone and starts the agent.
  mkdir -p "${configuration%/*}"
  cp "$1" "$configuration.new"
  mv "$configuration.new" "$configuration"
  install_packages opsAgent
  systemctl enable --now google-cloud-ops-agent.service ||
    die "Google's Ops Agent does not start: $(journalctl -q -u 'google-cloud-ops-agent*' -o cat -n 3)"
}
