# shellcheck shell=bash
# The frame of `runner-host doctor` and `cache-host doctor`: it runs their checks one after the other and shows what they
# say. Sourced, with host.sh, by a program that says which one it is (program, doctor) and what it checks (checks). Nothing
# here may hang or give up because a part of the host is broken.
#
# A check is a function check_NAME, which runs in a process of its own, for so long and no longer. What it prints is its
# figure. It fails by `die SENTENCE`, or ends by `warn SENTENCE` or `skip SENTENCE`.
# shellcheck disable=SC2154

# What programs say is looked at here.
export LC_ALL=C HOME=${HOME:-/root}
umask 077

warn() {
  printf '%s\n' "$*"
  exit 80
}

skip() {
  printf '%s\n' "$*"
  exit 81
}

# state_of NAME, detail_of NAME: of a check that has been.
state_of() { head -n 1 "$results/$1" 2>/dev/null || true; }
detail_of() { tail -n +2 "$results/$1" 2>/dev/null || true; }

# requires NAME…: one cause is one failure. What a check could only repeat, it leaves to the one that is named.
requires() {
  local name detail
  for name; do
    [[ $(state_of "$name") != FAILED ]] || skip "because $name fails"
    detail=$(detail_of "$name")
    [[ $(state_of "$name") != skipped || $detail != because* ]] || skip "$detail"
  done
}

# ask URL [CURL-OPTION…]: puts the answer into `status`, `$results/.head` and `$results/.body`. Without an answer it is 1, with the reason in `why`.
ask() {
  status=$(curl -sS --connect-timeout 5 --max-time 20 -D "$results/.head" -o "$results/.body" -w '%{http_code}' "$@" 2>"$results/.why") || {
    why=$(sed 's/^curl: ([0-9]*) //; q' "$results/.why")
    return 1
  }
}

# ask_google URL [CURL-OPTION…]: as this VM's service account. The token reaches curl through its standard input: everybody may read a command line.
ask_google() {
  local token
  token=$(metadata instance/service-accounts/default/token | json_get access_token) ||
    die "The metadata server gives no token: give this VM a service account."
  ask "$@" -K - <<<"header = \"Authorization: Bearer $token\"" || die "Google does not answer at $1: $why; the subnet of this VM needs Cloud NAT or Private Google Access."
}

# said_google: the reason in Google's last answer
said_google() { json_get error.message <"$results/.body" 2>/dev/null || printf 'no reason'; }

# may_read SECRET-VERSION
may_read() {
  local account project secret
  IFS=/ read -r _ project _ secret _ <<<"$1"
  ask_google "${CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER:-https://secretmanager.googleapis.com/}v1/$1:access"
  case $status in
    200) ;;
    403)
      account=$(metadata instance/service-accounts/default/email)
      die "The service account $account may not read the secret $1: grant it the role roles/secretmanager.secretAccessor on it ($(said_google))."
      ;;
    400 | 404) die "There is no secret $1 that could be read: add a version with: gcloud secrets versions add $secret --project=$project --data-file=- ($(said_google))." ;;
    *) die "The secret $1 cannot be read: Secret Manager answers $status; try again later ($(said_google))." ;;
  esac
}

# reach NAME URL [CURL-OPTION…]: whether a server answers at all
reach() {
  if ! ask "${@:2}"; then
    [[ $why != *certificate* ]] || why+=" (if that is by a private authority, this host has to know it: tls-ca-file)"
    die "$1 does not answer at $2: $why; look closer with: curl -v $2"
  fi
  [[ $status != 5?? ]] || die "$1 answers $status at $2: it is out of order, this host is not."
}

# clock_of NAME URL: this host's clock against that server's. With a wrong clock no certificate is valid.
clock_of() {
  local date off
  ask "$2" --insecure || skip "$1 does not answer"
  date=$(tr -d '\r' <"$results/.head" | sed -n 's/^[Dd]ate: *//p' | tail -n 1)
  [[ -n $date ]] || skip "$1 does not say what time it is"
  off=$(($(date +%s) - $(date -d "$date" +%s)))
  ((off >= -30 && off <= 30)) ||
    die "The clock is ${off#-} s $( ((off < 0)) && echo behind || echo 'ahead of') $1's, and certificates and signatures are judged by it: start what sets it with: systemctl restart chrony (or systemd-timesyncd); look at: timedatectl"
  printf "%s s off %s's\n" "$off" "$1"
}

