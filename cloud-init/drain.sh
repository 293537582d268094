#!/bin/sh
# Has a runner host drain itself before Terraform stops, replaces or deletes it, or go on after that.
# Runs where Terraform runs. Environment: WANTED (drain or resume), PROJECT, ZONE, INSTANCE.
set -eu

of_instance="--project=$PROJECT --zone=$ZONE"

not_drained() {
  printf '%s\n' "$INSTANCE is not drained: $1" \
    "Jobs that run there may end with it, and its worker VMs stay until a runner host of that name deletes them, or they power themselves off." \
    "Drain it by hand: gcloud compute ssh $INSTANCE $of_instance --tunnel-through-iap --command='sudo runner-host drain'" >&2
  exit 0
}

# Terraform's own token, where it has one in the environment.
if [ -n "${GOOGLE_OAUTH_ACCESS_TOKEN:-}" ]; then
  export CLOUDSDK_AUTH_ACCESS_TOKEN="${CLOUDSDK_AUTH_ACCESS_TOKEN:-$GOOGLE_OAUTH_ACCESS_TOKEN}"
fi
instances() {
  # shellcheck disable=SC2086 # two options, without anything that could be split
  gcloud compute instances "$1" "$INSTANCE" $of_instance "$2" ${3:+"$3"}
}

if [ "$WANTED" = resume ]; then
  if command -v gcloud >/dev/null; then
    instances remove-metadata --keys=drain-request >/dev/null 2>&1 || :
  fi
  exit 0
fi

command -v gcloud >/dev/null || not_drained "there is no gcloud here."
guest_attribute() {
  instances get-guest-attributes "--query-path=gitlab-runner/$1" '--format=value(value)' 2>/dev/null || :
}

ready=$(guest_attribute status)
if [ -n "$ready" ] && [ "$ready" != ready ]; then
  echo "$INSTANCE was never ready, and says: $ready. There is nothing to drain."
  exit 0
fi
request=$(date +%s)
problem=$(instances add-metadata "--metadata=drain-request=$request" 2>&1) || not_drained "$problem"

echo "Draining $INSTANCE: it takes no new job, and the running ones have time to end …"
start=$request
previous=''
while :; do
  status=$(guest_attribute drain)
  elapsed=$(($(date +%s) - start))
  case $status in
  "$request "*)
    status=${status#"$request "}
    [ "$status" = "$previous" ] || printf '%s\n' "$INSTANCE: $status"
    previous=$status
    case $status in
    drained:*) exit 0 ;;
    esac
    ;;
  *)
    [ "$elapsed" -lt "${ANSWER_SECONDS:-60}" ] || not_drained "it does not answer within $elapsed s; does it run, and was it ever ready?"
    ;;
  esac
  [ "$elapsed" -lt "${LAST_SECONDS:-8000}" ] || not_drained "it does not end, and says: $previous"
  sleep "${POLL_SECONDS:-5}"
done
