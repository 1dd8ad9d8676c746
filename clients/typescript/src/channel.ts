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
  type ClientReadableStream,
  type Metadata,
  type ServiceError,
} from "@grpc/grpc-js";
import { checkBounds } from "./bounds.js";
import { deadline } from "./connection.js";
import { cancelled, clientClosed, fromServiceError } from "./errors.js";
import { Incoming, giveUp } from "./incoming.js";
import { Pause, Waits, checkedPatience } from "./patience.js";

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
  readonly #patience: number;
  readonly #running = new Set<Running>();
  #isClosed = false;

  constructor(
    server: string,
    credentials: ChannelCredentials,
    options: ChannelOptions,
    headers: Metadata,
    timeout: number | undefined,
    retrySeconds = 0,
  ) {
    deadline(timeout);
    this.#patience = checkedPatience(retrySeconds);
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
    const message = written(method.input, request);
    const callOptions = this.#callOptions(options);
    const waits = this.#waits(options);
    for (;;) {
      try {
        return await this.#asked(method, message, callOptions, options.signal);
      } catch (failure) {
        const pause = this.#pause(waits, failure, options.signal);
        if (pause === undefined) {
          throw failure;
        }
        if (!(await pause.over)) {
          throw cancelled(options.signal?.reason);
        }
      }
    }
  }

  /** Send a request and return the messages that answer it. */
  stream<Input extends DescMessage, Output extends DescMessage>(
    method: DescMethodServerStreaming<Input, Output>,
    request: MessageInitShape<Input>,
    options: CallOptions,
  ): Incoming<MessageShape<Output>> {
    const message = written(method.input, request);
    const callOptions = this.#callOptions(options);
    const waits = this.#waits(options);
    const { signal } = options;
    return new Incoming({
      begin: () => this.#opened(method, message, callOptions, signal),
      typed: (error: ServiceError) => fromServiceError(error, signal?.reason),
      pause: (failure) => this.#pause(waits, failure, signal),
      cancelled: () => cancelled(signal?.reason),
    });
  }

  /** Close the connection; running calls are cancelled. */
  close(): void {
    this.#isClosed = true;
    this.#running.forEach(giveUp);
    this.#client.close();
  }

  #asked<Input extends DescMessage, Output extends DescMessage>(
    method: DescMethodUnary<Input, Output>,
    message: MessageShape<Input>,
    callOptions: GrpcCallOptions,
    signal: AbortSignal | undefined,
  ): Promise<MessageShape<Output>> {
    this.#checkOpen(signal);
    return new Promise((resolve, reject) => {
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
            reject(fromServiceError(error, signal?.reason));
          } else {
            resolve(answer!);
          }
        },
      );
      const ended = this.#begun(call, signal);
    });
  }

  #opened<Input extends DescMessage, Output extends DescMessage>(
    method: DescMethodServerStreaming<Input, Output>,
    message: MessageShape<Input>,
    callOptions: GrpcCallOptions,
    signal: AbortSignal | undefined,
  ): ClientReadableStream<MessageShape<Output>> {
    this.#checkOpen(signal);
    const call = this.#client.makeServerStreamRequest<MessageShape<Input>, MessageShape<Output>>(
      path(method),
      (value) => Buffer.from(toBinary(method.input, value)),
      (bytes) => fromBinary(method.output, bytes),
      message,
      this.#headers.clone(),
      callOptions,
    );
    const ended = this.#begun(call, signal);
    return call.once("end", ended).once("error", ended);
  }

  #checkOpen(signal: AbortSignal | undefined): void {
    if (this.#isClosed) {
      throw clientClosed();
    }
    if (signal?.aborted) {
      throw cancelled(signal.reason);
    }
  }

  #waits(options: CallOptions): Waits {
    return new Waits(this.#patience, options.timeout ?? this.#timeout);
  }

  /** Begin to wait for a call's next try; undefined: there is none. */
  #pause(waits: Waits, failure: unknown, signal: AbortSignal | undefined): Pause | undefined {
    const seconds = waits.pause(failure);
    if (seconds === undefined) {
      return undefined;
    }
    this.#checkOpen(signal);
    const pause = new Pause(seconds);
    void pause.over.then(this.#begun(pause, signal));
    return pause;
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

function written<Desc extends DescMessage>(
  schema: Desc,
  request: MessageInitShape<Desc>,
): MessageShape<Desc> {
  const message = create(schema, request);
  checkBounds(schema, message);
  return message;
}

function path(method: DescMethodUnary | DescMethodServerStreaming): string {
  return `/${method.parent.typeName}/${method.name}`;
}
