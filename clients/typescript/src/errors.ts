/**
 * Errors the client throws.
 *
 *     BosalError
 *     ├── InvalidRequest       the request itself is wrong: change it before trying again
 *     ├── NotFound             a model, recipe or version the server does not have
 *     ├── Overloaded           the server's queue is full: try again after `retryAfter`
 *     ├── Unavailable          the server cannot be reached or is shutting down
 *     ├── DeadlineExceeded     the call's timeout passed
 *     ├── Cancelled            the call was cancelled
 *     ├── Unauthenticated      the server wants a valid API key
 *     ├── PermissionDenied     the API key is not for this call
 *     ├── Unimplemented        this server cannot do what was asked
 *     ├── IncompleteAnswer     the answer cannot be read as what was asked for
 *     └── InternalError        the server failed; `metadata.request_id` finds it in its log
 */

import { fromBinary, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import { anyIs, anyUnpack, type Any } from "@bufbuild/protobuf/wkt";
import { status, type ServiceError } from "@grpc/grpc-js";
import { seconds } from "./durations.js";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  RetryInfoSchema,
} from "./gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "./gen/google/rpc/status_pb.js";


/** What is wrong with one field of a request. */
export interface FieldViolation {
  /** Its path in the request, for example `spec.max_tokens`. */
  field: string;
  description: string;
}

export interface ErrorDetails {
  reason?: string;
  field?: string;
  fieldViolations?: readonly FieldViolation[];
  retryAfter?: number | undefined;
  metadata?: Readonly<Record<string, string>>;
  cause?: unknown;
}

/** Thrown when a call fails; every error of this package is one. */
export class BosalError extends Error {
  /** The server's machine-readable reason, for example `UNKNOWN_RECIPE`; "" if it gave none. */
  readonly reason: string;
  /** The path of the request field at fault, as the wire names it; "" if none is. */
  readonly field: string;
  readonly fieldViolations: readonly FieldViolation[];
  /** Seconds after which trying again makes sense; undefined if the server did not say. */
  readonly retryAfter: number | undefined;
  readonly metadata: Readonly<Record<string, string>>;

  constructor(message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = new.target.name;
    this.reason = details.reason ?? "";
    this.fieldViolations = details.fieldViolations ?? [];
    this.field = details.field ?? this.fieldViolations[0]?.field ?? "";
    this.retryAfter = details.retryAfter;
    this.metadata = details.metadata ?? {};
  }
}

/** Thrown when the server refuses the request as it stands. */
export class InvalidRequest extends BosalError {}

/** Thrown when a model, a recipe or a version of one is unknown to the server. */
export class NotFound extends BosalError {}

/** Thrown when the server has no room for the request now. */
export class Overloaded extends BosalError {}

/** Thrown when the server cannot be reached or is shutting down. */
export class Unavailable extends BosalError {}

/** Thrown when the call's timeout passed before its end. */
export class DeadlineExceeded extends BosalError {}

/** Thrown when the call was cancelled before its end; `cause` is an aborted signal's reason. */
export class Cancelled extends BosalError {}

/** Thrown when the server wants an API key and got none, a wrong one or an expired one. */
export class Unauthenticated extends BosalError {}

/** Thrown when the API key lacks the scope of what was asked. */
export class PermissionDenied extends BosalError {}

/** Thrown when this server lacks what was asked of it. */
export class Unimplemented extends BosalError {}

/** Thrown when the server failed while it worked on the request. */
export class InternalError extends BosalError {}

/** Thrown when an answer was cut off, or is not what it was to be. */
export class IncompleteAnswer extends BosalError {
  readonly text: string;

  constructor(message: string, text: string, cause?: unknown) {
    super(message, { reason: "INCOMPLETE_ANSWER", cause });
    this.text = text;
  }
}

const BY_CODE: ReadonlyMap<status, typeof BosalError> = new Map<status, typeof BosalError>([
  [status.INVALID_ARGUMENT, InvalidRequest],
  [status.FAILED_PRECONDITION, InvalidRequest],
  [status.OUT_OF_RANGE, InvalidRequest],
  [status.ALREADY_EXISTS, InvalidRequest],
  // What was read before has changed since.
  [status.ABORTED, InvalidRequest],
  [status.NOT_FOUND, NotFound],
  [status.RESOURCE_EXHAUSTED, Overloaded],
  [status.UNAVAILABLE, Unavailable],
  [status.DEADLINE_EXCEEDED, DeadlineExceeded],
  [status.CANCELLED, Cancelled],
  [status.UNAUTHENTICATED, Unauthenticated],
  [status.PERMISSION_DENIED, PermissionDenied],
  [status.UNIMPLEMENTED, Unimplemented],
]);

/** Say what is wrong with a field, before anything is sent. */
export function invalidField(field: string, why: string): InvalidRequest {
  return new InvalidRequest(`${field}: ${why}`, { reason: "INVALID_PARAMETER", field });
}

/** Say of a call that its client was closed before. */
export function clientClosed(): Unavailable {
  return new Unavailable("the client is closed", { reason: "CLIENT_CLOSED" });
}

/** Say of a call that it was given up here. */
export function cancelled(cause?: unknown): Cancelled {
  return new Cancelled("the call was cancelled", { cause });
}

/** Turn a gRPC error into this package's; `cause` is why the call was given up here. */
export function fromServiceError(error: ServiceError, cause?: unknown): BosalError {
  const details = statusDetails(error);
  const info = first(details, ErrorInfoSchema);
  const request = first(details, BadRequestSchema);
  const retry = first(details, RetryInfoSchema);
  let kind = BY_CODE.get(error.code) ?? InternalError;
  if (kind === Overloaded && !info?.reason) {
    // gRPC's own limits (message size, metadata size): the same request cannot succeed later.
    kind = InvalidRequest;
  }
  return new kind(error.details || `${status[error.code]}`.toLowerCase().replaceAll("_", " "), {
    reason: info?.reason ?? "",
    fieldViolations: (request?.fieldViolations ?? []).map(({ field, description }) => ({
      field,
      description,
    })),
    retryAfter: retry?.retryDelay && seconds(retry.retryDelay),
    metadata: { ...info?.metadata },
    cause,
  });
}

function first<Desc extends DescMessage>(
  details: readonly Any[],
  schema: Desc,
): MessageShape<Desc> | undefined {
  const found = details.find((detail) => anyIs(detail, schema));
  return found && anyUnpack(found, schema);
}

function statusDetails(error: ServiceError): readonly Any[] {
  const [encoded] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (!(encoded instanceof Uint8Array)) {
    return [];
  }
  try {
    return fromBinary(StatusSchema, encoded).details;
  } catch {
    // A proxy's, not this contract's.
    return [];
  }
}