# host_of URL-OR-HOST-AND-PORT
host_of() { sed -E 's,^[a-z]+://,,; s,[/?].*,,; s,.*@,,; s,:[0-9]+$,,' <<<"$1"; }

# is_name HOST: not an address
is_name() { [[ $1 != \[* && ! $1 =~ ^[0-9.]+$ ]]; }

# by_name URL: skips a check that needs a name, if names are what fails.
by_name() { ! is_name "$(host_of "$1")" || requires dns; }

# resolve HOST…
resolve() {
  local host names=() failed
  for host; do ! is_name "$host" || names+=("$host"); done
  mapfile -t names < <(printf '%s\n' "${names[@]}" | grep . | sort -u)
  failed=$(
    for host in "${names[@]}"; do
      { timeout 10 getent ahosts "$host" >/dev/null || printf '%s\n' "$host"; } &
    done
    wait
  )
  [[ -z $failed ]] ||
    die "No address is found for $(sort <<<"$failed" | paste -sd , | sed 's/,/, /g'): look at the name servers with: resolvectl status; and ask again with: getent ahosts ${failed%%$'\n'*}"
  printf '%s names\n' "${#names[@]}"
}

# disks_have_room PERCENT ADVICE PATH…: looks at the file systems of these paths, at each once
disks_have_room() {
  local limit=$1 advice=$2 target used inodes said=''
  while read -r used inodes target; do
    ((${used%\%} <= limit)) ||
      die "$target is $used full: see what fills it with: du -xh --max-depth 3 $target | sort -h | tail; $advice"
    # "-": it does not count them.
    [[ $inodes == - ]] || ((${inodes%\%} <= limit)) ||
      die "$target has $inodes of its inodes in use: see where the many files are with: du -x --inodes $target | sort -n | tail; $advice"
    said+="${said:+, }$target $used"
  done < <(df --output=pcent,ipcent,target "${@:3}" | tail -n +2 | sort -u)
  [[ -n $said ]] || die "No disk answers: see: dmesg | tail"
  printf '%s\n' "$said"
}

# services_run UNIT…: that they run, and that no other has failed but may_be_down
services_run() {
  local unit down=() failed
  for unit; do systemctl is-active --quiet "$unit" || down+=("$unit"); done
  if ((${#down[@]})); then
    # For which Docker waits.
    requires data-disk
    die "Not running: ${down[*]}; see why with: journalctl -n 50 -u ${down[0]}; start it with: systemctl start ${down[0]}"
  fi
  failed=$(systemctl list-units --state=failed --plain --no-legend | awk -v ignored="${may_be_down:-}" '$1 != ignored { print $1 }')
  unit=$(grep -E '^(runner-host|cache-host|gitlab-runner|docker|containerd|google-cloud-ops-agent)' <<<"$failed" | head -n 1) || true
  [[ -z $unit ]] || die "$unit failed; see why with: journalctl -n 50 -u $unit; try it again with: systemctl restart $unit"
  [[ -z $failed ]] || warn "Of the system's own units failed: ${failed//$'\n'/ }; see: systemctl status ${failed%%$'\n'*}"
  printf '%s run\n' "$#"
}

# configuration_is_newest CHECK…: follow-config says whether what Terraform wrote last is in use. If it is not because of what
# one of these checks found, they say it better.
configuration_is_newest() {
  local said name
  [[ $(state_of metadata) == ok ]] || warn "Whether it is the newest cannot be said: the metadata server does not answer."
  said=$(metadata instance/guest-attributes/gitlab-runner/config 2>/dev/null) ||
    warn "Whether it is the newest cannot be said: this VM has no guest attribute gitlab-runner/config."
  [[ $said != failed:* ]] || {
    for name; do requires "$name"; done
    die "The newest configuration is not in use, the one before is: ${said#failed: }"
  }
}

# pull URL ADVICE: a manifest and a blob of a small image from a registry mirror, as Docker does
pull() {
  local url=${1%/} mirror="The registry mirror at $1" advice=$2 image digest start=${EPOCHREALTIME/./}
  local accept=application/vnd.oci.image.index.v1+json,application/vnd.docker.distribution.manifest.list.v2+json
  accept+=,application/vnd.oci.image.manifest.v1+json,application/vnd.docker.distribution.manifest.v2+json
  get() { ask "$url/v2/$1" -L -H "Accept: $accept" || die "$mirror does not answer: $why; $advice"; }
  got() {
    [[ $status == 200 ]] || die "$mirror gives no $1: it answers $status ($(head -c 200 "$results/.body")); $advice"
  }
  find_digest() {
    [[ $(cat "$results/.body") =~ \"digest\":\ *\"(sha256:[0-9a-f]{64})\" ]] || die "$mirror gives something else as $1; $advice"
    digest=${BASH_REMATCH[1]}
  }
  get ''
  got "answer to Docker's first question"
  for image in hello-world alpine; do
    get "library/$image/manifests/latest"
    [[ $status == 404 ]] || break
  done
  got "manifest of $image:latest"
  if grep -q '"manifests"' "$results/.body"; then
    find_digest "index of $image:latest"
    get "library/$image/manifests/$digest"
    got "manifest of $image:latest"
  fi
  find_digest "manifest of $image:latest"
  get "library/$image/blobs/$digest"
  got "blob of $image:latest"
  [[ $digest == "sha256:$(sha256sum <"$results/.body" | cut -d ' ' -f 1)" ]] ||
    die "$mirror gives a blob that is not the one it should be: its disk lost data; $advice"
  printf '%s pulled in %s ms\n' "$image" $(((${EPOCHREALTIME/./} - start) / 1000))
}

# cache_works ADVICE <JSON
cache_works() {
  local said code=0
  said=$("$lib/build-cache-check" "doctor/$(uname -n)") || code=$?
  case $code in
    0) printf '%s\n' "$said" ;;
    4)
      requires configuration
      die "$said: it has others than the secret has now; if it is a cache host's, there: systemctl restart cache-host-keys cache-host-config"
      ;;
    5) die "$said: if it is a cache host's, there this makes it: cache-host apply" ;;
    *)
      requires data-disk
      die "$said; $1"
      ;;
  esac
}

# error_lines SEE <LOG: in JSON, as key=value, or by gitlab-runner and versitygw in their own ways
error_lines() {
  local number newest
  plain | tr -d '\0' |
    grep -E '"level":"(error|fatal|panic)"|level=(error|fatal|panic)|^(ERROR|FATAL|PANIC): |\[(INTERNAL ERROR|PANIC)\]' |
    # Somebody asked the mirror for what there is not. A layer's time was up, but another image, or the disk guard, was first.
    grep -v 'http.response.status=4\|returned from OnExpire(.*): unknown blob' >"$results/.lines" || true
  number=$(wc -l <"$results/.lines")
  ((number)) || return 0
  newest=$(tail -n 1 "$results/.lines" | sed -E 's/^\{(.*)\}$/\1/; s/"//g' | cut -c 1-300)
  warn "$number in the last hour, see them with: $1; the newest: $newest"
}

check_bootstrap() {
  local said unit=$program-bootstrap.service
  if [[ -e $state/bootstrapped ]]; then
    date -u -r "$state/bootstrapped" '+done on %F at %H:%M UTC'
    return
  fi
  said=$(metadata instance/guest-attributes/gitlab-runner/status -m 5 --retry 0 2>/dev/null) || said='nothing'
  [[ $said != failed:* ]] ||
    die "The set-up failed and is tried again every minute: ${said#failed: }; all of it: journalctl -u $unit"
  die "The set-up is not done, and says: $said; follow it with: journalctl -f -u $unit"
}

check_metadata() {
  local why
  why=$(metadata instance/name -m 5 --retry 0 2>&1) || {
    by_name "${GCE_METADATA_HOST:-metadata.google.internal}"
    die "The metadata server does not answer: ${why#curl: ([0-9]*) }; without it the host gets no configuration and no secret; look at: ip route get 169.254.169.254; a firewall on the host?"
  }
  printf '%s\n' "$why"
}

# run_check NAME: leaves its state, and its figure or its sentence, in the results.
run_check() {
  local name=$1 limit=${DOCTOR_SECONDS:-30} grace=5 code=0 state detail
  # Also when it is interrupted, the VM that was made has to go.
  [[ $name != machine ]] || limit=1000 grace=300
  rm -f "$errors".*
  # In the background: a trap runs at once during `wait` only. timeout ends all that the check started.
  # shellcheck disable=SC2016
  timeout -k "$grace" "$limit" "$BASH" -c '. "$1"; examine "$2"' "$program" "$doctor" "$name" \
    </dev/null >"$results/.figure" 2>"$errors" &
  running=$!
  wait "$running" || code=$?
  running=
  case $code in
    0) state=ok ;;
    80) state=warning ;;
    81) state=skipped ;;
    *) state=FAILED ;;
  esac
  if [[ $state != FAILED ]]; then
    detail=$(cat "$results/.figure")
  elif ((code == 124 || code == 137)); then
    detail="This was not done after $limit s; try again, and look at how busy the host is: uptime"
  elif [[ -e $errors.mark ]]; then
    detail=$(tail -c +$(($(cat "$errors.mark") + 1)) "$errors")
  else
    detail="This failed: $(cat "$errors.command" 2>/dev/null) ended with status $code: $(tail -n 3 "$errors")"
  fi
  detail=$(plain <<<"$detail" | paste -sd ' ' | tr -d '[:cntrl:]' | cut -c 1-1000)
  printf '%s\n%s\n' "$state" "$detail" >"$results/$name"
}

