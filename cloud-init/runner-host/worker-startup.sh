#!/bin/bash
# The startup-script of every worker VM (Container-Optimized OS, Ubuntu or Debian): runs as root at each boot, and leaves
# a watch behind, a service that looks now and then whether this VM is of use to anybody, and whether its disk fills.
set -euo pipefail

metadata_server=http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1
# What the watch has to know. Of this boot only: before it, no manager could be heard.
state=${WORKER_STATE:-/run/gitlab-runner-worker}

log() { printf '%s\n' "$*"; }

# Jobs must not get at the token of the worker's service account, nor at its other metadata. Docker runs its DOCKER-USER
# chain before its own rules and leaves it alone when it starts. DNS stays: the same address is the resolver.
block_metadata() {
  local iptables=$1 rule=(-d "$2" -p tcp ! --dport 53 -j REJECT --reject-with tcp-reset)
  "$iptables" -w -n -L DOCKER-USER >/dev/null 2>&1 || "$iptables" -w -N DOCKER-USER
  "$iptables" -w -C DOCKER-USER "${rule[@]}" 2>/dev/null || "$iptables" -w -I DOCKER-USER "${rule[@]}"
}

# Docker-in-docker reads the mirror from this folder, which jobs get as /etc/docker.
mirror_in_jobs() {
  local etc_docker=${ETC_DOCKER:-/var/lib/gitlab-runner-worker/etc-docker} mirror
  mkdir -p "$etc_docker"
  # 404 is the answer where no mirror is set.
  mirror=$(curl -sS --noproxy '*' --retry 5 --retry-connrefused -H 'Metadata-Flavor: Google' -w '\n%{http_code}' \
    "$metadata_server/instance/attributes/registry-mirror")
  if [[ ${mirror##*$'\n'} == 200 ]]; then
    mirror=${mirror%$'\n'*}
    mirror=${mirror//\\/\\\\}
    printf '{"registry-mirrors": ["%s"]}\n' "${mirror//\"/\\\"}" >"$etc_docker/daemon.json.new"
    mv "$etc_docker/daemon.json.new" "$etc_docker/daemon.json"
  fi
}

# A copy, since this file goes when the script has ended; read by bash, since some images let nothing be executed there.
start_watch() {
  mkdir -p "$state"
  cp "${BASH_SOURCE[0]}" "$state/startup.sh.new"
  mv "$state/startup.sh.new" "$state/startup.sh"
  systemctl stop gitlab-runner-worker.service 2>/dev/null || true
  systemd-run --quiet --collect --unit=gitlab-runner-worker --description="Watch whether this GitLab Runner worker is of use" \
    --property=Restart=always --property=RestartSec=10 --property=StandardOutput=journal+console \
    bash "$state/startup.sh" watch
}

# A look that fails, since Docker is not there yet or anything else, ends that look only.
watch() {
  while true; do
    bash "${BASH_SOURCE[0]}" look || true
    sleep "${WORKER_POLL:-30}"
  done
}

look() {
  mkdir -p "$state"
  hear
  leave_if_forsaken
  prune_images
}

# attribute NAME DEFAULT: a number in this VM's metadata, as it is now, or as it was when somebody last answered
attribute() {
  local value
  value=$(curl -sSf --noproxy '*' --max-time 10 -H 'Metadata-Flavor: Google' "$metadata_server/instance/attributes/$1" 2>/dev/null) || true
  if [[ $value =~ ^[0-9]{1,7}$ ]]; then
    printf %s "$value" >"$state/$1"
  else
    value=$(cat "$state/$1" 2>/dev/null) || value=$2
  fi
  printf %s "$((10#$value))"
}

# In seconds. The clock may be set meanwhile.
uptime() {
  local seconds
  read -r seconds _ <"${PROC_UPTIME:-/proc/uptime}"
  printf %s "${seconds%.*}"
}

# job_runs: 0 if one does. Its services do not count: without a manager they would run for ever.
job_runs() {
  local types
  types=$(timeout 60 docker ps --filter label=com.gitlab.gitlab-runner.managed=true \
    --format '{{.Label "com.gitlab.gitlab-runner.type"}}' 2>/dev/null) || return 1
  grep -qx 'build\|predefined' <<<"$types"
}

# Two rules without a target count connections from outside to SSH and Docker: not those of jobs here, which come from
# Docker's networks. In the mangle table, before what other rules let in or drop.
connections() {
  local interface port rule
  interface=$(ip -4 route show default | sed -n 's/.* dev \([^ ]*\).*/\1/p; q')
  [[ -n $interface ]] || return 1
  for port in 22 2376; do
    rule=(INPUT -i "$interface" -p tcp --syn --dport "$port")
    iptables -w -t mangle -C "${rule[@]}" 2>/dev/null || iptables -w -t mangle -I "${rule[@]}" || return 1
  done
  iptables -w -t mangle -v -S INPUT | grep -- '--dport \(22\|2376\) '
}

# hear: the file `heard` gets the uptime when there last was a connection, or could have been one that nobody counted.
hear() {
  local count
  # Without iptables there is no Docker yet.
  if command -v iptables >/dev/null; then
    count=$(connections) || count="unknown since $(uptime)"
  else
    count=none
  fi
  if [[ $count != "$(cat "$state/count" 2>/dev/null)" ]]; then
    uptime >"$state/heard"
    printf '%s\n' "$count" >"$state/count"
  fi
}

# A manager that is still there connects twice a minute. Once it is gone, nobody else would end this VM.
leave_if_forsaken() {
  local silence limit
  silence=$(($(uptime) - $(cat "$state/heard")))
  limit=$(attribute manager-timeout 1800)
  ((silence > limit)) || return 0
  if job_runs && ((silence <= 86400)); then
    return 0
  fi
  log "This worker powers itself off: its manager has not been heard for $silence s (manager-timeout: $limit)."
  systemctl poweroff
}

# With a job, and while somebody talks to Docker, an image that was just pulled may have no container yet. Close to the
# end of the disk that does not count any more.
prune_images() {
  local folder full mark left
  folder=$(timeout 60 docker info -f '{{.DockerRootDir}}' 2>/dev/null) || return 0
  full=$(percent_full "$folder")
  mark=$(attribute docker-high-water 80)
  ((full > mark)) || return 0
  if ((full < 95)) && { job_runs || [[ -n $(ss -Htn state established '( sport = :2376 )' 2>/dev/null) ]]; }; then
    return 0
  fi
  timeout 600 docker image prune -af >/dev/null
  timeout 600 docker builder prune -af >/dev/null || true # an old Docker has none
  left=$(percent_full "$folder")
  ((left >= full)) ||
    log "The disk of $folder was $full % full (docker-high-water: $mark): images and build caches without a container are deleted, now it is $left %."
}

percent_full() { df -P "$1" | awk 'NR == 2 { print int($5) }'; }

case ${1:-} in
  watch) watch ;;
  look) look ;;
  *)
    # First: whatever else fails, this VM has an end.
    start_watch || log "The watch of this worker does not start."
    # A Debian image may get iptables only with Docker, which docker-machine installs.
    until command -v iptables >/dev/null; do sleep 1; done
    block_metadata iptables 169.254.169.254
    # Without IPv6 in the kernel there is nothing to block.
    if command -v ip6tables >/dev/null && ip6tables -w -n -L >/dev/null 2>&1; then
      block_metadata ip6tables fd20:ce::254
    fi
    mirror_in_jobs
    ;;
esac
