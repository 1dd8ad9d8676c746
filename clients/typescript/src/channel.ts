/** Calls over gRPC: a request's message out, answers' messages in. */

import {
  create,
  fromBinary,
  toBinary,
  type DescMessage,
  type DescMethodServerStreaming,
  type DescMethodUnary,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import {
  Client as GrpcClient,
  type CallOptions as GrpcCallOptions,
  type ChannelCredentials,
  type ChannelOptions,
  type Metadata,
  type ServiceError,
} from "@grpc/grpc-js";
import { checkBounds } from "./bounds.js";
import { deadline } from "./connection.js";
import { cancelled, clientClosed, fromServiceError } from "./errors.js";
import { Incoming, giveUp } from "./incoming.js";

/** Options of every call. */
export interface CallOptions {
  /** Seconds after which the call is given up; left out, the client's. Infinity: never. */
  readonly timeout?: number | undefined;
  /** Aborting it cancels the call, on the server too. */
  readonly signal?: AbortSignal | undefined;
}

interface Running {
  cancel(): void;
}

/** A connection to one server. It is made when first needed, and again when it is lost. */
export class Channel {
  readonly #client: GrpcClient;
  readonly #headers: Metadata;
  readonly #timeout: number | undefined;
  readonly #running = new Set<Running>();
  #isClosed = false;

  constructor(
    server: string,
    credentials: ChannelCredentials,
    options: ChannelOptions,
    headers: Metadata,
    timeout: number | undefined,
  ) {
    deadline(timeout);
    this.#client = new GrpcClient(server, credentials, options);
    this.#headers = headers;
    this.#timeout = timeout;
  }

  /** Send a request and return its answer. */
  async unary<Input extends DescMessage, Output extends DescMessage>(
    method: DescMethodUnary<Input, Output>,
    request: MessageInitShape<Input>,
    options: CallOptions,
  ): Promise<MessageShape<Output>> {
    const message = this.#written(method.input, request, options);
    const callOptions = this.#callOptions(options);
    return await new Promise((resolve, reject) => {
      const call = this.#client.makeUnaryRequest<MessageShape<Input>, MessageShape<Output>>(
        path(method),
        (value) => Buffer.from(toBinary(method.input, value)),
        (bytes) => fromBinary(method.output, bytes),
        message,
        this.#headers.clone(),
        callOptions,
        (error, answer) => {
          ended();
          if (error) {
            reject(fromServiceError(error, options.signal?.reason));
          } else {
            resolve(answer!);
          }
        },
      );
      const ended = this.#begun(call, options.signal);
    });
  }

  /** Send a request and return the messages that answer it. */
  stream<Input extends DescMessage, Output extends DescMessage>(
    method: DescMethodServerStreaming<Input, Output>,
    request: MessageInitShape<Input>,
    options: CallOptions,
  ): Incoming<MessageShape<Output>> {
    const message = this.#written(method.input, request, options);
    const call = this.#client.makeServerStreamRequest<MessageShape<Input>, MessageShape<Output>>(
      path(method),
      (value) => Buffer.from(toBinary(method.input, value)),
      (bytes) => fromBinary(method.output, bytes),
      message,
      this.#headers.clone(),
      this.#callOptions(options),
    );
    const ended = this.#begun(call, options.signal);
    call.once("end", ended).once("error", ended);
    return new Incoming(call, (error: ServiceError) =>
      fromServiceError(error, options.signal?.reason),
    );
  }

  /** Close the connection; running calls are cancelled. */
  close(): void {
    this.#isClosed = true;
    this.#running.forEach(giveUp);
    this.#client.close();
  }

  #written<Desc extends DescMessage>(
    schema: Desc,
    request: MessageInitShape<Desc>,
    options: CallOptions,
  ): MessageShape<Desc> {
    const message = create(schema, request);
    checkBounds(schema, message);
    if (this.#isClosed) {
      throw clientClosed();
    }
    if (options.signal?.aborted) {
      throw cancelled(options.signal.reason);
    }
    return message;
  }

  #callOptions(options: CallOptions): GrpcCallOptions {
    const until = deadline(options.timeout ?? this.#timeout);
    return until === undefined ? {} : { deadline: until };
  }

  /** Let a call be cancelled from outside; returns what is to be done at its end. */
  #begun(call: Running, signal: AbortSignal | undefined): () => void {
    const cancel = () => giveUp(call);
    this.#running.add(call);
    signal?.addEventListener("abort", cancel, { once: true });
    return () => {
      this.#running.delete(call);
      signal?.removeEventListener("abort", cancel);
    };
  }
}

function path(method: DescMethodUnary | DescMethodServerStreaming): string {
  return `/${method.parent.typeName}/${method.name}`;
}
