#!/bin/bash
# Upstream's docker-machine, which is appended to this script, with the options that only GitLab's fork has: the lab's
# Compute Engine honours them when the instance of that name is made. Whatever it cannot honour is an error.
set -euo pipefail
real=/usr/local/lib/lab/docker-machine

if [[ ! -x $real ]]; then
  mkdir -p "${real%/*}"
  sed '1,/^__PROGRAM__$/d' "$0" >"$real.$$"
  chmod 0755 "$real.$$"
  mv "$real.$$" "$real"
fi

known=() fork=()
for option; do
  value=${option#*=}
  case $option in
    --google-label=?*:*) fork+=(--data-urlencode "label=$value") ;;
    --google-metadata=?*=*) fork+=(--data-urlencode "metadata=$value") ;;
    --google-metadata-from-file=?*=*) fork+=(--data-urlencode "metadata=${value%%=*}=$(<"${value#*=}")") ;;
    --google-skip-firewall-create) fork+=(--data skip-firewall-create=true) ;;
    --google-label* | --google-metadata* | --google-accelerator* | --google-maintenance-policy* | --google-min-cpu-platform* | \
      --google-operation-backoff-*)
      echo "The lab's docker-machine cannot honour $option" >&2
      exit 1
      ;;
    *) known+=("$option") ;;
  esac
done
if ((${#fork[@]})); then
  curl -sSf -o /dev/null "${fork[@]}" "https://compute.googleapis.com/lab/instances/${!#}"
fi
# shellcheck disable=SC2093  # What follows is the program, not more of the script.
exec "$real" "${known[@]}"
__PROGRAM__