# examine NAME: the process of one check
examine() {
  trap 'printf %s "$BASH_COMMAND" >"$errors.command"' ERR
  set -E
  "check_$1"
}

as_json() {
  python3 -c '
import json, sys
host, time, results, *names = sys.argv[1:]
checks = []
for name in names:
    with open(f"{results}/{name}", encoding="utf-8", errors="replace") as file:
        state, detail = file.read().split("\n")[:2]
    checks.append({"name": name, "state": state, "detail": detail})
ok = all(check["state"] != "FAILED" for check in checks)
print(json.dumps({"host": host, "time": time, "ok": ok, "checks": checks}))
' "$(uname -n)" "$(date -u +%FT%TZ)" "$results" "$@"
}

# diagnose [OPTION…]: the checks of the list `checks`, in that order
diagnose() {
  local name option json='' state
  local -A number=()
  for option; do
    case $option in
      --json) json=1 ;;
      --create-machine)
        [[ " ${checks[*]} " == *' machine '* ]] || usage
        export create_machine=1
        ;;
      *) usage ;;
    esac
  done
  if (($(id -u))); then
    printf 'Only root can look everywhere: sudo %s doctor\n' "$program" >&2
    exit 2
  fi
  # In memory: it must work when the disks are full.
  results=$(mktemp -d "$root/run/doctor.XXXXXXXX")
  errors=$results/.errors
  export results errors TMPDIR=$results
  trap 'rm -rf "$results"' EXIT
  trap '[[ -z ${running:-} ]] || { kill "$running"; wait "$running"; } || true; exit 130' INT TERM
  for name in "${checks[@]}"; do
    run_check "$name"
    state=$(state_of "$name")
    number[$state]=$((${number[$state]:-0} + 1))
    [[ -n $json ]] || printf '%-14s %-8s %s\n' "$name" "$state" "$(detail_of "$name")"
  done
  if [[ -n $json ]]; then
    as_json "${checks[@]}"
  else
    printf '%s failed, %s warnings, %s skipped, %s ok\n' \
      "${number[FAILED]:-0}" "${number[warning]:-0}" "${number[skipped]:-0}" "${number[ok]:-0}"
  fi
  ((${number[FAILED]:-0} == 0))
}

usage() {
  printf 'Usage: %s doctor [--json]%s\n' "$program" "$([[ " ${checks[*]} " != *' machine '* ]] || printf ' [--create-machine]')" >&2
  exit 2
}
