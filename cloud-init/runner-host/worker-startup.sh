#!/bin/bash
# The startup-script of every worker VM (Container-Optimized OS, Ubuntu or Debian): runs as root at each boot.
set -euo pipefail

# Jobs must not get at the token of the worker's service account, nor at its other metadata. Docker runs its DOCKER-USER
# chain before its own rules and leaves it alone when it starts. DNS stays: the same address is the resolver.
block_metadata() {
  local iptables=$1 rule=(-d "$2" -p tcp ! --dport 53 -j REJECT --reject-with tcp-reset)
  "$iptables" -w -n -L DOCKER-USER >/dev/null 2>&1 || "$iptables" -w -N DOCKER-USER
  "$iptables" -w -C DOCKER-USER "${rule[@]}" 2>/dev/null || "$iptables" -w -I DOCKER-USER "${rule[@]}"
}

# A Debian image may get iptables only with Docker, which docker-machine installs.
until command -v iptables >/dev/null; do sleep 1; done
block_metadata iptables 169.254.169.254
# Without IPv6 in the kernel there is nothing to block.
if command -v ip6tables >/dev/null && ip6tables -w -n -L >/dev/null 2>&1; then
  block_metadata ip6tables fd20:ce::254
fi

# Docker-in-docker reads the mirror from this folder, which jobs get as /etc/docker.
etc_docker=${ETC_DOCKER:-/var/lib/gitlab-runner-worker/etc-docker}
mkdir -p "$etc_docker"
# 404 is the answer where no mirror is set.
mirror=$(curl -sS --noproxy '*' --retry 5 --retry-connrefused -H 'Metadata-Flavor: Google' -w '\n%{http_code}' \
  "http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1/instance/attributes/registry-mirror")
if [[ ${mirror##*$'\n'} == 200 ]]; then
  mirror=${mirror%$'\n'*}
  mirror=${mirror//\\/\\\\}
  printf '{"registry-mirrors": ["%s"]}\n' "${mirror//\"/\\\"}" >"$etc_docker/daemon.json.new"
  mv "$etc_docker/daemon.json.new" "$etc_docker/daemon.json"
fi
