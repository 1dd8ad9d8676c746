import {
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceError,
  type sendUnaryData,
} from "@grpc/grpc-js";

const RAW = {
  requestStream: false,
  requestSerialize: (value: Buffer) => value,
  requestDeserialize: (bytes: Buffer) => bytes,
  responseSerialize: (value: Buffer) => value,
  responseDeserialize: (bytes: Buffer) => bytes,
};

/** A gRPC server in this process that answers with bytes, for what no real one does on demand. */
export class ToyServer {
  readonly #server = new Server();

  /** Answer a method with what `make` returns, or with the status that it throws. */
  answer(path: string, make: () => Uint8Array): void {
    const call = (_: ServerUnaryCall<Buffer, Buffer>, done: sendUnaryData<Buffer>) => {
      try {
        done(null, Buffer.from(make()));
      } catch (error) {
        done(error as ServiceError);
      }
    };
    this.#server.addService({ call: { ...RAW, path, responseStream: false } }, { call });
  }

  /** Answer a method with these messages, and then with an error if there is one. */
  stream(path: string, messages: readonly Uint8Array[], error?: Partial<ServiceError>): void {
    const call = (stream: ServerWritableStream<Buffer, Buffer>) => {
      messages.forEach((message) => stream.write(Buffer.from(message)));
      if (error) {
        stream.emit("error", error);
      } else {
        stream.end();
      }
    };
    this.#server.addService({ call: { ...RAW, path, responseStream: true } }, { call });
  }

  /** Begin to serve; returns where. */
  async address(credentials = ServerCredentials.createInsecure()): Promise<string> {
    return await new Promise((resolve, reject) => {
      this.#server.bindAsync("127.0.0.1:0", credentials, (error, port) =>
        error ? reject(error) : resolve(`127.0.0.1:${port}`),
      );
    });
  }

  close(): void {
    this.#server.forceShutdown();
  }
}
