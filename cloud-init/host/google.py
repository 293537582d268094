"""What the programs on a host know of Google: the metadata server of their VM, and where the APIs are."""
import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request

METADATA = f"http://{os.environ.get('GCE_METADATA_HOST', 'metadata.google.internal')}/computeMetadata/v1/instance/"
NETWORK_ERRORS = (OSError, http.client.HTTPException)


def _endpoint(api, default):
    return os.environ.get(f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{api}", default).rstrip("/") + "/"


SECRET_MANAGER = _endpoint("SECRETMANAGER", "https://secretmanager.googleapis.com/")
COMPUTE = _endpoint("COMPUTE", "https://compute.googleapis.com/compute/v1/")

# The metadata server is link-local: a proxy could only leak its tokens.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Failure(Exception):
    """A sentence for the operator."""


class Unavailable(Failure):
    """A failure that may go away without a new configuration."""


def log(text):
    print(text, flush=True)


def metadata(path, data=None, timeout=10):
    """Value and ETag of what is below `instance/`, or beside it as `../…`; with data it is written."""
    request = urllib.request.Request(urllib.parse.urljoin(METADATA, path), data, {"Metadata-Flavor": "Google"}, method="GET" if data is None else "PUT")
    with _direct.open(request, timeout=timeout) as answer:
        return answer.read().decode(), answer.headers.get("ETag", "0")


def publish(key, value):
    """True if the guest attribute was written."""
    line = re.sub("[^ -~]", "?", " ".join(value.split())).translate(str.maketrans('"\\', "''"))
    try:
        metadata(f"guest-attributes/gitlab-runner/{key}", line[:500].encode())
        return True
    except NETWORK_ERRORS as error:
        log(f"Could not publish the guest attribute gitlab-runner/{key}: {error}")
        return False


def service_account(what):
    try:
        return metadata(f"service-accounts/default/{what}")[0]
    except NETWORK_ERRORS as error:
        raise Unavailable(f"the metadata server gives no {what} of a service account: {error}; does this instance have one?") from None


def access_token():
    try:
        return json.loads(service_account("token"))["access_token"]
    except (ValueError, KeyError, TypeError):
        raise Unavailable(f"the metadata server at {METADATA} answers the question for a token with something else; "
                          "does this instance have a service account?") from None
