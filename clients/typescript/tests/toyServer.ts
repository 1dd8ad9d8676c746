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

/** What a call asks for, and until when. */
export type ToyCall = ServerUnaryCall<Buffer, Buffer> | ServerWritableStream<Buffer, Buffer>;

/** A gRPC server in this process that answers with bytes, for what no real one does on demand. */
export class ToyServer {
  readonly #server = new Server();

  /** Answer a method with what `make` returns, or with the status that it throws. */
  answer(path: string, make: (call: ToyCall) => Uint8Array): void {
    const call = (call: ServerUnaryCall<Buffer, Buffer>, done: sendUnaryData<Buffer>) => {
      try {
        done(null, Buffer.from(make(call)));
      } catch (error) {
        done(error as ServiceError);
      }
    };
    this.#server.addService({ call: { ...RAW, path, responseStream: false } }, { call });
  }

  /** Answer a method with the messages that `make` yields, and then with the status it throws. */
  stream(path: string, make: (call: ToyCall) => Iterable<Uint8Array>): void {
    const call = (stream: ServerWritableStream<Buffer, Buffer>) => {
      try {
        for (const message of make(stream)) {
          stream.write(Buffer.from(message));
        }
        stream.end();
      } catch (error) {
        stream.emit("error", error);
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
