#!/bin/sh
# Has a runner host drain itself before Terraform stops, replaces or deletes it, or go on after that.
# Runs where Terraform runs. Environment: WANTED (drain or resume), PROJECT, ZONE, INSTANCE.
set -eu

of_instance="--project=$PROJECT --zone=$ZONE"
tab=$(printf '\t')

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
  command -v gcloud >/dev/null || exit 0
  # Nor did it drain anything where only Terraform has credentials.
  [ -n "${CLOUDSDK_AUTH_ACCESS_TOKEN:-}" ] || gcloud auth print-access-token >/dev/null 2>&1 || exit 0
  attempts=4
  until problem=$(instances remove-metadata --keys=drain-request 2>&1); do
    attempts=$((attempts - 1))
    if [ "$attempts" = 0 ]; then
      printf '%s\n' "$INSTANCE could not be told to take jobs again: $problem" \
        "If Terraform had it drained, it stays so for an hour or longer." \
        "Tell it by hand: gcloud compute instances remove-metadata $INSTANCE $of_instance --keys=drain-request" >&2
      exit 0
    fi
    sleep "${POLL_SECONDS:-10}"
  done
  exit 0
fi

command -v gcloud >/dev/null || not_drained "there is no gcloud here."

# look: 0 if gcloud could ask; `shown` is what the host has published, or what gcloud says.
look() { shown=$(instances get-guest-attributes --query-path=gitlab-runner/ '--format=value(key,value)' 2>&1); }
published() { printf '%s\n' "$shown" | sed -n "s/^$1$tab//p"; }

# A host publishes `drain` before it can run jobs. One that is ready has run some, whatever became of that.
heard=''
if look; then
  heard=$(published drain)
  status=$(published status)
  if [ -z "$heard" ] && [ "$status" != ready ]; then
    echo "$INSTANCE never got so far as to run jobs${status:+, and says: $status}. There is nothing to drain."
    exit 0
  fi
fi
request=$(date +%s)
problem=$(instances add-metadata "--metadata=drain-request=$request" 2>&1) || not_drained "$problem"

echo "Draining $INSTANCE: it takes no new job, and the running ones have time to end …"
# alive: when it last gave a sign of life; patience: how long it may give none. A host that drains says something each minute, but
# for the quarter of an hour that the deletion of its workers may take.
alive=$request patience=${ANSWER_SECONDS:-90} looked=$request slept='' previous=''
while :; do
  if look; then
    answer=$(published drain)
    problem='does it run?'
  else
    answer=''
    problem="gcloud says: $shown"
  fi
  now=$(date +%s)
  # This machine slept, and could hear nothing. Twice in a row it is gcloud that hangs.
  if [ $((now - looked)) -lt 300 ]; then
    slept=''
  elif [ -z "$slept" ]; then
    slept=1 alive=$now
  fi
  looked=$now
  case $answer in
  # Or it still drains for a Terraform that was interrupted. After that it reads this wish.
  "$request "* | [1-9]*" draining: "*)
    # What is published stays when its host hangs: a sign of life is what was not there before.
    if [ "$answer" != "$heard" ]; then
      heard=$answer alive=$now patience=${LOST_SECONDS:-1200}
      sentence=$(printf '%s\n' "${answer#* }" | sed 's/ ([0-9:]*)$//')
      [ "$sentence" = "$previous" ] || printf '%s\n' "$INSTANCE: $sentence"
      previous=$sentence
    fi
    ;;
  esac
  case $answer in "$request drained:"*) exit 0 ;; esac
  [ $((now - alive)) -lt "$patience" ] ||
    not_drained "no answer for $((now - alive)) s${previous:+, after it said: $previous}; $problem"
  [ $((now - request)) -lt "${LAST_SECONDS:-9000}" ] || not_drained "it does not end, and says: $previous"
  # More than ten looks a minute are refused by Google.
  sleep "${POLL_SECONDS:-10}"
done
