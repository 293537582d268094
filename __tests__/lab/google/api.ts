/** One call of a Google API, with who makes it. */
export interface Call {
  readonly method: string;
  /** After the host, without the first slash. */
  readonly path: string;
  readonly query: URLSearchParams;
  readonly body: unknown;
  /** As a member of an IAM policy: `serviceAccount:…`. */
  readonly caller: string;
}

/** An API: answers a call with what becomes the JSON of the answer. */
export interface Api {
  answer(call: Call): unknown;
}

const STATUS: { readonly [code: number]: readonly [status: string, reason: string] } = {
  400: ["INVALID_ARGUMENT", "invalid"],
  401: ["UNAUTHENTICATED", "required"],
  403: ["PERMISSION_DENIED", "forbidden"],
  404: ["NOT_FOUND", "notFound"],
  409: ["ALREADY_EXISTS", "alreadyExists"],
  412: ["FAILED_PRECONDITION", "conditionNotMet"],
  501: ["UNIMPLEMENTED", "notImplemented"],
  503: ["UNAVAILABLE", "backendError"],
};

/** A refusal, as Google words it. */
export class ApiError extends Error {
  constructor(
    readonly code: number,
    message: string,
    private readonly reason?: string,
  ) {
    super(message);
  }

  toJSON(): object {
    const [status, reason] = STATUS[this.code] ?? ["INTERNAL", "internalError"];
    const error = { message: this.message, domain: "global", reason: this.reason ?? reason };
    return { error: { code: this.code, message: this.message, status, errors: [error] } };
  }
}

/** Whatever the lab was not made for is an error, never a silent success. */
export const notInTheLab = ({ method, path }: Call) => new ApiError(501, `The lab does not know ${method} ${path}`);
