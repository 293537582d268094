#!/bin/sh
# Waits until a host has set itself up, so that "terraform apply" fails when the host does.
# Runs where Terraform runs. Environment: PROJECT, ZONE, INSTANCE, TIMEOUT_SECONDS (900; 0 does not wait).
set -eu

timeout=${TIMEOUT_SECONDS:-900}
# A host whose set-up failed tries again after a minute: what failed before this apply is not yet what this apply did.
stale_seconds=${STALE_SECONDS:-90}
api=${CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE:-https://compute.googleapis.com/compute/v1/}
look="Look at it: gcloud compute instances get-guest-attributes $INSTANCE --project=$PROJECT --zone=$ZONE --query-path=gitlab-runner/
The whole log: gcloud compute instances get-serial-port-output $INSTANCE --project=$PROJECT --zone=$ZONE
Log in:        gcloud compute ssh $INSTANCE --project=$PROJECT --zone=$ZONE --tunnel-through-iap"

did_not_wait() {
  printf '%s\n' "Did not wait for $INSTANCE to set itself up: $1" "$look"
  exit 0
}

fail() {
  printf '%s\n' "$1" "$look" >&2
  exit 1
}

token_of_gcloud() {
  token=$(gcloud auth print-access-token 2>/dev/null) && [ -n "$token" ]
}

[ "$timeout" != 0 ] || did_not_wait "readyTimeout is 0."
command -v curl >/dev/null || did_not_wait "there is no curl here."
token=${GOOGLE_OAUTH_ACCESS_TOKEN:-}
if [ -z "$token" ]; then
  token_of_gcloud ||
    did_not_wait "GOOGLE_OAUTH_ACCESS_TOKEN is not set, and gcloud auth print-access-token gives no token."
fi

# The token goes through standard input: everybody may read a command line.
guest_attributes() {
  printf 'header = "Authorization: Bearer %s"\n' "$token" |
    curl -sS -K - --max-time 20 -w '\n%{http_code}' \
      "${api}projects/$PROJECT/zones/$ZONE/instances/$INSTANCE/getGuestAttributes?queryPath=gitlab-runner/" 2>&1
}

# A status holds neither " nor \, but Google writes these characters as \u….
status_in() {
  tr '\n' ' ' | sed -n 's/.*"key": *"status", *"value": *"\([^"]*\)".*/\1/p' |
    sed "s/\\\\u003[cC]/</g; s/\\\\u003[eE]/>/g; s/\\\\u003[dD]/=/g; s/\\\\u0026/\\&/g; s/\\\\u0027/'/g"
}

# The first message of an error, in parentheses.
said_google() {
  sed -n 's/.*"message": *"\([^"]*\)".*/ (\1)/p' | head -n 1
}

start=$(date +%s)
status='' previous='' seen=0 unreachable='' refused=0 denied=0
echo "Waiting for $INSTANCE to set itself up, at most $timeout s …"
while :; do
  answer=$(guest_attributes) || :
  code=$(printf '%s\n' "$answer" | tail -n 1)
  elapsed=$(($(date +%s) - start))
  case $code in
  200)
    status=$(printf '%s\n' "$answer" | sed '$d' | status_in)
    if [ -n "$status" ] && [ "$status" != "$previous" ]; then
      printf '%s\n' "$INSTANCE: $status"
      seen=$((seen + 1))
      previous=$status
    fi
    case $status in
    ready) exit 0 ;;
    failed:*)
      if [ "$seen" -gt 1 ] || [ "$elapsed" -ge "$stale_seconds" ]; then
        fail "$INSTANCE could not set itself up: ${status#failed: }"
      fi
      ;;
    esac
    ;;
  401)
    # This may wait for as long as a token lives.
    if [ "$refused" -gt 0 ] || ! token_of_gcloud; then
      fail "The Compute Engine API answers 401: the token is refused or has ended. Log in again with: gcloud auth login; or set GOOGLE_OAUTH_ACCESS_TOKEN to a new one; then apply again."
    fi
    refused=1
    ;;
  403)
    # One alone may be of the moment: so many questions were asked in this project.
    denied=$((denied + 1))
    [ "$denied" -lt 3 ] ||
      fail "The Compute Engine API answers 403$(printf '%s\n' "$answer" | said_google): who runs Terraform needs the permission compute.instances.getGuestAttributes in the project $PROJECT (it is in roles/compute.instanceAdmin.v1)."
    ;;
  000)
    # What curl says, such as of a proxy or a certificate: it may stay so until the timeout.
    [ "$answer" = "$unreachable" ] || printf '%s\n' "The Compute Engine API cannot be asked: $answer" | head -n 1
    unreachable=$answer
    ;;
  esac
  [ "$code" = 401 ] || refused=0
  [ "$code" = 403 ] || denied=0
  [ "$elapsed" -lt "$timeout" ] ||
    fail "$INSTANCE is not ready after $timeout s; its last status is \"${status:-none}\", the last answer of the Compute Engine API was $code."
  # More than ten looks a minute are refused by Google.
  sleep "${POLL_SECONDS:-10}"
done
